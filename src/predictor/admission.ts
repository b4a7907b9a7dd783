import { anObject, TerabagError } from '../errors.js';
import { IdlePool } from '../idle-pool.js';
import { NO_STAGES, type Stages } from '../observe/stages.js';
import type { PredictOptions } from './predictor.js';
import { shown } from './shown.js';

const DEFAULT_DEADLINE_MS = 1000;
const MOST_DEADLINE_MS = 2 ** 31 - 1;
/** Memory is lent to at most so many requests for each that may be in flight: callers that give up at once are not served without bound. */
const LENT_PER_REQUEST = 2;

/** One request that was let in. */
export class Admitted<M> {
  #over = false;
  #error: TerabagError | null = null;
  #onFail: ((error: TerabagError) => void) | null = null;
  /** Called once, when the request fails while its work still runs. */
  onOver: (() => void) | null = null;

  constructor(
    /** Lent until the work has ended. */
    readonly memory: M,
    /** performance.now() time. */
    readonly deadlineAt: number,
  ) {}

  /** The caller was told: nobody wants what the work would give. */
  get over(): boolean {
    return this.#over;
  }

  /** Tells the caller now, unless it was told; the work goes on to its end, which frees the memory. */
  fail(error: unknown): void {
    if (!this.settle()) return;
    this.#error = TerabagError.from(error);
    this.#onFail?.(this.#error);
    this.onOver?.();
  }

