export { type Cluster, type LaunchOptions, launchCluster, type RunningReplica, type ShardHost, type ShardHosts } from './cluster/launch.js';
export type { LogLevel } from './cluster/shard-task.js';
export type { ShardEvent } from './cluster/watch.js';
export { type KeyBlock, type KeyIndexOptions, type WrittenKeyIndex, writeKeyIndex } from './engine/key-index.js';
export type { Precision } from './engine/native.js';
export type { OnnxOptions } from './engine/onnx/onnx-net.js';
export type { Residency } from './engine/residency.js';
export { ERROR_CODES, type ErrorCode, type ErrorDetails, TerabagError } from './errors.js';
export { readModelSpec } from './model/bundle.js';
export type { Verify } from './model/bundle-files.js';
export type { PlainFormat, RowFormat } from './model/formats.js';
export type { ResolvedBag, ResolvedLayer, ResolvedModel, ResolvedOutput } from './model/graph.js';
export { modelHash } from './model/hash.js';
export type { BagRule, IdRule } from './model/id-rules.js';
export type { ResolvedOnnx, ResolvedOnnxInput, ResolvedOnnxLengths, ResolvedOnnxOutput } from './model/onnx/resolve-onnx.js';
export { type Model, openModel } from './model/open-model.js';
export type { ModelSpec } from './model/spec.js';
export type { UnseenPolicy, UnseenSpec } from './model/unseen.js';
export { BatchMeter } from './observe/batch-meter.js';
export { type ChromeTrace, chromeTrace, type TraceEvent } from './observe/chrome-trace.js';
export { PREDICTOR_COUNTERS, type PredictorStats } from './observe/counters.js';
export type { LatencySummary } from './observe/latency-histogram.js';
export { PredictorMeter } from './observe/predictor-meter.js';
export { type QuantileStacks, stacksAtQuantile } from './observe/quantile-stacks.js';
export { computeStack, type EmbeddedStack, embeddedStack, latencyStack, type Stack } from './observe/stacks.js';
export type { Interval, TracedJob, TracedPhase, TracedRequest, TracedRpc } from './observe/traced-request.js';
export { Tracer, type TracerOptions } from './observe/tracer.js';
export { KeptRows } from './pack/kept-rows.js';
export { type PackBundleOptions, type PackedTable, packBundle } from './pack/pack-bundle.js';
export type { Pruning } from './pack/prune-table.js';
export { type Plan, planHashOf, readPlan, writePlan } from './plan/file/plan.js';
export { type PublishedShard, type PublishOptions, publish } from './plan/file/publish/publish.js';
export { makePlan, type PlanOptions, STRATEGIES, type Strategy } from './plan/placement/strategies.js';
export { type Costs, readCosts, writeCosts } from './plan/predict/costs.js';
export { DEFAULT_COSTS } from './plan/predict/default-costs.js';
export type { Messages, Round, Timeline } from './plan/predict/latency.js';
export {
  type PlanPrediction,
  PlanPredictor,
  type PredictedShard,
  type PredictPlanOptions,
  predictPlan,
  type RequestShape,
} from './plan/predict/predict-plan.js';
export type { AskedRequest, AskedRound, PredictedRequest, RequestShard } from './plan/predict/predict-request.js';
export type { RpcMode, RpcOptions } from './plan/predict/rpc-mode.js';
export type { AskedTable, PlannedModel, Work } from './plan/predict/work.js';
export { type Profile, readProfile, type TableProfile, writeProfile } from './plan/profile/profile.js';
export { ProfileBuilder, type ProfiledBags, type ProfiledRequest } from './plan/profile/profile-builder.js';
export { profileFromSpec } from './plan/profile/profile-from-spec.js';
export { type Alternative, type AutoOptions, type AutoPlan, OBJECTIVES, type Objective, planAuto } from './plan/search/auto.js';
export { type LocalOptions, openLocal } from './predictor/local.js';
export type { ShardFailurePolicy } from './predictor/pipeline.js';
export type {
  BagsInput,
  Indices,
  Prediction,
  PredictOptions,
  Predictor,
  PredictorOptions,
  PredictRequest,
  Priority,
  Readiness,
} from './predictor/predictor.js';
export { requestFromJson } from './predictor/request-json.js';
export { type ConnectOptions, connect, type ShardedPredictor } from './predictor/sharded.js';
export type { ShardState } from './rpc/messages.js';
export { type ReplicaStats, SHARD_STATS, type ShardStats, type StatKind, type StatSpec, type StatValue } from './rpc/shard-stats.js';
export type { SecurityOptions } from './rpc/transport/security.js';
export type { ServedVersion } from './rpc/version.js';
export {
  type BatchingOptions,
  BatchingPredictor,
  type BatchingStats,
  type EndedRun,
} from './serve/batching/batching-predictor.js';
export type { TlsOptions } from './serve/security/tls.js';
export { type ServedPredictor, type ServeOptions, type ServingServer, serve } from './serve/serve.js';
export type { EndedRequest, Protocol } from './serve/serving.js';
