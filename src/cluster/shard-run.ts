import { TerabagError } from '../errors.js';
import type { ShardReport, ShardTask } from './shard-task.js';
import type { ShardChild, Spawn } from './spawn.js';

export interface RunOptions {
  readonly spawn: Spawn;
  readonly task: ShardTask;
  readonly command: readonly string[];
  readonly readyMs: number;
  /** From being told to drain; a process that takes longer is killed. */
  readonly stopMs: number;
}

export interface RunHandlers {
  onReady(endpoint: string): void;
  /** It was asked to end, by others than this process. */
  onLeaving(): void;
  /** Once, last. */
  onExit(reason: string): void;
}

/** Something that happens once, or fails to. */
class Milestone {
  reach!: () => void;
  fail!: (error: TerabagError) => void;
  readonly reached = new Promise<void>((resolve, reject) => {
    this.reach = resolve;
    this.fail = reject;
  });

  constructor() {
    // Who waits hears of it; nobody has to.
    this.reached.catch(() => undefined);
  }
}

/** One process of a replica, from its start to its end. */
export class ShardRun {
  readonly #loaded = new Milestone();
  readonly #ready = new Milestone();
  readonly #ended = new Milestone();
  /** Why it says that it cannot serve. */
  refusal: TerabagError | null = null;
  #hasEnded = false;
  readonly #startedAt = performance.now();
  readonly #child: ShardChild;
  /** Until it is loaded, until it is ready, or until it has ended. */
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly options: RunOptions,
    handlers: RunHandlers,
  ) {
    this.#limitStart();
    this.#child = options.spawn(
      { task: options.task, command: options.command },
      { onReport: (report) => this.#report(report, handlers), onExit: (reason) => this.#exited(reason, handlers) },
    );
  }

  /** Resolves when it has its tables, on standby, or listens; rejects with its refusal, or when it ends or takes too long (shard_unavailable). */
  get loaded(): Promise<void> {
    return this.#loaded.reached;
  }

  /** Resolves when it listens; rejects likewise. */
  get ready(): Promise<void> {
    return this.#ready.reached;
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** How long it has run. */
  get ranMs(): number {
    return performance.now() - this.#startedAt;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Ends its standby. */
  listen(): void {
    this.#limitStart();
    this.#child.tell('listen');
  }

  /** It answers what it has, and ends; one that does not is killed. */
  drain(): Promise<void> {
    if (this.#hasEnded) return this.#ended.reached;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.kill('SIGKILL'), this.options.stopMs);
    this.#child.tell('drain');
    // Of a process that does not listen to the channel yet.
    this.kill('SIGTERM');
    return this.#ended.reached;
  }

  #unavailable(what: string): TerabagError {
    const { shard, replica } = this.options.task;
    return new TerabagError('shard_unavailable', what, { shard, replica });
  }

  #limitStart(): void {
    const { readyMs, task } = this.options;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#failed(this.#unavailable(`shard was not ready in ${readyMs} ms: ${task.shard}`));
      this.kill('SIGKILL');
    }, readyMs);
  }

  #failed(error: TerabagError): void {
    this.#loaded.fail(error);
    this.#ready.fail(error);
  }

  #report(report: ShardReport, { onReady, onLeaving }: RunHandlers): void {
    if (report.kind === 'leaving') {
      onLeaving();
      return;
    }
    clearTimeout(this.#timer);
    if (report.kind === 'refused') {
      const { shard, replica } = this.options.task;
      this.refusal = new TerabagError(report.code, report.message, { ...report.details, shard, replica });
      this.#failed(this.refusal);
      return;
    }
    if (report.kind === 'ready') {
      onReady(report.endpoint);
      this.#ready.reach();
    }
    this.#loaded.reach();
  }

  #exited(reason: string, { onExit }: RunHandlers): void {
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    onExit(reason);
    this.#failed(this.#unavailable(`shard ended before it was ready: ${this.options.task.shard}, ${reason}`));
    this.#ended.reach();
  }
}
