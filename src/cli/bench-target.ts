import type { Residency } from '../engine/residency.js';
import { requestsOfSpec } from '../lab/generate/spec-requests.js';
import type { NetworkCounters } from '../lab/hosts/host-network.js';
import { type EmulatedCluster, launchOnHosts } from '../lab/hosts/hosts.js';
import { collectRequests } from '../lab/load/load-run.js';
import { type ShardCpu, shardCpuUs } from '../lab/load/process-meter.js';
import { requestsOfFile } from '../lab/requests/request-file.js';
import { SplittingPredictor } from '../lab/requests/split-request.js';
import { readModelSpec } from '../model/bundle.js';
import type { ModelSpec } from '../model/spec.js';
import { type Plan, readPlan } from '../plan/file/plan.js';
import type { RpcMode } from '../plan/predict/rpc-mode.js';
import { openLocal } from '../predictor/local.js';
import type { Predictor, PredictRequest } from '../predictor/predictor.js';
import { connect } from '../predictor/sharded.js';
import { type HostFlags, hostsOf } from './host-options.js';
import { withProgress } from './progress.js';
import { type SecurityFlags, securityOf } from './security-options.js';
import { warn } from './warn.js';

export interface TargetOptions extends HostFlags, SecurityFlags {
  readonly bundle: string;
  readonly plan?: string;
  readonly launch?: boolean;
  readonly rpc: RpcMode;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
}

/** What is put under load. */
export interface BenchTarget {
  readonly spec: ModelSpec;
  readonly strategy: string;
  readonly shards: number;
  readonly shardCpu: ShardCpu | undefined;
  /** Runs work on a predictor that cuts requests into batches of so many items; null: as a whole. */
  withBatches<T>(items: number | null, work: (predictor: Predictor) => Promise<T>): Promise<T>;
  /** What went over the emulated network; null without one. */
  networkCounters(): Promise<NetworkCounters | null>;
  close(): Promise<void>;
}

/** All tables in this process; or the shards of a plan, running already or launched here. */
export async function openTarget(options: TargetOptions, signal: AbortSignal): Promise<BenchTarget> {
  const spec = await readModelSpec(options.bundle);
  if (options.plan === undefined) return localTarget(spec, options);
  const plan = await readPlan(options.plan);
  if (!options.launch) return shardedTarget(spec, plan, options, { networkCounters: async () => null, stop: async () => undefined });
  const hosts = hostsOf(options);
  const { bundle, verify, residency } = options;
  const cluster = await launchOnHosts(plan, {
    bundle,
    verify,
    residency,
    signal,
    ephemeralPorts: true,
    restart: false,
    ...(hosts && { hosts }),
  });
  try {
    return await shardedTarget(spec, cluster.plan, options, cluster);
  } catch (error) {
    await cluster.stop();
    throw error;
  }
}

async function localTarget(spec: ModelSpec, { bundle, verify, residency }: TargetOptions): Promise<BenchTarget> {
  const predictor = await withProgress('reading tables', 'bytes', (onProgress) =>
    openLocal(bundle, { verify, residency, onProgress, onWarning: warn }),
  );
  return {
    ...{ spec, strategy: 'singular', shards: 0, shardCpu: undefined, networkCounters: async () => null },
    withBatches: (items, work) => work(items === null ? predictor : new SplittingPredictor(predictor, items, spec.dense)),
    close: () => predictor.close(),
  };
}

async function shardedTarget(
  spec: ModelSpec,
  plan: Plan,
  options: TargetOptions,
  cluster: Pick<EmulatedCluster, 'networkCounters' | 'stop'>,
): Promise<BenchTarget> {
  const { bundle, rpc } = options;
  const predictor = await connect(plan, { bundle, rpc, ...securityOf(options) });
  const withBatches: BenchTarget['withBatches'] = async (items, work) => {
    if (items === null) return work(predictor);
    if (rpc !== 'paper') return work(new SplittingPredictor(predictor, items, spec.dense));
    // The paper's kind cuts requests itself, and pools what is the user's once per batch as it does.
    const batching = await connect(plan, { bundle, rpc, batchItems: items, ...securityOf(options) });
    return work(batching).finally(() => batching.close());
  };
  return {
    ...{ spec, strategy: plan.strategy, shards: plan.shards.length, shardCpu: () => shardCpuUs(predictor), withBatches },
    networkCounters: () => cluster.networkCounters(),
    close: async () => {
      await predictor.close();
      await cluster.stop();
    },
  };
}

export interface RequestOptions {
  readonly requests?: string;
  readonly items: number;
  readonly seed: number;
  readonly distinct: number;
}

/** Requests of a file, or random ones that fit the model. */
export function loadRequests(spec: ModelSpec, { requests, items, seed, distinct }: RequestOptions): Promise<PredictRequest[]> {
  return collectRequests(requests === undefined ? requestsOfSpec(spec, { items, seed }) : requestsOfFile(requests), distinct);
}
