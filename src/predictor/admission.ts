import { ByteBudget } from '../byte-budget.js';
import { type Clock, systemClock } from '../clock.js';
import { anObject, aSignal, type ErrorDetails, TerabagError } from '../errors.js';
import { IdlePool } from '../idle-pool.js';
import { NO_STAGES, type Stages } from '../observe/stages.js';
import { ConcurrencyLimit } from './concurrency-limit.js';
import type { PredictOptions } from './predictor.js';
import { shown } from './shown.js';

const DEFAULT_DEADLINE_MS = 100;
const MOST_DEADLINE_MS = 2 ** 31 - 1;
const DEFAULT_MAX_IN_FLIGHT = 1024;
const DEFAULT_MAX_IN_FLIGHT_BYTES = 2 ** 30;
/** Memory is lent to at most so many requests for each that may be in flight: callers that give up at once are not served without bound. */
const LENT_PER_REQUEST = 2;

/** One request that was let in. */
export class Admitted<M> {
  #over = false;
  #error: TerabagError | null = null;
  #onFail: ((error: TerabagError) => void) | null = null;
  /** Called once, when the request fails while its work still runs. */
  onOver: (() => void) | null = null;
  #bytes = 0;
  readonly deadlineAt: number;

  constructor(
    /** Lent until the work has ended. */
    readonly memory: M,
    /** Of the clock of the admission. */
    readonly startedAt: number,
    readonly deadlineMs: number,
    /** Others that were in flight when it was let in. */
    readonly beside: number,
    private readonly budget: ByteBudget,
  ) {
    this.deadlineAt = startedAt + deadlineMs;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Says what the request holds, once; throws overloaded when that is too much beside the others. */
  hold(bytes: number): void {
    if (!this.budget.take(bytes)) throw tooManyBytes(this.budget, bytes);
    this.#bytes = bytes;
  }

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

  /**
   * The work has ended. With these closures a scavenge finds 3 kB of each small request alive, as garbage of the old generation refers to it; without
   * them, 0.7 kB.
   */
  end(): void {
    this.#onFail = null;
    this.onOver = null;
  }
}

type Work<M, R> = (admitted: Admitted<M>) => R | Promise<R>;

const aborted = (signal: AbortSignal | null): TerabagError =>
  new TerabagError('aborted', 'the request was aborted', {}, { cause: signal?.reason });

const refusal = (message: string, details: ErrorDetails): TerabagError => TerabagError.withoutStack('overloaded', message, details);

const tooManyBytes = ({ held, most }: ByteBudget, bytes: number): TerabagError =>
  refusal(
    `requests in flight hold too many bytes: ${held}, and this one ${bytes}, of ${most}; raise maxInFlightBytes, or send fewer or smaller ones`,
    { inFlightBytes: held, bytes, maxInFlightBytes: most },
  );

/** When the caller listens: a rejected promise that nobody listens to yet costs Node several times as much. */
const rejectedSoon = (error: TerabagError): Promise<never> => new Promise((_, reject) => queueMicrotask(() => reject(error)));

/** Memory that says at times whether it is worth keeping. */
interface Memory {
  endPeriod(): boolean;
}

/** See PredictorOptions. */
export interface AdmissionOptions {
  readonly maxInFlight?: number | undefined;
  readonly maxInFlightBytes?: number | undefined;
  readonly deadlineMs?: number | undefined;
  readonly clock?: Clock | undefined;
  /** Asked when a request does not fit beside the others: whether one of these was ended in its favour. */
  readonly makeRoom?: ((options: PredictOptions) => boolean) | undefined;
}

/**
 * Lets as many requests in as can be answered by their deadlines (ConcurrencyLimit), lends each its memory, and ends each by its deadline. A request
 * counts as in flight until its caller is told; its memory returns when its work has ended, since native threads may still read it, and is bounded
 * apart.
 */
export class Admission<M extends Memory> {
  readonly #idle = new IdlePool<M>({ keeps: (memory) => memory.endPeriod() });
  #inFlight = 0;
  #lent = 0;
  #closed = false;
  /** When a shard was last away. */
  #disturbedAt = Number.NEGATIVE_INFINITY;
  readonly #drained: (() => void)[] = [];
  readonly #counts = { requests: 0, errors: 0, overloaded: 0 };
  readonly #clock: Clock;
  readonly #deadlineMs: number;
  readonly #maxInFlight: number;
  readonly #limit: ConcurrencyLimit;
  readonly #bytes: ByteBudget;
  readonly #makeRoom: (options: PredictOptions) => boolean;

