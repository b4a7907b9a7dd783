/** What happens at a time. */
export interface Due {
  readonly at: number;
  readonly order: number;
  /** Null when it was cancelled, or has happened. */
  call: (() => void) | null;
}

/** Steps that are handed to Node's event loop at once. Node runs microtasks, and looks for unhandled rejections, after each of them. */
const STEPS = 256;

/** Of Node: simulated processes are kept from it. */
const { setImmediate: nextTurn } = globalThis;

const before = (one: Due, other: Due): boolean => one.at < other.at || (one.at === other.at && one.order < other.order);

/**
 * Virtual time, and all that happens in it: one step after another, each at its time, those of one time in the order in which they were scheduled.
 * A step is a macrotask of its own, so that promises settle between steps as they do between callbacks of an event loop.
 */
export class Scheduler {
  /** ms. */
  now = 0;
  steps = 0;
  #order = 0;
  readonly #heap: Due[] = [];

  /** beforeStep: called before each. */
  constructor(private readonly beforeStep: () => void = () => undefined) {}

  at(at: number, call: () => void): Due {
    const due = { at: Math.max(at, this.now), order: this.#order++, call };
    this.#push(due);
    return due;
  }

  /** Runs steps until one of them ends it, or there are none. Rejects with what a step throws. */
  run(ended: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      let over = false;
      const run = (): void => {
        if (over) return;
        try {
          over = ended() || !this.#step();
          if (over) resolve();
        } catch (error) {
          over = true;
          reject(error);
        }
      };
      const plan = (): void => {
        // What else runs in this process, between two turns of the event loop, is not part of a step.
        this.beforeStep();
        if (over) return;
        for (let step = 0; step < STEPS; step++) nextTurn(run);
        nextTurn(plan);
      };
      plan();
    });
  }

  /** False when nothing is left. */
  #step(): boolean {
    for (;;) {
      const due = this.#pop();
      if (due === null) return false;
      const { call, at } = due;
      if (call === null) continue;
      this.now = at;
      this.steps++;
      due.call = null;
      this.beforeStep();
      call();
      return true;
    }
  }

  #push(due: Due): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(due);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(due, heap[parent] as Due)) break;
      heap[at] = heap[parent] as Due;
      at = parent;
    }
    heap[at] = due;
  }

  #pop(): Due | null {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return null;
    if (heap.length > 0) this.#sink(last);
    return first;
  }

  #sink(due: Due): void {
    const heap = this.#heap;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1] as Due, heap[child] as Due)) child++;
      if (before(due, heap[child] as Due)) break;
      heap[at] = heap[child] as Due;
      at = child;
    }
    heap[at] = due;
  }
}
