/** How long something may lie unused before it is dropped: after one to two of these. */
const PERIOD_MS = 10_000;

export interface IdlePoolOptions<T> {
  /** Asked of each idle item at the end of a period; default all are kept. */
  readonly keeps?: (item: T) => boolean;
  /** Told of items that are dropped. */
  readonly dropped?: (item: T) => void;
}

/**
 * Things that are lent and used again, the latest first. What lay unused through a whole period is dropped, so that a burst leaves no memory
 * behind: the low-water mark of a period says how many nobody needed.
 */
export class IdlePool<T> {
  /** The least recently used first. */
  readonly #idle: T[] = [];
  #lowWater = 0;
  /** While it holds something. */
  #timer: NodeJS.Timeout | null = null;
  readonly #keeps: (item: T) => boolean;
  readonly #dropped: (item: T) => void;

  constructor({ keeps = () => true, dropped = () => undefined }: IdlePoolOptions<T> = {}) {
    this.#keeps = keeps;
    this.#dropped = dropped;
  }

  get size(): number {
    return this.#idle.length;
  }

  take(): T | undefined {
    const item = this.#idle.pop();
    if (this.#idle.length < this.#lowWater) this.#lowWater = this.#idle.length;
    return item;
  }

  giveBack(item: T): void {
    this.#idle.push(item);
    this.#timer ??= setInterval(() => this.endPeriod(), PERIOD_MS).unref();
  }

  /** Drops all. */
  clear(): void {
    this.#drop(this.#idle.length);
    this.#stopWhenEmpty();
  }

  endPeriod(): void {
    this.#drop(this.#lowWater);
    const kept = this.#idle.splice(0);
    for (const item of kept) {
      if (this.#keeps(item)) this.#idle.push(item);
      else this.#dropped(item);
    }
    this.#lowWater = this.#idle.length;
    this.#stopWhenEmpty();
  }

  #drop(count: number): void {
    for (const item of this.#idle.splice(0, count)) this.#dropped(item);
    this.#lowWater = 0;
  }

  #stopWhenEmpty(): void {
    if (this.#idle.length > 0 || this.#timer === null) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }
}
