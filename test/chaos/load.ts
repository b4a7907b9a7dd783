import { type Prediction, type Predictor, TerabagError } from '../../src/index.js';
import { random } from '../reference/small-model.js';
import { isRight, type ServedModel } from './served-model.js';

/** How a request ended; other than these, it is the code of its error. untyped: something that is no TerabagError. */
export type Outcome = 'right' | 'wrong' | 'degraded' | 'untyped' | string;

export interface LoadOptions {
  readonly predictor: Pick<Predictor, 'predict'>;
  /** All are asked the same requests, whose answers are told apart by their model's hash; the first is whose requests are sent. */
  readonly models: readonly ServedModel[];
  /** Poisson arrivals of so many a second. */
  readonly qps: number;
  readonly deadlineMs: number;
  readonly seed?: number;
  /** Requests in one turn of the event loop at most; default 16: after a stall, those that are due are sent turn after turn, as they would come from sockets. */
  readonly burst?: number;
  /** So many of the latest are kept for windows; default all. */
  readonly keep?: number;
}

/** Requests of one span of time, by when they were meant to be sent. */
export interface Window {
  readonly total: number;
  readonly outcomes: Readonly<Record<Outcome, number>>;
  readonly right: number;
  /** Everything that is no right answer. */
  readonly failed: number;
  /** Latency that a share of all did not exceed, ms; what failed is slower than any that was answered (Infinity). */
  readonly p50: number;
  readonly p99: number;
}

/** A request may end so long after its deadline, apart from the time in which this event loop stood still. */
const GRACE_MS = 100;
/** Requests are sent by a timer of 1 ms, which Node fires up to one later: what is within that is not late. */
const TICK_MS = 2;
const BURST = 16;
/** What has not ended so long after its deadline never will. */
const HUNG_MS = 3000;

interface Ended {
  /** When it was meant to be sent. */
  readonly at: number;
  /** From then on. */
  readonly tookMs: number;
  /** From the call of predict on. */
  readonly servedMs: number;
  readonly outcome: Outcome;
}

/**
 * Open-loop load, each answer of which is compared with the reference. Latency counts from when a request was meant to be sent, so that a stall of this
 * event loop counts, too.
 */
export class Load {
  #ended: Ended[] = [];
  /** By outcome, of all that ended. */
  readonly totals: Record<Outcome, number> = {};
  readonly #next: () => number;
  readonly #startedAt = performance.now();
  #dueAt = this.#startedAt;
  #tickedAt = this.#startedAt;
  /** So long this event loop stood still, in all. */
  #stalledMs = 0;
  #sent = 0;
  #inFlight = 0;
  #late = 0;
  #qps: number;
  #stopped = false;

  constructor(private readonly options: LoadOptions) {
    this.#next = random(options.seed ?? 1);
    this.#qps = options.qps;
    this.#tick();
  }

  /** From the next request on. */
  set qps(qps: number) {
    this.#qps = qps;
  }

