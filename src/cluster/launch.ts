import { constants } from 'node:os';
import { RESIDENCIES, type Residency } from '../engine/residency.js';
import { anObject, aPath, aSignal, oneOf, TerabagError } from '../errors.js';
import { VERIFIES } from '../model/bundle-files.js';
import { checkEndpoints, checkPlanShape, type Plan } from '../plan/file/plan.js';
import { checkSecurity, type SecurityOptions } from '../rpc/transport/security.js';
import { LOG_LEVELS, type LogLevel } from './shard-task.js';
import { type Spawn, spawnShard } from './spawn.js';
import { type ShardEvent, ShardWatcher } from './watch.js';

export interface LaunchOptions {
  /** Directory of the model, or what it was published to. */
  readonly bundle: string;
  /** What the shards log, as lines of JSON on stderr; default warn. */
  readonly logLevel?: LogLevel;
  /** Listen on free ports of loopback instead of the plan's endpoints. */
  readonly ephemeralPorts?: boolean;
  /** Where the processes run, in the order of Cluster.shards; closed when they have stopped. Default: as this process does, on loopback. */
  readonly hosts?: ShardHosts;
  /** Start a shard that crashed again, after a growing pause; default true. One that refuses what it is given (ShardEvent) is not. */
  readonly restart?: boolean;
  /** What is checked of the files at each start; default full. */
  readonly verify?: 'full' | 'size';
  /** How the shards hold their tables in memory; default populate. */
  readonly residency?: Residency;
  /** A shard that does not serve so long after its start is killed: it reads and checks its tables before. Default 300,000. */
  readonly readyMs?: number;
  /** How long shards that stop wait for requests in flight; default 3,000. */
  readonly drainMs?: number;
  /** Keys of the shards, and who may connect; default none, and then they listen on loopback or Unix sockets only. */
  readonly security?: SecurityOptions;
  /** Ends the launch: what was started is stopped, and the call rejects (aborted). Of no effect once all shards are ready. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: ShardEvent) => void;
}

/** What a shard's process is started with. */
export interface ShardHost {
  /** Where it listens. */
  readonly address: string;
  /** The words before its command line; none when it runs as this process does. */
  readonly command: readonly string[];
  /** Is told every process that is started for the shard. */
  adopt(pid: number): void;
}

export interface ShardHosts {
  /** Whether shards listen on free ports of addresses of their own, instead of the plan's endpoints. */
  readonly addressed: boolean;
  /** Of the process of this number, in the order of Cluster.shards. */
  host(process: number): ShardHost;
  /** The processes on them have ended. */
  close(): Promise<void>;
}

const LOOPBACK: ShardHost = { address: '127.0.0.1', command: [], adopt: () => undefined };
const HERE: ShardHosts = { addressed: false, host: () => LOOPBACK, close: async () => undefined };

/** The process of one replica of a shard. */
export interface RunningReplica {
  readonly name: string;
  /** Number among the shard's replicas, in the order of the plan's endpoints. */
  readonly replica: number;
  readonly pid: number;
  readonly endpoint: string;
}

export interface Cluster {
  /** The plan with the endpoints that the shards listen on. */
  readonly plan: Plan;
  /** Every replica of every shard, in the plan's order. */
  readonly shards: readonly RunningReplica[];
  /** Sends a signal to a replica of the shard; default the first. */
  kill(name: string, signal: NodeJS.Signals, replica?: number): void;
  /**
   * Replaces every process by another, one after the other, each when the one before is ready: for new keys, or a new version in the same place, of
   * which the plan may be given. While tables are in memory that processes share (not with residency lock or hugepages), the new one has read
   * them before the old one drains. Rejects with the first refusal: what was not replaced by then goes on as it is.
   */
  restart(plan?: Plan): Promise<void>;
  /** Drains and ends all processes, the last replicas of all shards first; those that do not end within drainMs and 2 s more are killed. Later calls end with the first. */
  stop(): Promise<void>;
}

const DEFAULT_READY_MS = 300_000;
const DEFAULT_DRAIN_MS = 3_000;
/** To close and exit, after a drain. */
const EXIT_MS = 2_000;
/** The longest time of a timer of Node's. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Launches every replica of every shard of the plan as a process on this machine, and restarts those that crash.
 * Rejects when one is not ready: with the shard's own error when it refuses what it is given (such as checksum_mismatch, model_mismatch,
 * does_not_fit; details.shard and details.replica say which), with shard_unavailable when it crashes or takes too long, with invalid_argument for options that
 * cannot be. What was started is stopped then.
 */
export const launchCluster = (plan: Plan, options: LaunchOptions): Promise<Cluster> => launchBy(spawnShard, plan, options);

/** launchCluster, with what starts processes. */
export async function launchBy(spawn: Spawn, plan: Plan, options: LaunchOptions): Promise<Cluster> {
  checkOptions(anObject('options', options));
  checkPlanShape(plan);
  checkEndpoints(plan);
  aPath('bundle', options.bundle);
  const { bundle, logLevel = 'warn', verify = 'full', residency = 'populate', restart = true, hosts = HERE } = options;
  const { readyMs = DEFAULT_READY_MS, drainMs = DEFAULT_DRAIN_MS, onEvent = () => undefined } = options;
  // Nobody but this machine reaches the addresses of emulated hosts.
  const security = hosts.addressed ? { insecure: true, ...options.security } : options.security;
  const freePorts = options.ephemeralPorts === true || hosts.addressed;
  const overlap = residency === 'map' || residency === 'populate';
  const replicas = plan.shards.flatMap(({ name, endpoints }) => endpoints.map((endpoint, replica) => ({ name, endpoint, replica })));
  const shards = replicas.map(({ name, endpoint, replica }, at) => {
    const host = hosts.host(at);
    const listenOn = freePorts ? `tcp://${host.address}:*` : endpoint;
    return new ShardWatcher({
      task: { plan, shard: name, replica, bundle, endpoint: listenOn, logLevel, verify, residency, drainMs, ...(security && { security }) },
      ...{
        spawn,
        command: host.command,
        restart,
        overlap,
        readyMs,
        stopMs: drainMs + EXIT_MS,
        onSpawned: (pid) => host.adopt(pid),
        onEvent,
      },
    });
  });
  const stopAll = async (): Promise<void> => {
    for (const shard of shards) shard.startNoMore();
    // Requests are answered until the last replicas end, which those of all shards do together: they need all shards.
    for (let replica = Math.max(0, ...shards.map((shard) => shard.replica)); replica >= 0; replica--)
      await Promise.all(shards.filter((shard) => shard.replica === replica).map((shard) => shard.stop()));
    await hosts.close();
  };
  let stopped: Promise<void> | null = null;
  const stop = (): Promise<void> => {
    stopped ??= stopAll();
    return stopped;
  };
  try {
    await unlessAborted(Promise.all(shards.map((shard) => shard.start())), options.signal);
  } catch (error) {
    await stop();
    throw error;
  }
  let current = plan;
  return {
    get plan() {
      return livePlan(current, shards);
    },
    get shards() {
      return shards.map(({ name, replica, pid, endpoint }) => ({ name, replica, pid, endpoint }));
    },
    kill: (name, signal, replica = 0) => {
      replicaOf(shards, name, replica).kill(oneOf('signal', signal, Object.keys(constants.signals) as NodeJS.Signals[]));
    },
    async restart(next = current) {
      checkSamePlaces(plan, next);
      for (const shard of shards) await shard.replace(next);
      current = next;
    },
    stop,
  };
}

/** Another plan of the same processes. */
function checkSamePlaces(plan: Plan, next: Plan): void {
  checkPlanShape(next);
  const places = ({ shards }: Plan): string => JSON.stringify(shards.map(({ name, endpoints }) => [name, endpoints]));
  if (places(plan) !== places(next))
    throw new TerabagError('bad_plan', 'a restart cannot change which shards there are, and where: the plan has other names or endpoints', {
      field: 'shards',
    });
}

/** The plan with the endpoints that its replicas listen on. */
const livePlan = (plan: Plan, replicas: readonly ShardWatcher[]): Plan => ({
  ...plan,
  shards: plan.shards.map(({ name }) => ({
    name,
    endpoints: replicas.filter((replica) => replica.name === name).map(({ endpoint }) => endpoint),
  })),
});

function replicaOf(shards: readonly ShardWatcher[], name: string, replica: number): ShardWatcher {
  const named = shards.filter((candidate) => candidate.name === name);
  const found = named.find((candidate) => candidate.replica === replica);
  if (found !== undefined) return found;
  const known = [...new Set(shards.map((shard) => shard.name))].join(', ') || 'none';
  throw new TerabagError(
    'invalid_argument',
    named.length === 0
      ? `no such shard: ${name}; the plan has ${known}`
      : `no such replica of shard ${name}, which has ${named.length}: ${replica}`,
    { field: named.length === 0 ? 'name' : 'replica', shard: name, replica },
  );
}

function checkOptions({ logLevel, verify, residency, readyMs, drainMs, security, signal }: LaunchOptions): void {
  if (security !== undefined) checkSecurity(security);
  aSignal('signal', signal);
  if (logLevel !== undefined) oneOf('logLevel', logLevel, LOG_LEVELS);
  if (verify !== undefined) oneOf('verify', verify, VERIFIES);
  if (residency !== undefined) oneOf('residency', residency, RESIDENCIES);
  const time = (field: string, value: unknown, least: number): void => {
    if (value === undefined || (typeof value === 'number' && value >= least && value <= MAX_TIMER_MS - EXIT_MS)) return;
    throw new TerabagError(
      'invalid_argument',
      `${field} has to be a number of milliseconds between ${least} and ${MAX_TIMER_MS - EXIT_MS}: ${String(value)}`,
      { field },
    );
  };
  time('readyMs', readyMs, 1);
  time('drainMs', drainMs, 0);
}

/** Settles as the start does, or rejects when the signal comes first. A signal that outlives the launch keeps nothing of it. */
function unlessAborted(started: Promise<unknown>, signal: AbortSignal | undefined): Promise<unknown> {
  if (signal == null) return started;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new TerabagError('aborted', 'the launch was aborted', {}, { cause: signal.reason }));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    started.finally(() => signal.removeEventListener('abort', onAbort)).then(resolve, reject);
  });
}
