import { type ChildProcess, fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Residency } from '../engine/residency.js';
import { TerabagError } from '../errors.js';
import { type Plan, writePlan } from '../plan/file/plan.js';
import { compiledPath } from './compiled-path.js';

export interface LaunchOptions {
  readonly bundle: string;
  readonly logLevel?: string;
  /** Listen on free ports of loopback instead of the plan's endpoints. */
  readonly ephemeralPorts?: boolean;
  /** Where the shards run, in the plan's order; closed when they have stopped. Default: as this process does, on loopback. */
  readonly hosts?: ShardHosts;
  /** Start a shard that dies again, after a growing pause; default true. */
  readonly restart?: boolean;
  readonly verify?: 'full' | 'size';
  /** How the shards hold their tables in memory; default populate. */
  readonly residency?: Residency;
  /** Ends the launch: what was started is stopped, and the call rejects (aborted). Of no effect once all shards are ready. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: { readonly shard: string; readonly what: 'ready' | 'exited' | 'restarting'; readonly detail: string }) => void;
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
  host(shard: number): ShardHost;
  /** The processes on them have ended. */
  close(): Promise<void>;
}

const LOOPBACK: ShardHost = { address: '127.0.0.1', command: [], adopt: () => undefined };
const HERE: ShardHosts = { addressed: false, host: () => LOOPBACK, close: async () => undefined };

export interface Cluster {
  /** The plan with the endpoints that the shards listen on. */
  readonly plan: Plan;
  readonly shards: readonly { readonly name: string; readonly pid: number; readonly endpoint: string }[];
  kill(name: string, signal: NodeJS.Signals): void;
  /** Drains and ends all shards; those that do not end in 5 s are killed. */
  stop(): Promise<void>;
}

const READY_MS = 300_000;
const STOP_MS = 5_000;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
const HEALTHY_MS = 10_000;

/** Launches every shard of the plan as a process on this machine, and watches them. */
export async function launchCluster(plan: Plan, options: LaunchOptions): Promise<Cluster> {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-'));
  const planPath = join(dir, 'plan.json');
  const { hosts = HERE } = options;
  await writePlan(planPath, plan).catch(async (error: unknown) => {
    await rm(dir, { recursive: true, force: true });
    throw error;
  });
  const freePorts = options.ephemeralPorts === true || hosts.addressed;
  const shards = plan.shards.map(({ name, endpoints }, at) => {
    const host = hosts.host(at);
    return new ShardProcess(name, freePorts ? `tcp://${host.address}:*` : (endpoints[0] ?? ''), planPath, host, options);
  });
  const stop = async (): Promise<void> => {
    await Promise.all(shards.map((shard) => shard.stop()));
    await Promise.all([hosts.close(), rm(dir, { recursive: true, force: true })]);
  };
  try {
    await unlessAborted(Promise.all(shards.map((shard) => shard.start())), options.signal);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    plan: { ...plan, shards: shards.map(({ name, endpoint }) => ({ name, endpoints: [endpoint] })) },
    get shards() {
      return shards.map(({ name, pid, endpoint }) => ({ name, pid, endpoint }));
    },
    kill: (name, signal) => {
      const shard = shards.find((candidate) => candidate.name === name);
      if (shard === undefined) throw new TerabagError('invalid_argument', `no such shard: ${name}`);
      shard.kill(signal);
    },
    stop,
  };
}

/** Settles as the start does, or rejects when the signal comes first. A signal that outlives the launch keeps nothing of it. */
function unlessAborted(started: Promise<unknown>, signal: AbortSignal | undefined): Promise<unknown> {
  if (signal === undefined) return started;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new TerabagError('aborted', 'the launch was aborted', {}, { cause: signal.reason }));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    started.finally(() => signal.removeEventListener('abort', onAbort)).then(resolve, reject);
  });
}

class ShardProcess {
  #child: ChildProcess | null = null;
  #stopping = false;
  #pauseMs = FIRST_PAUSE_MS;
  #restartTimer: NodeJS.Timeout | null = null;

  constructor(
    readonly name: string,
    public endpoint: string,
    private readonly planPath: string,
    private readonly host: ShardHost,
    private readonly options: LaunchOptions,
  ) {}

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Resolves when the shard listens; rejects when it ends before. */
  start(): Promise<void> {
    const { bundle, logLevel = 'warn', verify = 'full', residency = 'populate' } = this.options;
    const [execPath = process.execPath, ...execArgv] = [...this.host.command, process.execPath];
    const child = fork(
      compiledPath('cli/main.js'),
      [
        'shard',
        this.planPath,
        '--name',
        this.name,
        '--bundle',
        bundle,
        '--listen',
        this.endpoint,
        '--log-level',
        logLevel,
        '--verify',
        verify,
        '--residency',
        residency,
      ],
      {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        execPath,
        execArgv,
      },
    );
    this.#child = child;
    if (child.pid !== undefined) this.host.adopt(child.pid);
    const startedAt = performance.now();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        child.kill('SIGKILL');
        reject(new TerabagError('shard_unavailable', `shard was not ready in ${READY_MS / 1000} s: ${this.name}`, { shard: this.name }));
      }, READY_MS);
      child.on('message', (message: { ready?: boolean; endpoint?: string }) => {
        if (message.ready !== true || message.endpoint === undefined) return;
        clearTimeout(timer);
        this.endpoint = message.endpoint;
        this.options.onEvent?.({ shard: this.name, what: 'ready', detail: message.endpoint });
        resolve();
      });
      child.once('error', (error) => {
        clearTimeout(timer);
        reject(TerabagError.from(error));
      });
      child.once('exit', (code, signal) => {
        clearTimeout(timer);
        const detail = signal ?? `code ${code}`;
        this.options.onEvent?.({ shard: this.name, what: 'exited', detail });
        reject(new TerabagError('shard_unavailable', `shard ended before it was ready: ${this.name}, ${detail}`, { shard: this.name }));
        if (performance.now() - startedAt > HEALTHY_MS) this.#pauseMs = FIRST_PAUSE_MS;
        if (this.endpoint.endsWith('*')) return;
        this.#restartLater();
      });
    });
  }

  #restartLater(): void {
    if (this.#stopping || this.options.restart === false) return;
    this.options.onEvent?.({ shard: this.name, what: 'restarting', detail: `in ${this.#pauseMs} ms` });
    this.#restartTimer = setTimeout(() => {
      // A failed start ends in the exit handler, which tries again.
      this.start().catch(() => undefined);
    }, this.#pauseMs);
    this.#pauseMs = Math.min(LONGEST_PAUSE_MS, this.#pauseMs * 2);
  }

  kill(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    const child = this.#child;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      child.once('exit', () => {
        clearTimeout(timer);
        resolve();
      });
      child.kill('SIGTERM');
    });
  }
}
