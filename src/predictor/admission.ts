import { TerabagError } from '../errors.js';
import type { RequestRecord } from '../observe/request-record.js';
import type { PredictOptions } from './predictor.js';
import { Scratch } from './scratch.js';

const DEFAULT_DEADLINE_MS = 1000;

/** What a request is lent from its start to its end. */
interface Slot<T> {
  readonly scratch: Scratch;
  readonly extra: T;
}

type Work<T, R> = (scratch: Scratch, extra: T, deadlineAt: number) => R | Promise<R>;

const aborted = (signal: AbortSignal | undefined): TerabagError =>
  new TerabagError('aborted', 'the request was aborted', {}, { cause: signal?.reason });

/** Lets a bounded number of requests in, lends each a scratch, and ends each by its deadline. */
export class Admission<T> {
  readonly #idle: Slot<T>[] = [];
  #inFlight = 0;
  #closed = false;
  readonly #drained: (() => void)[] = [];
  readonly counts = { requests: 0, errors: 0 };

  constructor(
    private readonly maxInFlight: number,
    private readonly makeExtra: () => T,
  ) {}

  /**
   * Runs work with a scratch. The caller's promise settles by the deadline or the abort; the scratch returns to the pool only when work
   * itself has ended, since native threads may still read it. Work that is done on return, and gives no promise, costs no timer. The record is
   * closed when the caller's promise settles.
   */
  run<R>(options: PredictOptions, work: Work<T, R>, record: RequestRecord | null = null): Promise<R> {
    this.counts.requests++;
    try {
      const { deadlineMs = DEFAULT_DEADLINE_MS, signal } = options;
      this.#check(deadlineMs, signal);
      const lent = this.#idle.pop() ?? { scratch: new Scratch(), extra: this.makeExtra() };
      this.#inFlight++;
      record?.hold();
      let outcome: R | Promise<R>;
      try {
        outcome = work(lent.scratch, lent.extra, performance.now() + deadlineMs);
      } catch (error) {
        this.#return(lent, record);
        throw error;
      }
      if (outcome instanceof Promise) return this.#bounded(deadlineMs, signal, outcome, lent, record);
      this.#return(lent, record);
      record?.close(null);
      return Promise.resolve(outcome);
    } catch (error) {
      return Promise.reject(this.#failed(error, record));
    }
  }

  #check(deadlineMs: number, signal: AbortSignal | undefined): void {
    if (this.#closed) throw new TerabagError('closed', 'the predictor is closed');
    if (typeof deadlineMs !== 'number' || !(deadlineMs > 0) || deadlineMs > 2 ** 31 - 1)
      throw new TerabagError('invalid_argument', `deadlineMs has to be positive and below 2^31: ${deadlineMs}`, { field: 'deadlineMs' });
    if (signal?.aborted) throw aborted(signal);
    if (this.#inFlight >= this.maxInFlight) {
      throw new TerabagError('overloaded', `too many requests in flight: ${this.#inFlight}; raise maxInFlight or send fewer`, {
        inFlight: this.#inFlight,
      });
    }
  }

  #failed(thrown: unknown, record: RequestRecord | null): TerabagError {
    this.counts.errors++;
    const error = TerabagError.from(thrown);
    record?.close(error.code);
    return error;
  }

  #bounded<R>(
    deadlineMs: number,
    signal: AbortSignal | undefined,
    outcome: Promise<R>,
    lent: Slot<T>,
    record: RequestRecord | null,
  ): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      let settled = false;
      const settle = (end: () => void): void => {
        if (settled) return;
        settled = true;
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        end();
      };
      const onAbort = (): void => settle(() => reject(this.#failed(aborted(signal), record)));
      // The last resort: timers of shards that are away are due in the same turn of the event loop, and their errors name the shard.
      const late = (): void =>
        settle(() =>
          reject(this.#failed(new TerabagError('deadline_exceeded', `the deadline passed: ${deadlineMs} ms`, { deadlineMs }), record)),
        );
      const timer = setTimeout(() => setImmediate(late), deadlineMs);
      signal?.addEventListener('abort', onAbort, { once: true });
      outcome.then(
        (result) => {
          settle(() => {
            record?.close(null);
            resolve(result);
          });
          this.#return(lent, record);
        },
        (error: unknown) => {
          settle(() => reject(this.#failed(error, record)));
          this.#return(lent, record);
        },
      );
      if (signal?.aborted) onAbort();
    });
  }

  #return(lent: Slot<T>, record: RequestRecord | null): void {
    record?.letGo();
    this.#idle.push(lent);
    this.#inFlight--;
    if (this.#inFlight === 0 && this.#drained.length > 0) for (const drained of this.#drained.splice(0)) drained();
  }

  /** Refuses new requests and waits for those in flight. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#drained.push(resolve);
      });
    }
  }

  get inFlight(): number {
    return this.#inFlight;
  }
}
