import { TerabagError } from '../../errors.js';
import { readModelSpec } from '../../model/bundle.js';
import { modelHash } from '../../model/hash.js';
import type { ModelSpec } from '../../model/spec.js';
import type { Tracer } from '../../observe/tracer.js';
import type { Plan } from '../../plan/file/plan.js';
import type { Profile } from '../../plan/profile/profile.js';
import { openLocal } from '../../predictor/local.js';
import type { Predictor } from '../../predictor/predictor.js';
import { type ConnectOptions, connect } from '../../predictor/sharded.js';
import { type HostOptions, launchOnHosts } from '../hosts/hosts.js';
import { type ShardCpu, shardCpuUs } from '../load/process-meter.js';
import { SplittingPredictor } from '../requests/split-request.js';
import { type Experiment, packedBundle } from './experiment.js';
import { planFor } from './plans.js';
import type { Setup } from './setup.js';
import { openTracer } from './tracing.js';

/** RPCs and bytes of messages since the predictor was opened. */
export interface RpcCounts {
  readonly rpcs: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** A predictor that is ready for a turn. */
export interface Ready {
  readonly predictor: Predictor;
  readonly shardCpu: ShardCpu | undefined;
  /** Null when there is nothing to call. */
  counts(): RpcCounts | null;
}

/** A setup with its shards running. */
export interface Stand {
  readonly setup: Setup;
  readonly spec: ModelSpec;
  readonly plan: Plan;
  readonly profile: Profile;
  /** Not enabled but for what is measured; null where requests are cut. */
  readonly tracer: Tracer | null;
  /** Runs work on the setup's predictor. Shards are only connected meanwhile: heartbeats to many idle ones would be noise for the others. */
  use<T>(work: (ready: Ready) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

/** Opens setups one after another, works on them, and closes them all, also when one does not open. */
export async function withStands<T>(
  setups: readonly Setup[],
  experiment: Experiment,
  work: (stands: readonly Stand[]) => Promise<T>,
): Promise<T> {
  const stands: Stand[] = [];
  try {
    for (const setup of setups) {
      if (experiment.signal.aborted) throw new TerabagError('aborted', 'the run was interrupted');
      stands.push(await openStand(setup, experiment));
    }
    return await work(stands);
  } finally {
    await Promise.all(stands.map((stand) => stand.close()));
  }
}

async function openStand(setup: Setup, experiment: Experiment): Promise<Stand> {
  const bundle = setup.rowFormat === 'as given' ? experiment.bundle : packedBundle(experiment.dir, setup.rowFormat);
  const spec = setup.rowFormat === 'as given' ? experiment.spec : await readModelSpec(bundle);
  const profile = { ...experiment.profile, model: { name: spec.name, version: spec.version, hash: modelHash(spec) } };
  const plan = planFor(setup.strategy, setup.shards, spec, profile);
  const opened = { setup, spec, plan, profile, tracer: openTracer(setup, tracedRequests(experiment)) };
  return setup.shards === 0 ? openSingular(opened, bundle, experiment) : openSharded(opened, bundle, experiment);
}

/** Those of all serial rounds; open-loop load keeps its latest ones. */
const tracedRequests = ({ requests, scale }: Experiment): number => requests.length * scale.rounds.strategies;

const PERCENT = 100;

type Opened = Omit<Stand, 'use' | 'close'>;

async function openSingular(opened: Opened, bundle: string, { residency, onWarning }: Experiment): Promise<Stand> {
  const whole = await openLocal(bundle, { verify: 'size', residency, onWarning, ...(opened.tracer && { trace: opened.tracer }) });
  const { batchItems } = opened.setup;
  const predictor = batchItems === null ? whole : new SplittingPredictor(whole, batchItems, opened.spec.dense);
  const ready: Ready = { predictor, shardCpu: undefined, counts: () => null };
  return { ...opened, use: (work) => work(ready), close: () => whole.close() };
}

async function openSharded(opened: Opened, bundle: string, { residency, signal }: Experiment): Promise<Stand> {
  const { rpc, batchItems, network, shardCpuLimit } = opened.setup;
  const hosts: HostOptions = {
    ...(shardCpuLimit !== null && { cpuPercent: shardCpuLimit * PERCENT }),
    ...(network !== null && { network: { delayMs: network.delayMs, lossPercent: network.loss * PERCENT } }),
  };
  const cluster = await launchOnHosts(opened.plan, {
    bundle,
    residency,
    verify: 'size',
    ephemeralPorts: true,
    restart: false,
    // Main warns of small pages already, once.
    logLevel: 'error',
    hosts,
    signal,
  });
  const options: ConnectOptions = {
    ...{ bundle, rpc: rpc ?? 'coalesced' },
    ...(batchItems !== null && { batchItems }),
    ...(opened.tracer && { trace: opened.tracer }),
  };
  return {
    ...opened,
    plan: cluster.plan,
    use: async (work) => {
      const predictor = await connect(cluster.plan, options);
      const ready = { predictor, shardCpu: () => shardCpuUs(predictor), counts: () => rpcCounts(predictor) };
      return work(ready).finally(() => predictor.close());
    },
    close: () => cluster.stop(),
  };
}

function rpcCounts(predictor: Predictor): RpcCounts {
  const { sent = 0, bytesSent = 0, bytesReceived = 0 } = predictor.stats();
  return { rpcs: sent, bytesSent, bytesReceived };
}
