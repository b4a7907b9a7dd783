export { type Cluster, type LaunchOptions, launchCluster } from './cluster/launch.js';
export type { Residency } from './engine/residency.js';
export { type ErrorCode, type ErrorDetails, TerabagError } from './errors.js';
export { type PackBundleOptions, type PackedTable, packBundle } from './pack/pack-bundle.js';
export { planCapacityBalanced } from './plan/capacity-balanced.js';
export { type Plan, readPlan, writePlan } from './plan/plan.js';
export { type LocalOptions, openLocal } from './predictor/local.js';
export type { BagsInput, Prediction, PredictOptions, Predictor, PredictRequest } from './predictor/predictor.js';
export { type ConnectOptions, connect, type ShardedPredictor } from './predictor/sharded.js';