  constructor(
    private readonly makeMemory: () => M,
    options: AdmissionOptions = {},
  ) {
    const { deadlineMs = DEFAULT_DEADLINE_MS, clock = systemClock, makeRoom = () => false } = options;
    this.#makeRoom = makeRoom;
    const { maxInFlight = DEFAULT_MAX_IN_FLIGHT, maxInFlightBytes = DEFAULT_MAX_IN_FLIGHT_BYTES } = options;
    checkAtLeastOne('maxInFlight', maxInFlight);
    checkAtLeastOne('maxInFlightBytes', maxInFlightBytes);
    checkDeadline(deadlineMs);
    this.#clock = clock;
    this.#deadlineMs = deadlineMs;
    this.#maxInFlight = maxInFlight;
    this.#limit = new ConcurrencyLimit(maxInFlight);
    this.#bytes = new ByteBudget(maxInFlightBytes);
  }

  /**
   * Runs work, whose promise settles when nothing reads the memory any more. The caller's promise settles by the deadline or the abort at the latest.
   * Work that is done on return, and gives no promise, costs no timer. The stages are closed when the caller's promise settles.
   */
  run<R>(options: PredictOptions, work: Work<M, R>, stages: Stages = NO_STAGES): Promise<R> {
    this.#counts.requests++;
    try {
      const { deadlineMs = this.#deadlineMs, signal = null } = anObject('options', options);
      this.#check(deadlineMs, signal);
      let refused = this.#overload(deadlineMs);
      if (refused !== null && this.#makeRoom(options)) refused = this.#overload(deadlineMs);
      if (refused !== null) return rejectedSoon(this.#failed(refused, stages));
      const memory = this.#idle.take() ?? this.makeMemory();
      const admitted = new Admitted(memory, this.#clock.now(), deadlineMs, this.#inFlight, this.#bytes);
      this.#inFlight++;
      this.#lent++;
      stages.hold();
      let outcome: R | Promise<R>;
      try {
        outcome = work(admitted);
      } catch (error) {
        this.#inFlight--;
        this.#return(admitted, stages);
        throw error;
      }
      if (outcome instanceof Promise) return this.#bounded(signal, outcome, admitted, stages);
      this.#inFlight--;
      this.#return(admitted, stages);
      stages.close(null);
      return Promise.resolve(outcome);
    } catch (error) {
      return Promise.reject(this.#failed(error, stages));
    }
  }

  #check(deadlineMs: number, signal: AbortSignal | null): void {
    if (this.#closed) throw new TerabagError('closed', 'the predictor is closed');
    checkDeadline(deadlineMs);
    aSignal('signal', signal);
    if (signal?.aborted) throw aborted(signal);
  }

  /** Before anything is done for the request: under overload most requests end here. */
  #overload(deadlineMs: number): TerabagError | null {
    const [inFlight, maxInFlight, lingering] = [this.#inFlight, this.#maxInFlight, this.#lent - this.#inFlight];
    if (inFlight >= maxInFlight)
      return refusal(`too many requests in flight: ${inFlight}; raise maxInFlight or send fewer`, { inFlight, maxInFlight });
    if (this.#lent >= LENT_PER_REQUEST * maxInFlight) {
      return refusal(
        `native threads still work for too many requests that were given up: ${lingering}, in flight ${inFlight}; raise maxInFlight or send fewer`,
        { inFlight, lingering },
      );
    }
    if (this.#bytes.held >= this.#bytes.most) return tooManyBytes(this.#bytes, 0);
    if (this.#limit.admits(inFlight, deadlineMs)) return null;
    const { limit } = this.#limit;
    return refusal(
      `too many requests in flight for one more to be answered by its deadline, ${deadlineMs} ms: ${inFlight}, limit ${limit}; send fewer, or add capacity`,
      { inFlight, limit, deadlineMs },
    );
  }

  #failed(thrown: unknown, stages: Stages): TerabagError {
    this.#counts.errors++;
    const error = TerabagError.from(thrown);
    if (error.code === 'overloaded') this.#counts.overloaded++;
    stages.close(error.code);
    return error;
  }

  #bounded<R>(signal: AbortSignal | null, outcome: Promise<R>, admitted: Admitted<M>, stages: Stages): Promise<R> {
    const { deadlineMs, deadlineAt } = admitted;
    const clock = this.#clock;
    return new Promise<R>((resolve, reject) => {
      const told = (): void => {
        this.#inFlight--;
        cancelTimer();
        signal?.removeEventListener('abort', onAbort);
      };
      const onAbort = (): void => admitted.fail(aborted(signal));
      // The last resort: timers of shards that are away are due in the same turn of the event loop, and their errors name the shard. In a turn that
      // is late, Node may run them after this one (it runs all timers of one duration together), and they wait for a turn of their own.
      const late = (): void =>
        admitted.fail(new TerabagError('deadline_exceeded', `the deadline passed: ${deadlineMs} ms`, { deadlineMs }));
      // Node's timers count whole milliseconds, and can be early by one.
      const due = (): void => {
        const leftMs = deadlineAt - clock.now();
        if (leftMs > 0) cancelTimer = clock.after(leftMs, due);
        else clock.afterPolling(() => clock.afterPolling(late));
      };
      let cancelTimer = clock.after(deadlineMs, due);
      signal?.addEventListener('abort', onAbort, { once: true });
      admitted.whenFailed((error) => {
        told();
        if (error.code === 'deadline_exceeded') this.#learn(admitted);
        else if (error.code === 'shard_unavailable') this.#disturbedAt = clock.now();
        reject(this.#failed(error, stages));
      });
      outcome.then(
        (result) => {
          if (admitted.settle()) {
            told();
            this.#learn(admitted);
            stages.close(null);
            resolve(result);
          }
          this.#return(admitted, stages);
        },
        (error: unknown) => {
          admitted.fail(error);
          this.#return(admitted, stages);
        },
      );
      if (signal?.aborted) onAbort();
    });
  }

  /**
   * From what was answered, or too slow for its deadline. What fails otherwise says nothing of the load, nor does what may have waited for a shard that
   * was away.
   */
  #learn({ startedAt, deadlineMs, beside, bytes }: Admitted<M>): void {
    if (startedAt < this.#disturbedAt) return;
    this.#limit.ended({ startedAt, endedAt: this.#clock.now(), deadlineMs, beside, size: bytes });
  }

  #return(admitted: Admitted<M>, stages: Stages): void {
    const { memory, bytes } = admitted;
    admitted.end();
    stages.letGo();
    this.#lent--;
    this.#bytes.giveBack(bytes);
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

  get counts(): AdmissionCounts {
    const [inFlight, lingering] = [this.#inFlight, this.#lent - this.#inFlight];
    return { ...this.#counts, inFlight, lingering, inFlightBytes: this.#bytes.held, concurrencyLimit: this.#limit.limit };
  }
}

/** See PREDICTOR_COUNTERS. */
type AdmissionCounts = Readonly<
  Record<'requests' | 'errors' | 'overloaded' | 'inFlight' | 'lingering' | 'inFlightBytes' | 'concurrencyLimit', number>
>;

function checkAtLeastOne(field: string, value: number): void {
  if (Number.isInteger(value) && value >= 1) return;
  throw new TerabagError('invalid_argument', `${field} has to be an integer, 1 or more: ${shown(value)}`, { field });
}

function checkDeadline(deadlineMs: number): void {
  if (typeof deadlineMs === 'number' && deadlineMs > 0 && deadlineMs <= MOST_DEADLINE_MS) return;
  throw new TerabagError('invalid_argument', `deadlineMs has to be a number above 0 and below 2^31: ${shown(deadlineMs)}`, {
    field: 'deadlineMs',
  });
}
