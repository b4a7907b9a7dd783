import { TerabagError } from '../errors.js';
import type { RequestRecord } from '../trace/request-record.js';
import type { PredictOptions } from './predictor.js';
import { Scratch } from './scratch.js';

const DEFAULT_DEADLINE_MS = 1000;

/** Lets a bounded number of requests in, lends each a scratch, and ends each by its deadline. */
export class Admission<T> {
  readonly #idle: { scratch: Scratch; extra: T }[] = [];
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
   * itself has ended, since native threads may still read it. The record is closed when the caller's promise settles.
   */
  async run<R>(
    options: PredictOptions,
    work: (scratch: Scratch, extra: T, deadlineAt: number) => Promise<R>,
    record: RequestRecord | null = null,
  ): Promise<R> {
    this.counts.requests++;
    try {
      const { deadlineMs = DEFAULT_DEADLINE_MS, signal } = options;
      if (this.#closed) throw new TerabagError('closed', 'the predictor is closed');
      if (typeof deadlineMs !== 'number' || !(deadlineMs > 0) || deadlineMs > 2 ** 31 - 1)
        throw new TerabagError('invalid_argument', `deadlineMs has to be positive and below 2^31: ${deadlineMs}`, { field: 'deadlineMs' });
      if (signal?.aborted) throw new TerabagError('aborted', 'the request was aborted', {}, { cause: signal.reason });
      if (this.#inFlight >= this.maxInFlight) {
        throw new TerabagError('overloaded', `too many requests in flight: ${this.#inFlight}; raise maxInFlight or send fewer`, {
          inFlight: this.#inFlight,
        });
      }
      const result = await this.#bounded(deadlineMs, signal, work, record);
      record?.close(null);
      return result;
    } catch (thrown) {
      this.counts.errors++;
      const error = TerabagError.from(thrown);
      record?.close(error.code);
      throw error;
    }
  }

  #bounded<R>(
    deadlineMs: number,
    signal: AbortSignal | undefined,
    work: (scratch: Scratch, extra: T, deadlineAt: number) => Promise<R>,
    record: RequestRecord | null,
  ): Promise<R> {
    record?.hold();
    const lent = this.#idle.pop() ?? { scratch: new Scratch(), extra: this.makeExtra() };
    this.#inFlight++;
    return new Promise<R>((resolve, reject) => {
      const onAbort = (): void =>
        settle(() => reject(new TerabagError('aborted', 'the request was aborted', {}, { cause: signal?.reason })));
      // The last resort: timers of shards that are away are due in the same turn of the event loop, and their errors name the shard.
      const late = (): void =>
        settle(() => reject(new TerabagError('deadline_exceeded', `the deadline passed: ${deadlineMs} ms`, { deadlineMs })));
      const timer = setTimeout(() => setImmediate(late), deadlineMs);
      const settle = (end: () => void): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        end();
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      work(lent.scratch, lent.extra, performance.now() + deadlineMs).then(
        (result) => this.#return(lent, record, () => settle(() => resolve(result))),
        (error: unknown) => this.#return(lent, record, () => settle(() => reject(error))),
      );
    });
  }

  #return(lent: { scratch: Scratch; extra: T }, record: RequestRecord | null, then: () => void): void {
    record?.letGo();
    this.#idle.push(lent);
    this.#inFlight--;
    then();
    if (this.#inFlight === 0) for (const drained of this.#drained.splice(0)) drained();
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
