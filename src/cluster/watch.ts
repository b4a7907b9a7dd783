import { TerabagError } from '../errors.js';
import { RestartPolicy } from './restart-policy.js';
import { isPermanent, type ShardReport, type ShardTask } from './shard-task.js';
import type { ShardChild, Spawn } from './spawn.js';

export interface ShardEvent {
  readonly shard: string;
  /** Number among the shard's replicas, in the order of the plan's endpoints. */
  readonly replica: number;
  /** refused: the shard's process says that it cannot serve what it is given, and is not started again. */
  readonly what: 'ready' | 'exited' | 'restarting' | 'refused';
  readonly detail: string;
  /** The refusal, when refused. */
  readonly error?: TerabagError;
}

export interface WatchOptions {
  readonly spawn: Spawn;
  /** What the shard is started with; it gets the port it found when it is started again. */
  readonly task: ShardTask;
  readonly command: readonly string[];
  readonly restart: boolean;
  readonly readyMs: number;
  /** After SIGTERM; a process that takes longer is killed. */
  readonly stopMs: number;
  readonly onSpawned: (pid: number) => void;
  readonly onEvent: (event: ShardEvent) => void;
}

/** Starts a shard's process, and starts it again when it crashes. */
export class ShardWatcher {
  readonly name: string;
  readonly replica: number;
  #endpoint: string;
  #child: ShardChild | null = null;
  #lastPid = 0;
  #stopping = false;
  #wasReady = false;
  #restartTimer: NodeJS.Timeout | null = null;
  #ended: (() => void) | null = null;
  readonly #policy = new RestartPolicy();

  constructor(private readonly options: WatchOptions) {
    this.name = options.task.shard;
    this.replica = options.task.replica;
    this.#endpoint = options.task.endpoint;
  }

  /** Where it listens, once it was ready. */
  get endpoint(): string {
    return this.#endpoint;
  }

  /** Process id of the last one that was started. */
  get pid(): number {
    return this.#lastPid;
  }

  /** Resolves when the shard listens; rejects with its refusal, or (shard_unavailable) when it ends or readyMs pass before. Called once. */
  start(): Promise<void> {
    return this.#start();
  }

  #start(): Promise<void> {
    const { spawn, task, command, readyMs, onSpawned } = this.options;
    const { name, replica } = this;
    const startedAt = performance.now();
    return new Promise((resolve, reject) => {
      let refused: TerabagError | null = null;
      const unavailable = (what: string): TerabagError => new TerabagError('shard_unavailable', what, { shard: name, replica });
      const timer = setTimeout(() => {
        reject(unavailable(`shard was not ready in ${readyMs} ms: ${name}`));
        this.#child?.kill('SIGKILL');
      }, readyMs);
      const onReport = (report: ShardReport): void => {
        clearTimeout(timer);
        if (report.kind === 'ready') {
          this.#endpoint = report.endpoint;
          this.#wasReady = true;
          this.#tell('ready', report.endpoint);
          resolve();
          return;
        }
        refused = new TerabagError(report.code, report.message, { ...report.details, shard: name, replica });
        reject(refused);
      };
      const onExit = (reason: string): void => {
        clearTimeout(timer);
        this.#child = null;
        this.#tell('exited', reason);
        reject(unavailable(`shard ended before it was ready: ${name}, ${reason}`));
        this.#ended?.();
        if (refused !== null && isPermanent(refused)) this.#tell('refused', `${refused.message} (${refused.code})`, refused);
        else this.#restartLater(performance.now() - startedAt);
      };
      this.#child = spawn({ task: { ...task, endpoint: this.#endpoint }, command }, { onReport, onExit });
      this.#lastPid = this.#child.pid;
      if (this.#lastPid !== 0) onSpawned(this.#lastPid);
    });
  }

  /** When a launch fails, nothing is started again. */
  #restartLater(ranMs: number): void {
    if (this.#stopping || !this.#wasReady || !this.options.restart) return;
    const pauseMs = this.#policy.pauseMs(ranMs);
    this.#tell('restarting', `in ${pauseMs} ms`);
    this.#restartTimer = setTimeout(() => {
      // A failed start ends in onExit, which decides what follows.
      this.#start().catch(() => undefined);
    }, pauseMs);
  }

  #tell(what: ShardEvent['what'], detail: string, error?: TerabagError): void {
    this.options.onEvent({ shard: this.name, replica: this.replica, what, detail, ...(error && { error }) });
  }

  kill(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Resolves when its process has ended: after its drain, or killed. Called once. */
  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    const child = this.#child;
    if (child === null) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => child.kill('SIGKILL'), this.options.stopMs);
      this.#ended = () => {
        clearTimeout(timer);
        resolve();
      };
      child.kill('SIGTERM');
    });
  }
}
