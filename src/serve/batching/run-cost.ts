/** Runs are forgotten after about so many others. */
const RUNS = 64;
/** Nothing is concluded from fewer. */
const FEWEST_RUNS = 16;
/** A run that took so many times what was expected was held up by something else: it counts as that. */
const MOST_TIMES = 4;
/** From so much of a run on, what it costs beside its items is not worth waiting for others. */
const SMALL_SHARE = 1 / 16;

/** What a run takes, learnt from runs: so much, and so much for each item. Least squares, in which older runs count less and less. */
export class RunCost {
  #weight = 0;
  #items = 0;
  #ms = 0;
  #itemsSquared = 0;
  #itemsMs = 0;
  #runs = 0;
  #fixedMs = 0;
  #perItemMs = 0;

  add(items: number, ms: number): void {
    // Without items, no layer runs.
    if (items === 0) return;
    this.#runs++;
    const taken = this.#weight === 0 ? ms : Math.min(ms, MOST_TIMES * this.expectedMs(items));
    const kept = 1 - 1 / RUNS;
    this.#weight = this.#weight * kept + 1;
    this.#items = this.#items * kept + items;
    this.#ms = this.#ms * kept + taken;
    this.#itemsSquared = this.#itemsSquared * kept + items * items;
    this.#itemsMs = this.#itemsMs * kept + items * taken;
    this.#fit();
  }

  #fit(): void {
    const spread = this.#weight * this.#itemsSquared - this.#items * this.#items;
    const meanMs = this.#ms / this.#weight;
    // Of runs that are all alike it is not known what an item takes.
    if (spread <= 1e-6 * this.#weight * this.#itemsSquared) {
      this.#perItemMs = 0;
      this.#fixedMs = meanMs;
      return;
    }
    const slope = (this.#weight * this.#itemsMs - this.#items * this.#ms) / spread;
    this.#perItemMs = Math.min(Math.max(0, slope), this.#ms / this.#items);
    this.#fixedMs = meanMs - (this.#perItemMs * this.#items) / this.#weight;
  }

  /** What a run takes beside its items; 0 before the first. */
  get fixedMs(): number {
    return this.#fixedMs;
  }

  get perItemMs(): number {
    return this.#perItemMs;
  }

  expectedMs(items: number): number {
    return this.#fixedMs + this.#perItemMs * items;
  }

  /** Items of a run that costs little beside them: more in one run save nothing that is worth their wait. Infinity when that is not known. */
  get enoughItems(): number {
    if (this.#perItemMs === 0 || this.#runs < FEWEST_RUNS) return Number.POSITIVE_INFINITY;
    return Math.ceil(((1 / SMALL_SHARE - 1) * this.#fixedMs) / this.#perItemMs);
  }
}
