/** Bounds of durations, seconds: 1, 2 and 5 of each decade from 10 us to 5 s. Deadlines of ranking lie between 5 and 100 ms. */
export const DURATION_BOUNDS: readonly number[] = [-5, -4, -3, -2, -1, 0].flatMap((decade) =>
  [1, 2, 5].map((digit) => Number(`${digit}e${decade}`)),
);
/** Bounds of counts: powers of 2 from 1 to 4096. */
export const COUNT_BOUNDS: readonly number[] = Array.from({ length: 13 }, (_, power) => 2 ** power);

/** A histogram as Prometheus has them. To record is a scan of less than twenty bounds and three additions: tens of nanoseconds. */
export class Buckets {
  /** Samples of each bucket, not of those below it as well; the last is of those above all bounds. */
  readonly counts: Float64Array;
  #sum = 0;
  #count = 0;

  constructor(readonly bounds: readonly number[]) {
    this.counts = new Float64Array(bounds.length + 1);
  }

  record(value: number): void {
    const { bounds, counts } = this;
    let bucket = 0;
    while (bucket < bounds.length && value > (bounds[bucket] as number)) bucket++;
    (counts[bucket] as number)++;
    this.#sum += value;
    this.#count++;
  }

  get sum(): number {
    return this.#sum;
  }

  get count(): number {
    return this.#count;
  }
}
