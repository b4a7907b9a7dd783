import { type Cluster, type LaunchOptions, launchCluster, type ShardHost, type ShardHosts } from '../../cluster/launch.js';
import { TerabagError } from '../../errors.js';
import type { Plan } from '../../plan/file/plan.js';
import { CpuLimits } from './cpu-limit.js';
import { HostNetwork, type NetworkCounters, type NetworkOptions } from './host-network.js';

/** Hosts of this machine that behave like machines of their own, one for each replica of a shard. */
export interface HostOptions {
  /** CPU of each shard, in percent of one core: 50 is half a core, 200 two. In shares of 10 ms, so that a shard over its share waits less. */
  readonly cpuPercent?: number;
  /** Each shard, and this process, in a network namespace of its own (this process: by one interface more), on a switch that delays and drops. */
  readonly network?: NetworkOptions;
}

/** Null, or why hosts of this kind cannot be emulated here. */
export interface EmulationSupport {
  readonly cpu: string | null;
  readonly network: string | null;
}

/** Tries whether hosts can be emulated here, with this process's privileges. What it makes for that is gone when it resolves. */
export async function emulationSupport(): Promise<EmulationSupport> {
  const reasonOf = (open: () => Promise<{ close(): Promise<void> }>): Promise<string | null> =>
    open().then(
      (opened) => opened.close().then(() => null),
      (error: unknown) => refusal(error),
    );
  const cpu = await reasonOf(() => CpuLimits.open(1, 50));
  return { cpu, network: await reasonOf(() => HostNetwork.open(1, { delayMs: 0 })) };
}

function refusal(error: unknown): string {
  const { message, code, path } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT' && path === 'nsenter') return 'there is no nsenter (Debian: apt-get install util-linux)';
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS' || /permitted|denied/i.test(message)) return `${message} (it needs root)`;
  return message;
}

const MAX_DELAY_MS = 60_000;
const MAX_CPU_PERCENT = 100_000;

function check(field: string, value: number, least: number, most: number): void {
  if (value >= least && value <= most) return;
  throw new TerabagError('invalid_argument', `${field} has to be between ${least} and ${most}: ${value}`, {
    field: `hosts.${field}`,
    value,
  });
}

function checkOptions({ cpuPercent, network }: HostOptions): void {
  if (cpuPercent !== undefined) check('cpuPercent', cpuPercent, 1, MAX_CPU_PERCENT);
  if (network === undefined) return;
  const { delayMs, jitterMs = 0, lossPercent = 0, seed = 1 } = network;
  check('network.delayMs', delayMs, 0, MAX_DELAY_MS);
  check('network.jitterMs', jitterMs, 0, delayMs);
  check('network.lossPercent', lossPercent, 0, 100);
  check('network.seed', Number.isInteger(seed) ? seed : Number.NaN, 0, 2 ** 32 - 1);
}

/** The hosts of a cluster's shards. */
export class EmulatedHosts implements ShardHosts {
  private constructor(
    private readonly limits: CpuLimits | null,
    private readonly network: HostNetwork | null,
  ) {}

  /** Rejects with invalid_argument, or with unsupported and the reason. */
  static async open(shards: number, options: HostOptions): Promise<EmulatedHosts> {
    checkOptions(options);
    const { cpuPercent, network } = options;
    const limits = cpuPercent === undefined ? null : await supported('cpu', CpuLimits.open(shards, cpuPercent));
    try {
      return new EmulatedHosts(limits, network === undefined ? null : await supported('network', HostNetwork.open(shards, network)));
    } catch (error) {
      await limits?.close();
      throw error;
    }
  }

  /** Whether shards listen on addresses of their own. */
  get addressed(): boolean {
    return this.network !== null;
  }

  host(shard: number): ShardHost {
    const { limits, network } = this;
    return {
      address: network?.address(shard + 1) ?? '127.0.0.1',
      command: network?.enter(shard + 1) ?? [],
      adopt: (pid) => limits?.adopt(shard, pid),
    };
  }

  async networkCounters(): Promise<NetworkCounters | null> {
    return (await this.network?.counters()) ?? null;
  }

  /** Removes the hosts; the processes on them have to have ended. */
  async close(): Promise<void> {
    await Promise.all([this.limits?.close(), this.network?.close()]);
  }
}

function supported<T>(what: keyof EmulationSupport, opened: Promise<T>): Promise<T> {
  return opened.catch((error: unknown) => {
    throw new TerabagError('unsupported', `hosts cannot be emulated here: ${what}: ${refusal(error)}`, { what }, { cause: error });
  });
}

export interface EmulatedLaunchOptions extends Omit<LaunchOptions, 'hosts'> {
  /**
   * Slower hosts, or hosts behind a network, which this machine alone reaches: shards then listen on free ports of their hosts' addresses.
   * Rejects (unsupported) where the system or this process's privileges do not allow that. Default: plain processes.
   */
  readonly hosts?: HostOptions;
}

export interface EmulatedCluster extends Cluster {
  /** What went over the emulated network so far; null without one. */
  networkCounters(): Promise<NetworkCounters | null>;
}

/** Launches the shards of a plan on emulated hosts of this machine. */
export async function launchOnHosts(plan: Plan, { hosts: wanted = {}, ...options }: EmulatedLaunchOptions): Promise<EmulatedCluster> {
  const hosts = await EmulatedHosts.open(plan.shards.flatMap(({ endpoints }) => endpoints).length, wanted);
  const cluster = await launchCluster(plan, { ...options, hosts });
  return {
    get plan() {
      return cluster.plan;
    },
    get shards() {
      return cluster.shards;
    },
    kill: (name, signal, replica) => cluster.kill(name, signal, replica),
    restart: (next) => cluster.restart(next),
    stop: () => cluster.stop(),
    networkCounters: () => hosts.networkCounters(),
  };
}
