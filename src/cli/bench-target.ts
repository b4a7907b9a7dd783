import { readFile } from 'node:fs/promises';
import { InvalidArgumentError } from 'commander';
import type { Residency } from '../engine/residency.js';
import { TerabagError } from '../errors.js';
import { RemotePredictor } from '../lab/endpoint/remote-predictor.js';
import { requestsOfSpec } from '../lab/generate/spec-requests.js';
import type { NetworkCounters } from '../lab/hosts/host-network.js';
import { type EmulatedCluster, launchOnHosts } from '../lab/hosts/hosts.js';
import { collectRequests, type LoadTarget } from '../lab/load/load-run.js';
import { type ShardCpu, shardCpuUs } from '../lab/load/process-meter.js';
import { requestsOfFile } from '../lab/requests/request-file.js';
import { type DenseFeatures, SplittingPredictor, splitRequest } from '../lab/requests/split-request.js';
import { readModelSpec } from '../model/bundle.js';
import type { ModelSpec } from '../model/spec.js';
import { type Plan, readPlan } from '../plan/file/plan.js';
import type { RpcMode } from '../plan/predict/rpc-mode.js';
import { openLocal } from '../predictor/local.js';
import type { PredictRequest } from '../predictor/predictor.js';
import { connect } from '../predictor/sharded.js';
import { type HostFlags, hostsOf } from './host-options.js';
import { withProgress } from './progress.js';
import { type SecurityFlags, securityOf } from './security-options.js';
import { warn } from './warn.js';

/** A served model, and which version of it; null: the server's choice. */
export interface ServedName {
  readonly name: string;
  readonly version: string | null;
}

export function servedModel(text: string): ServedName {
  const [, name = '', version = null] = /^([\w.-]+)(?::([\w.-]+))?$/.exec(text) ?? [];
  if (name === '') throw new InvalidArgumentError('It has to be NAME or NAME:VERSION.');
  return { name, version };
}

export interface TargetOptions extends HostFlags, SecurityFlags {
  readonly bundle?: string;
  readonly url?: string;
  readonly model?: ServedName;
  readonly tokenFile?: string;
  readonly plan?: string;
  readonly launch?: boolean;
  readonly rpc: RpcMode;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
}

/** What is put under load. */
export interface BenchTarget {
  /** singular: all tables in this process; remote: over HTTP; else that of the plan. */
  readonly strategy: string;
  readonly model: Pick<ModelSpec, 'name' | 'version'>;
  readonly dense: DenseFeatures;
  readonly shards: number;
  /** Of the shards' processes, or of the server's. */
  readonly shardCpu: ShardCpu | undefined;
  /** Runs work on a predictor that cuts requests into batches of so many items; null: as a whole. */
  withBatches<T>(items: number | null, work: (predictor: LoadTarget) => Promise<T>): Promise<T>;
  /** What went over the emulated network; null without one. */
  networkCounters(): Promise<NetworkCounters | null>;
  close(): Promise<void>;
}

/** A served model; all tables in this process; or the shards of a plan, running already or launched here. */
export async function openTarget(options: TargetOptions, signal: AbortSignal): Promise<BenchTarget> {
  const { bundle, url, model } = options;
  if (url !== undefined && model !== undefined) return remoteTarget(url, model, options);
  if (bundle === undefined) throw new TerabagError('invalid_argument', 'a bundle is needed where no model is served', { field: 'bundle' });
  return bundleTarget(bundle, options, signal);
}

/** Its latency, and what the server says of it, are those of whole requests as this process sends them. */
async function remoteTarget(url: string, { name, version }: ServedName, { tokenFile }: TargetOptions): Promise<BenchTarget> {
  const token = tokenFile === undefined ? undefined : (await readFile(tokenFile, 'utf8')).split('\n')[0]?.trim();
  const remote = await RemotePredictor.open({ url, model: name, version: version ?? undefined, token, timing: true });
  const { dense } = remote;
  const inPieces = (items: number): LoadTarget => ({
    predict: (request, options) => Promise.all(splitRequest(request, items, dense).map((piece) => remote.predict(piece, options))),
  });
  return {
    ...{ strategy: 'remote', model: { name, version: version ?? '' }, dense, shards: 0, networkCounters: async () => null },
    shardCpu: () => remote.cpuUs(),
    withBatches: (items, work) => work(items === null ? remote : inPieces(items)),
    close: async () => remote.close(),
  };
}

async function bundleTarget(bundle: string, options: TargetOptions, signal: AbortSignal): Promise<BenchTarget> {
  const spec = await readModelSpec(bundle);
  if (options.plan === undefined) return localTarget(spec, bundle, options);
  const plan = await readPlan(options.plan);
  if (!options.launch)
    return shardedTarget(spec, bundle, plan, options, { networkCounters: async () => null, stop: async () => undefined });
  const hosts = hostsOf(options);
  const { verify, residency } = options;
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
    return await shardedTarget(spec, bundle, cluster.plan, options, cluster);
  } catch (error) {
    await cluster.stop();
    throw error;
  }
}

async function localTarget(spec: ModelSpec, bundle: string, { verify, residency }: TargetOptions): Promise<BenchTarget> {
  const predictor = await withProgress('reading tables', 'bytes', (onProgress) =>
    openLocal(bundle, { verify, residency, onProgress, onWarning: warn }),
  );
  return {
    ...{ model: spec, dense: spec.dense, strategy: 'singular', shards: 0, shardCpu: undefined, networkCounters: async () => null },
    withBatches: (items, work) => work(items === null ? predictor : new SplittingPredictor(predictor, items, spec.dense)),
    close: () => predictor.close(),
  };
}

async function shardedTarget(
  spec: ModelSpec,
  bundle: string,
  plan: Plan,
  options: TargetOptions,
  cluster: Pick<EmulatedCluster, 'networkCounters' | 'stop'>,
): Promise<BenchTarget> {
  const { rpc } = options;
  const predictor = await connect(plan, { bundle, rpc, ...securityOf(options) });
  const withBatches: BenchTarget['withBatches'] = async (items, work) => {
    if (items === null) return work(predictor);
    if (rpc !== 'paper') return work(new SplittingPredictor(predictor, items, spec.dense));
    // The paper's kind cuts requests itself, and pools what is the user's once per batch as it does.
    const batching = await connect(plan, { bundle, rpc, batchItems: items, ...securityOf(options) });
    return work(batching).finally(() => batching.close());
  };
  return {
    ...{ model: spec, dense: spec.dense, strategy: plan.strategy, shards: plan.shards.length, withBatches },
    shardCpu: () => shardCpuUs(predictor),
    networkCounters: () => cluster.networkCounters(),
    close: async () => {
      await predictor.close();
      await cluster.stop();
    },
  };
}

export interface RequestOptions {
  readonly bundle?: string;
  readonly requests?: string;
  readonly items: number;
  readonly seed: number;
  readonly distinct: number;
}

/** Requests of a file, or random ones that fit the model of the bundle. */
export async function loadRequests({ bundle, requests, items, seed, distinct }: RequestOptions): Promise<PredictRequest[]> {
  if (requests !== undefined) return collectRequests(requestsOfFile(requests), distinct);
  if (bundle === undefined)
    throw new TerabagError('invalid_argument', 'requests, or a bundle that they fit, are needed', { field: 'requests' });
  return collectRequests(requestsOfSpec(await readModelSpec(bundle), { items, seed }), distinct);
}
