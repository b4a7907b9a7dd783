/** What a worker thread does: a word of shared memory. */
const IDLE = 0;
const RUNNING = 1;
const ENDED = 2;

/** How long the end of a process waits for a run; then it may abort. */
const MOST_WAIT_MS = 30_000;

/**
 * Says whether a worker thread is inside onnxruntime. onnxruntime-node aborts the process when the environment of its thread is torn down under a
 * run, as it is when a process ends: that has to wait. A worker begins as running, since it opens its session.
 */
export class RunFlag {
  readonly #word: Int32Array;

  constructor(readonly memory = new SharedArrayBuffer(4)) {
    this.#word = new Int32Array(memory);
  }

  /** In the worker: whether it may run; never again once the process ends. */
  enter(): boolean {
    return Atomics.compareExchange(this.#word, 0, IDLE, RUNNING) === IDLE;
  }

  /** In the worker, which is out of onnxruntime. */
  leave(): void {
    Atomics.store(this.#word, 0, IDLE);
    Atomics.notify(this.#word, 0);
  }

  /** Before the worker starts: it opens its session. */
  begin(): void {
    Atomics.store(this.#word, 0, RUNNING);
  }

  /** Blocks until the worker is out of onnxruntime, which it does not enter again. */
  end(): void {
    const until = performance.now() + MOST_WAIT_MS;
    while (Atomics.compareExchange(this.#word, 0, IDLE, ENDED) === RUNNING) {
      const leftMs = until - performance.now();
      if (leftMs <= 0) return;
      Atomics.wait(this.#word, 0, RUNNING, leftMs);
    }
  }
}

/** Of the workers that live. */
const flags = new Set<RunFlag>();
let watching = false;

/** Lets the end of this process wait for a worker's run, until the worker has ended. */
export function waitAtExit(flag: RunFlag): void {
  flags.add(flag);
  if (watching) return;
  watching = true;
  process.once('exit', () => {
    for (const each of flags) each.end();
  });
}

export const forget = (flag: RunFlag): void => void flags.delete(flag);
