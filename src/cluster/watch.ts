import { TerabagError } from '../errors.js';
import type { Plan } from '../plan/file/plan.js';
import { RestartPolicy } from './restart-policy.js';
import { ShardRun } from './shard-run.js';
import { isPermanent, type ShardTask } from './shard-task.js';
import type { Spawn } from './spawn.js';

export interface ShardEvent {
  readonly shard: string;
  /** Number among the shard's replicas, in the order of the plan's endpoints. */
  readonly replica: number;
  /**
   * refused: the shard's process says that it cannot serve what it is given, and is not started again. replacing: a process that serves is to be
   * followed by another.
   */
  readonly what: 'ready' | 'exited' | 'restarting' | 'replacing' | 'refused';
  readonly detail: string;
  /** The refusal, when refused. */
  readonly error?: TerabagError;
}

export interface WatchOptions {
  readonly spawn: Spawn;
  /** What the shard is started with; it gets the port it found when it is started again. */
  readonly task: Omit<ShardTask, 'standby' | 'successorMs'>;
  readonly command: readonly string[];
  readonly restart: boolean;
  /** Whether a successor loads its tables while its predecessor serves: where they share memory. */
  readonly overlap: boolean;
  readonly readyMs: number;
  /** From being told to drain; a process that takes longer is killed. */
  readonly stopMs: number;
  readonly onSpawned: (pid: number) => void;
  readonly onEvent: (event: ShardEvent) => void;
}

/** Starts a replica's process, starts it again when it crashes, and replaces it. */
export class ShardWatcher {
  readonly name: string;
  readonly replica: number;
  #plan: Plan;
  #endpoint: string;
  /** The process that serves, or is to. */
  #current: ShardRun | null = null;
  /** On standby, or on its way there: listens when the current one has ended. */
  #next: ShardRun | null = null;
  #lastPid = 0;
  #stopping = false;
  #wasReady = false;
  /** Whether the end of the process starts another. */
  #startsAnew = true;
  #restartTimer: NodeJS.Timeout | null = null;
  readonly #policy = new RestartPolicy();

  constructor(private readonly options: WatchOptions) {
    this.name = options.task.shard;
    this.replica = options.task.replica;
    this.#plan = options.task.plan;
    this.#endpoint = options.task.endpoint;
  }

  /** Where it listens, once it was ready. */
  get endpoint(): string {
    return this.#endpoint;
  }

  /** Of the process that serves, or is to; of the last one when there is none. */
  get pid(): number {
    return this.#current?.pid ?? this.#lastPid;
  }

  /** Resolves when the shard listens; rejects with its refusal, or (shard_unavailable) when it ends or readyMs pass before. Called once. */
  async start(): Promise<void> {
    if (this.#stopping) throw new TerabagError('closed', `the shard is being stopped: ${this.name}`, { shard: this.name });
    this.#current = this.#run({ standby: false });
    await this.#current.ready;
  }

  /**
   * Replaces the process by another, with this plan; resolves when that is ready. Where they share memory, it is ready to listen before its
   * predecessor drains, and one that refuses leaves its predecessor as it is.
   */
  async replace(plan: Plan): Promise<void> {
    const before = this.#plan;
    this.#plan = plan;
    try {
      await this.#replace();
    } catch (error) {
      this.#plan = before;
      throw error;
    }
  }

  async #replace(): Promise<void> {
    this.#cancelRestart();
    const current = this.#current;
    if (current === null) return this.start();
    await current.ready;
    this.#tell('replacing', 'by a new process');
    if (!this.options.overlap) {
      this.#startsAnew = false;
      await current.drain();
      this.#startsAnew = true;
      return this.start();
    }
    const next = this.#successor();
    await next.loaded;
    void current.drain();
    await next.ready;
  }

  #successor(): ShardRun {
    this.#next ??= this.#run({ standby: true });
    return this.#next;
  }

  #run({ standby }: { readonly standby: boolean }): ShardRun {
    const { spawn, task, command, readyMs, stopMs, onSpawned } = this.options;
    const given = { ...task, plan: this.#plan, endpoint: this.#endpoint, standby, successorMs: readyMs };
    const run: ShardRun = new ShardRun(
      { spawn, task: given, command, readyMs, stopMs },
      {
        onReady: (endpoint) => {
          this.#endpoint = endpoint;
          this.#wasReady = true;
          this.#tell('ready', endpoint);
        },
        onLeaving: () => this.#leaving(run),
        onExit: (reason) => this.#exited(run, reason),
      },
    );
    this.#lastPid = run.pid;
    if (run.pid !== 0) onSpawned(run.pid);
    return run;
  }

  /** Somebody asked the process to end: it serves until its successor can, if there is to be one. */
  #leaving(run: ShardRun): void {
    if (this.#stopping || !this.options.restart || !this.options.overlap) return void run.drain();
    this.#tell('replacing', 'it was asked to end');
    const drain = (): void => void run.drain();
    this.#successor().loaded.then(drain, drain);
  }

  #exited(run: ShardRun, reason: string): void {
    this.#tell('exited', reason);
    if (run === this.#next) {
      this.#next = null;
      return;
    }
    this.#current = this.#next;
    this.#next = null;
    if (this.#current !== null) {
      if (!this.#stopping) this.#current.listen();
      return;
    }
    const { refusal } = run;
    if (refusal !== null && isPermanent(refusal)) this.#tell('refused', `${refusal.message} (${refusal.code})`, refusal);
    else this.#restartLater(run.ranMs);
  }

  /** When a launch fails, nothing is started again. */
  #restartLater(ranMs: number): void {
    if (this.#stopping || !this.#startsAnew || !this.#wasReady || !this.options.restart) return;
    const pauseMs = this.#policy.pauseMs(ranMs);
    this.#tell('restarting', `in ${pauseMs} ms`);
    this.#restartTimer = setTimeout(() => {
      this.#restartTimer = null;
      // A failed start ends in #exited, which decides what follows.
      this.#current = this.#run({ standby: false });
    }, pauseMs);
  }

  #cancelRestart(): void {
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    this.#restartTimer = null;
  }

  #tell(what: ShardEvent['what'], detail: string, error?: TerabagError): void {
    this.options.onEvent({ shard: this.name, replica: this.replica, what, detail, ...(error && { error }) });
  }

  /** Of the process that serves, or is to. */
  kill(signal: NodeJS.Signals): void {
    this.#current?.kill(signal);
  }

  /** From here on nothing is started again. */
  startNoMore(): void {
    this.#stopping = true;
    this.#cancelRestart();
  }

  /** Resolves when its processes have ended: after their drain, or killed. */
  async stop(): Promise<void> {
    this.startNoMore();
    await Promise.all([this.#next?.drain(), this.#current?.drain()]);
  }
}