  /** Ended later than their deadline allows. */
  get late(): number {
    return this.#late;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** How long the next request has been due, ms: of a load that this machine cannot send, more and more. */
  get behindMs(): number {
    return Math.max(0, performance.now() - this.#dueAt);
  }

  #tick(): void {
    if (this.#stopped) return;
    const now = this.#turn();
    const { burst = BURST } = this.options;
    for (let count = 0; count < burst && this.#dueAt <= now; count++) {
      this.#send(now - this.#dueAt > TICK_MS ? this.#dueAt : now);
      this.#dueAt += (-1000 / this.#qps) * Math.log(1 - this.#next());
    }
    if (this.#dueAt <= now) setImmediate(() => this.#tick());
    else setTimeout(() => this.#tick(), 1);
  }

  /** A turn of the event loop, of which there is one every millisecond while it does not stand still. */
  #turn(): number {
    const now = performance.now();
    this.#stalledMs += Math.max(0, now - this.#tickedAt - TICK_MS);
    this.#tickedAt = now;
    return now;
  }

  #send(at: number): void {
    const { predictor, models, deadlineMs } = this.options;
    const position = this.#sent++ % (models[0] as ServedModel).requests.length;
    const stalledBefore = this.#stalledMs;
    const sentAt = performance.now();
    this.#inFlight++;
    const end = (outcome: Outcome): void => {
      this.#inFlight--;
      const now = performance.now();
      const tookMs = now - at;
      const stalledMs = this.#stalledMs - stalledBefore + Math.max(0, now - this.#tickedAt - TICK_MS);
      if (now - sentAt > deadlineMs + GRACE_MS + stalledMs) this.#late++;
      this.#record({ at, tookMs, servedMs: now - sentAt, outcome });
    };
    predictor.predict((models[0] as ServedModel).requests[position] as never, { deadlineMs }).then(
      (answer) => end(outcomeOf(models, position, answer)),
      (error: unknown) => end(error instanceof TerabagError ? error.code : 'untyped'),
    );
  }

  #record(ended: Ended): void {
    const { keep = Number.POSITIVE_INFINITY } = this.options;
    this.totals[ended.outcome] = (this.totals[ended.outcome] ?? 0) + 1;
    this.#ended.push(ended);
    if (this.#ended.length > 2 * keep) this.#ended = this.#ended.slice(-keep);
  }

  /** Sends no more, and waits for what is in flight. What never ends is an outcome of its own: hung. */
  async stop(): Promise<void> {
    this.#stopped = true;
    const until = performance.now() + this.options.deadlineMs + HUNG_MS;
    while (this.#inFlight > 0 && this.#turn() < until) await new Promise((resolve) => setTimeout(resolve, 1));
    for (let n = 0; n < this.#inFlight; n++)
      this.#record({ at: until, tookMs: Number.POSITIVE_INFINITY, servedMs: Number.POSITIVE_INFINITY, outcome: 'hung' });
  }

  /** Of the requests that were meant to be sent from one point in time (performance.now) to before another, and have ended. */
  window(from = 0, to = Number.POSITIVE_INFINITY): Window {
    return windowOf(this.#ended.filter(({ at }) => at >= from && at < to));
  }

  /**
   * As window, but by when predict was called, and latency from then: a load that this event loop cannot send in time says nothing of the predictor.
   * p99 is that of the right answers alone.
   */
  served(from: number, to: number): Window {
    const called = this.#ended.filter(({ at, tookMs, servedMs }) => at + tookMs - servedMs >= from && at + tookMs - servedMs < to);
    const byCall = called.map((ended) => ({ ...ended, tookMs: ended.servedMs }));
    return { ...windowOf(byCall), p99: windowOf(byCall.filter(({ outcome }) => outcome === 'right')).p99 };
  }

  /** When the first right answer came to a request that was sent at this time or later; Infinity when none did. */
  firstRightAfter(at: number): number {
    return this.#ended.reduce(
      (first, ended) => (ended.at >= at && ended.outcome === 'right' ? Math.min(first, ended.at + ended.tookMs) : first),
      Number.POSITIVE_INFINITY,
    );
  }

  /** When the last request that failed was sent; -Infinity when none did. */
  get lastFailedAt(): number {
    return this.#ended.reduce((last, { at, outcome }) => (outcome === 'right' ? last : Math.max(last, at)), Number.NEGATIVE_INFINITY);
  }
}

function outcomeOf(models: readonly ServedModel[], position: number, answer: Prediction): Outcome {
  if ('degraded' in answer && answer.degraded === true) return 'degraded';
  return isRight(models, position, answer) ? 'right' : 'wrong';
}

function windowOf(ended: readonly Ended[]): Window {
  const outcomes: Record<Outcome, number> = {};
  const took: number[] = [];
  for (const { outcome, tookMs } of ended) {
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    took.push(outcome === 'right' ? tookMs : Number.POSITIVE_INFINITY);
  }
  took.sort((a, b) => a - b);
  const at = (share: number): number => took[Math.max(0, Math.ceil(share * took.length) - 1)] ?? Number.NaN;
  const right = outcomes['right'] ?? 0;
  return { total: ended.length, outcomes, right, failed: ended.length - right, p50: at(0.5), p99: at(0.99) };
}

/** What is compiled and cached by then is so for the rest. */
const WARM_UP_MS = 1000;

/** Requests one after another in so many lanes for a while: the most answers a second that the system gives. */
export async function capacityOf(predictor: Predictor, models: readonly ServedModel[], ms: number, lanes = 64): Promise<number> {
  const [{ requests }] = models as [ServedModel];
  const countsFrom = performance.now() + WARM_UP_MS;
  const endAt = countsFrom + ms;
  let answered = 0;
  let at = 0;
  const lane = async (): Promise<void> => {
    while (performance.now() < endAt) {
      const position = at++ % requests.length;
      const answer = await predictor.predict(requests[position] as never, { deadlineMs: 5000 });
      if (!isRight(models, position, answer)) throw new Error(`a wrong answer to request ${position}`);
      if (performance.now() >= countsFrom) answered++;
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return (answered * 1000) / ms;
}
