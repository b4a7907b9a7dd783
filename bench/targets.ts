import { type Cluster, launchCluster } from '../src/cluster/launch.js';
import { shardCpuUs } from '../src/lab/load/process-meter.js';
import { summarize } from '../src/lab/report/quantiles.js';
import type { Plan } from '../src/plan/file/plan.js';
import { type LocalOptions, openLocal } from '../src/predictor/local.js';
import type { Predictor, PredictRequest } from '../src/predictor/predictor.js';
import { type ConnectOptions, connect, type ShardedPredictor } from '../src/predictor/sharded.js';

const DEADLINE_MS = 10_000;

/** Something that answers whole requests, in this process and maybe others. */
export interface Target {
  readonly name: string;
  readonly predictor: Predictor;
  /** CPU of all shard processes so far, us. */
  shardCpuUs(): Promise<number>;
  close(): Promise<void>;
}

export interface Round {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  /** Per request, of all processes. */
  readonly cpuMs: number;
}

/** One request at a time. */
export async function measure({ predictor, shardCpuUs }: Target, requests: readonly PredictRequest[]): Promise<Round> {
  const milliseconds: number[] = [];
  const shardsBefore = await shardCpuUs();
  const before = process.cpuUsage();
  for (const request of requests) {
    const startedAt = performance.now();
    await predictor.predict(request, { deadlineMs: DEADLINE_MS });
    milliseconds.push(performance.now() - startedAt);
  }
  const { user, system } = process.cpuUsage(before);
  const cpuUs = user + system + (await shardCpuUs()) - shardsBefore;
  const { p50, p90, p99 } = summarize(milliseconds);
  return { p50, p90, p99, cpuMs: cpuUs / 1000 / requests.length };
}

export async function openLocalTarget(bundle: string, options: LocalOptions = {}): Promise<Target> {
  const predictor = await openLocal(bundle, options);
  return { name: 'local', predictor, shardCpuUs: async () => 0, close: () => predictor.close() };
}

/** Shards of its own. */
export async function openShardedTarget(plan: Plan, bundle: string, options: Omit<ConnectOptions, 'bundle'> = {}): Promise<Target> {
  const cluster = await launchCluster(plan, { bundle, ephemeralPorts: true });
  try {
    const target = await connectTarget(`${plan.shards.length} shards`, cluster, { ...options, bundle });
    const close = async (): Promise<void> => {
      await target.close();
      await cluster.stop();
    };
    return { ...target, close };
  } catch (error) {
    await cluster.stop();
    throw error;
  }
}

/** Shards that others ask too. */
export async function connectTarget(name: string, cluster: Cluster, options: ConnectOptions): Promise<Target> {
  const predictor: ShardedPredictor = await connect(cluster.plan, options);
  return {
    name,
    predictor,
    shardCpuUs: () => shardCpuUs(predictor),
    close: () => predictor.close(),
  };
}