  /** Who may tell the caller: true once. */
  settle(): boolean {
    if (this.#over) return false;
    this.#over = true;
    return true;
  }

  /** Tells of a failure, also of one that has been. */
  whenFailed(onFail: (error: TerabagError) => void): void {
    this.#onFail = onFail;
    if (this.#error !== null) onFail(this.#error);
  }
}

type Work<M, R> = (admitted: Admitted<M>) => R | Promise<R>;

const aborted = (signal: AbortSignal | null): TerabagError =>
  new TerabagError('aborted', 'the request was aborted', {}, { cause: signal?.reason });

/** Memory that says at times whether it is worth keeping. */
interface Memory {
  endPeriod(): boolean;
}

/**
 * Lets a bounded number of requests in, lends each its memory, and ends each by its deadline. A request counts as in flight until its caller is told;
 * its memory returns when its work has ended, since native threads may still read it, and is bounded apart.
 */
export class Admission<M extends Memory> {
  readonly #idle = new IdlePool<M>({ keeps: (memory) => memory.endPeriod() });
  #inFlight = 0;
  #lent = 0;
  #closed = false;
  readonly #drained: (() => void)[] = [];
  readonly #counts = { requests: 0, errors: 0 };

  constructor(
    private readonly maxInFlight: number,
    private readonly makeMemory: () => M,
  ) {
    if (!Number.isInteger(maxInFlight) || maxInFlight < 1)
      throw new TerabagError('invalid_argument', `maxInFlight has to be an integer, 1 or more: ${shown(maxInFlight)}`, {
        field: 'maxInFlight',
      });
  }

  /**
   * Runs work, whose promise settles when nothing reads the memory any more. The caller's promise settles by the deadline or the abort at the latest.
   * Work that is done on return, and gives no promise, costs no timer. The stages are closed when the caller's promise settles.
   */
  run<R>(options: PredictOptions, work: Work<M, R>, stages: Stages = NO_STAGES): Promise<R> {
    this.#counts.requests++;
    try {
      const { deadlineMs = DEFAULT_DEADLINE_MS, signal = null } = anObject('options', options);
      this.#check(deadlineMs, signal);
      const admitted = new Admitted(this.#idle.take() ?? this.makeMemory(), performance.now() + deadlineMs);
      this.#inFlight++;
      this.#lent++;
      stages.hold();
      let outcome: R | Promise<R>;
      try {
        outcome = work(admitted);
      } catch (error) {
        this.#inFlight--;
        this.#return(admitted.memory, stages);
        throw error;
      }
      if (outcome instanceof Promise) return this.#bounded(deadlineMs, signal, outcome, admitted, stages);
      this.#inFlight--;
      this.#return(admitted.memory, stages);
      stages.close(null);
      return Promise.resolve(outcome);
    } catch (error) {
      return Promise.reject(this.#failed(error, stages));
    }
  }

  #check(deadlineMs: number, signal: AbortSignal | null): void {
    if (this.#closed) throw new TerabagError('closed', 'the predictor is closed');
    if (typeof deadlineMs !== 'number' || !(deadlineMs > 0) || deadlineMs > MOST_DEADLINE_MS)
      throw new TerabagError('invalid_argument', `deadlineMs has to be a number above 0 and below 2^31: ${shown(deadlineMs)}`, {
        field: 'deadlineMs',
      });
    // Not instanceof: a signal may come from another realm.
    if (signal !== null && typeof signal.addEventListener !== 'function')
      throw new TerabagError('invalid_argument', `signal has to be an AbortSignal: ${shown(signal)}`, { field: 'signal' });
    if (signal?.aborted) throw aborted(signal);
    const [inFlight, lent] = [this.#inFlight, this.#lent];
    if (inFlight >= this.maxInFlight)
      throw new TerabagError('overloaded', `too many requests in flight: ${inFlight}; raise maxInFlight or send fewer`, { inFlight });
    if (lent >= LENT_PER_REQUEST * this.maxInFlight) {
      const lingering = lent - inFlight;
      throw new TerabagError(
        'overloaded',
        `native threads still work for too many requests that were given up: ${lingering}, in flight ${inFlight}; raise maxInFlight or send fewer`,
        { inFlight, lingering },
      );
    }
  }

  #failed(thrown: unknown, stages: Stages): TerabagError {
    this.#counts.errors++;
    const error = TerabagError.from(thrown);
    stages.close(error.code);
    return error;
  }

  #bounded<R>(deadlineMs: number, signal: AbortSignal | null, outcome: Promise<R>, admitted: Admitted<M>, stages: Stages): Promise<R> {
    return new Promise<R>((resolve, reject) => {
      const told = (): void => {
        this.#inFlight--;
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const onAbort = (): void => admitted.fail(aborted(signal));
      // The last resort: timers of shards that are away are due in the same turn of the event loop, and their errors name the shard. In a turn that
      // is late, Node may run them after this one (it runs all timers of one duration together), and they wait for a turn of their own.
      const late = (): void =>
        admitted.fail(new TerabagError('deadline_exceeded', `the deadline passed: ${deadlineMs} ms`, { deadlineMs }));
      // Node's timers count whole milliseconds, and can be early by one.
      const due = (): void => {
        const leftMs = admitted.deadlineAt - performance.now();
        if (leftMs > 0) timer = setTimeout(due, leftMs);
        else setImmediate(() => setImmediate(late));
      };
      let timer = setTimeout(due, deadlineMs);
      signal?.addEventListener('abort', onAbort, { once: true });
      admitted.whenFailed((error) => {
        told();
        reject(this.#failed(error, stages));
      });
      outcome.then(
        (result) => {
          if (admitted.settle()) {
            told();
            stages.close(null);
            resolve(result);
          }
          this.#return(admitted.memory, stages);
        },
        (error: unknown) => {
          admitted.fail(error);
          this.#return(admitted.memory, stages);
        },
      );
      if (signal?.aborted) onAbort();
    });
  }

  #return(memory: M, stages: Stages): void {
    stages.letGo();
    this.#lent--;
    if (!this.#closed) this.#idle.giveBack(memory);
    if (this.#lent === 0 && this.#drained.length > 0) for (const drained of this.#drained.splice(0)) drained();
  }

  /** Refuses new requests and waits for the work of all that were let in. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#idle.clear();
    if (this.#lent > 0) {
      await new Promise<void>((resolve) => {
        this.#drained.push(resolve);
      });
    }
  }

  get counts(): { readonly requests: number; readonly errors: number; readonly inFlight: number; readonly lingering: number } {
    return { ...this.#counts, inFlight: this.#inFlight, lingering: this.#lent - this.#inFlight };
  }
}
