import { PerformanceObserver, performance } from 'node:perf_hooks';
import { TerabagError } from '../errors.js';
import { HEADER_LENGTH, RPC_LENGTH } from './layout.js';
import { RequestRecord, type Running } from './request-record.js';
import { type Interval, readRecord, type TracedRequest } from './traced-request.js';

export interface TracerOptions {
  /** Requests that are kept: the latest ones; default 1024. A span takes 128 bytes at most. */
  readonly capacity?: number;
  /** Spans of a request: one a shard and some ten more, or with rpc paper as many for each batch and net; default 64, for which there is
   * room whatever they are. */
  readonly spans?: number;
  /**
   * Reads the CPU clocks of the main thread and of jobs on other threads; default false, since it is a system call, of 0.2 to 1 us: two a
   * request, and two a job. Without it, the time that jobs run stands for their CPU time.
   */
  readonly cpu?: boolean;
}

/** A request that has ended, as long as its record is not used again. Times are those of performance.now(). */
export interface EndedRecord {
  readonly number: number;
  readonly error: string | null;
  readonly startedAt: number;
  readonly endedAt: number;
}

/** Pauses of the garbage collector that are kept; at some milliseconds between two, a few seconds of the busiest process. */
const COLLECTIONS = 4096;

/** Keeps what the stages of a predictor's latest requests took. All memory is taken here, and nothing is stamped while it is not enabled. */
export class Tracer {
  /** Requests that found no free record, as with fewer records than requests in flight. */
  skipped = 0;
  readonly #records: RequestRecord[];
  readonly #pauses = new Float64Array(2 * COLLECTIONS);
  readonly #observer = new PerformanceObserver((list) => this.#keepPauses(list.getEntries()));
  #numPauses = 0;
  #next = 0;
  #enabled = false;
  #shards: readonly string[] = [];

  constructor({ capacity = 1024, spans = 64, cpu = false }: TracerOptions = {}) {
    for (const [field, value] of Object.entries({ capacity, spans }))
      if (!Number.isInteger(value) || value < 1)
        throw new TerabagError('invalid_argument', `${field} has to be an integer, 1 or more: ${value}`, { field });
    const length = HEADER_LENGTH + spans * RPC_LENGTH;
    // One span more than all records have: what has no room is written there.
    const slab = new Float64Array(capacity * length + RPC_LENGTH);
    // Pages come when they are first written, at microseconds each: now, and not within a request.
    slab.fill(0);
    const running: Running = { requests: 0, lastNumber: 0 };
    this.#records = Array.from({ length: capacity }, (_, r) => new RequestRecord(slab, r * length, length, cpu, running));
    this.enabled = true;
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Requests that begin while it is false are not stamped. */
  set enabled(enabled: boolean) {
    if (enabled === this.#enabled) return;
    this.#enabled = enabled;
    if (enabled) this.#observer.observe({ entryTypes: ['gc'] });
    else {
      this.#keepPauses(this.#observer.takeRecords());
      this.#observer.disconnect();
    }
  }

  /** Names the shards of the predictor that it watches, in the plan's order. One tracer watches one predictor. @internal */
  watch(shards: readonly string[]): void {
    this.#shards = shards;
  }

  /** A record for a request that begins now; null when none is wanted, or none is free. @internal */
  open(): RequestRecord | null {
    if (!this.#enabled) return null;
    const startedAt = performance.now();
    for (let tried = 0; tried < this.#records.length; tried++) {
      const record = this.#records[this.#next] as RequestRecord;
      this.#next = this.#next + 1 === this.#records.length ? 0 : this.#next + 1;
      if (!record.free) continue;
      record.open(startedAt);
      return record;
    }
    this.skipped++;
    return null;
  }

  /** The requests that have ended, in no order; not copied. @internal */
  ended(): readonly EndedRecord[] {
    return this.#records.filter((record) => record.closed);
  }

  /**
   * The requests that have ended, or of them those of the given numbers, copied, in the order of their beginning. A garbage collection of the last turn
   * of the event loop may be missing.
   */
  requests(numbers?: ReadonlySet<number>): TracedRequest[] {
    this.#keepPauses(this.#observer.takeRecords());
    const closed = this.#records
      .filter(({ closed, number }) => closed && (numbers?.has(number) ?? true))
      .sort((a, b) => a.number - b.number);
    const pauses = this.#keptPauses();
    return closed.map((record) => readRecord(record, this.#shards, pauses));
  }

  /** Forgets the requests that have ended. */
  clear(): void {
    for (const record of this.#records) if (record.closed && record.free) record.number = 0;
  }

  #keepPauses(entries: readonly { readonly startTime: number; readonly duration: number }[]): void {
    for (const { startTime, duration } of entries) {
      const at = 2 * (this.#numPauses++ % COLLECTIONS);
      this.#pauses[at] = startTime;
      this.#pauses[at + 1] = startTime + duration;
    }
  }

  #keptPauses(): Interval[] {
    return Array.from({ length: Math.min(this.#numPauses, COLLECTIONS) }, (_, p) => ({
      startUs: (this.#pauses[2 * p] as number) * 1000,
      endUs: (this.#pauses[2 * p + 1] as number) * 1000,
    }));
  }
}
