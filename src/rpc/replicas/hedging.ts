import type { Clock } from '../../clock.js';
import { type Due, DueList } from '../due-list.js';

/** The share of answers after whose latency another replica is asked as well. */
const QUANTILE = 0.95;
/** Latencies that count; as many tell the quantile to within a few percent. */
const WINDOW = 512;
/** The quantile is looked up again after so many answers. */
const LOOKED_UP_EACH = 32;
/** Buckets of latencies are this much apart... */
const BUCKETS_PER_DOUBLING = 8;
/** ... from a microsecond on, in so many doublings: to half an hour. */
const DOUBLINGS = 31;
const LEAST_MS = 0.001;
/** While fewer answers are known, hedging waits for so long. */
const FEW_ANSWERS = 20;
const UNKNOWN_MS = 50;
/** What the timers of Node can tell. */
const LEAST_DELAY_MS = 1;

/** The P95 of the latest latencies, in buckets. */
export class LatencyWindow {
  readonly #buckets = new Uint16Array(WINDOW);
  readonly #counts = new Uint16Array(DOUBLINGS * BUCKETS_PER_DOUBLING);
  #added = 0;
  #delayMs = UNKNOWN_MS;
  #nextLookUp = FEW_ANSWERS;

  /** That of the P95, at least what a timer can tell, as of the last look. */
  get delayMs(): number {
    return this.#delayMs;
  }

  add(ms: number): void {
    const at = this.#added % WINDOW;
    if (this.#added >= WINDOW) (this.#counts[this.#buckets[at] as number] as number)--;
    const bucket = bucketOf(ms);
    this.#buckets[at] = bucket;
    (this.#counts[bucket] as number)++;
    this.#added++;
    if (this.#added < this.#nextLookUp) return;
    this.#nextLookUp = this.#added + LOOKED_UP_EACH;
    this.#delayMs = Math.max(LEAST_DELAY_MS, this.#quantileMs());
  }

  /** The upper end of the bucket that the nearest rank lies in. */
  #quantileMs(): number {
    let rank = Math.ceil(QUANTILE * Math.min(this.#added, WINDOW));
    let bucket = -1;
    while (rank > 0) rank -= this.#counts[++bucket] as number;
    return LEAST_MS * 2 ** ((bucket + 1) / BUCKETS_PER_DOUBLING);
  }
}

function bucketOf(ms: number): number {
  const bucket = Math.floor(Math.log2(Math.max(ms, LEAST_MS) / LEAST_MS) * BUCKETS_PER_DOUBLING);
  return Math.min(bucket, DOUBLINGS * BUCKETS_PER_DOUBLING - 1);
}

/**
 * Hedged requests (Dean and Barroso, The Tail at Scale): an attempt that is not answered after the P95 of the latest answers is hedged by one at
 * another replica. Few requests are, and a slow replica costs them little more than that.
 */
export class Hedging<A extends Due> {
  readonly #window = new LatencyWindow();
  readonly #waiting: DueList<A>;

  constructor(
    private readonly clock: Clock,
    private readonly hedge: (attempt: A, now: number) => void,
  ) {
    this.#waiting = new DueList(clock, () => this.#due(), 'background');
  }

  /** An attempt was sent now, with so much left of its deadline: half of that is left to the hedged request at least, however slow answers were lately. */
  watch(attempt: A, now: number, remainingMs: number): void {
    this.#waiting.add(attempt, now + Math.min(this.#window.delayMs, remainingMs / 2));
  }

  /** It was due, and could not be hedged: it is due again when it has been out for twice as long. */
  watchOn(attempt: A & { readonly startedAt: number }, now: number): void {
    this.#waiting.remove(attempt);
    this.#waiting.add(attempt, now + Math.max(this.#window.delayMs, now - attempt.startedAt));
  }

  /** It has ended, or needs no hedge any more. */
  unwatch(attempt: A): void {
    this.#waiting.remove(attempt);
  }

  /** An attempt was answered after so long. */
  answered(ms: number): void {
    this.#window.add(ms);
  }

  close(): void {
    this.#waiting.close();
  }

  #due(): void {
    const now = this.clock.now();
    for (let attempt = this.#waiting.takeDue(now); attempt !== null; attempt = this.#waiting.takeDue(now)) this.hedge(attempt, now);
  }
}
