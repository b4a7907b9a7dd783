import type { Clock } from '../clock.js';

/** One line at once, and then at most one in so long. */
const INTERVAL_MS = 10_000;

/** Logs what may happen thousands of times a second: the first at once, and those of each interval after it in one line with their count. */
export class AggregatedLog {
  #count = 0;
  #reason = '';
  #cancel: (() => void) | null = null;

  constructor(
    private readonly clock: Clock,
    private readonly log: (fields: { readonly count: number; readonly reason: string }) => void,
  ) {}

  add(reason: string): void {
    if (this.#cancel === null) {
      this.log({ count: 1, reason });
      this.#cancel = this.clock.after(INTERVAL_MS, () => this.#next(), 'background');
    } else {
      this.#count++;
      this.#reason = reason;
    }
  }

  /** Logs what is not logged yet. */
  flush(): void {
    this.#cancel?.();
    this.#cancel = null;
    if (this.#count > 0) this.log({ count: this.#count, reason: this.#reason });
    this.#count = 0;
  }

  #next(): void {
    const any = this.#count > 0;
    this.flush();
    if (any) this.#cancel = this.clock.after(INTERVAL_MS, () => this.#next(), 'background');
  }
}
