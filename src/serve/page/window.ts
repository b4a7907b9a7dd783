/** Counters as they were over the latest seconds, and what they rose by. */
export class RateWindow {
  #kept: { readonly at: number; readonly counters: ReadonlyMap<string, number> }[] = [];

  constructor(private readonly lengthMs: number) {}

  /** at: performance.now(). */
  push(at: number, counters: ReadonlyMap<string, number>): void {
    this.#kept.push({ at, counters });
    // One that is older stays: rates are over the whole window.
    while (this.#kept.length > 2 && (this.#kept[1]?.at ?? at) <= at - this.lengthMs) this.#kept.shift();
  }

  /** Per second; 0 before there are two, and of counters that began anew. */
  rate(name: string): number {
    const [first] = this.#kept;
    const last = this.#kept.at(-1);
    if (first === undefined || last === undefined || last.at <= first.at) return 0;
    const rise = (last.counters.get(name) ?? 0) - (first.counters.get(name) ?? 0);
    return Math.max(0, (rise * 1000) / (last.at - first.at));
  }
}

/** Values of the latest seconds. */
export class TimedWindow<T> {
  #kept: { readonly at: number; readonly value: T }[] = [];

  constructor(
    private readonly lengthMs: number,
    /** The oldest beyond are forgotten. */
    private readonly most: number,
  ) {}

  push(at: number, value: T): void {
    this.#kept.push({ at, value });
    // Cut in blocks: each is a copy.
    if (this.#kept.length > 2 * this.most) this.#kept = this.#kept.slice(-this.most);
  }

  values(now: number): T[] {
    this.#kept = this.#kept.filter(({ at }) => at > now - this.lengthMs).slice(-this.most);
    return this.#kept.map(({ value }) => value);
  }
}
