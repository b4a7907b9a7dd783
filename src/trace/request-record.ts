import { performance } from 'node:perf_hooks';
import { native } from '../engine/native.js';
import { HEADER, HEADER_LENGTH, JOB, type JobKind, KINDS, type PhaseKind, SPAN, SPAN_LENGTH } from './layout.js';
import { JobSpan, RpcSpan } from './spans.js';

/** One request's stamps, in a slot of the slab that is used again: a write is a few doubles. */
export class RequestRecord {
  /** Why the request failed; null when it did not. */
  error: string | null = null;
  #open = false;
  #holds = 0;
  /** Where the phase that goes on is written; while there is none, nowhere. */
  #phase: number;
  /** A span that no record has: what has no place of its own is written there, and never read. */
  readonly #nowhere: number;

  constructor(
    /** Of all records, and a span more. */
    readonly slab: Float64Array,
    private readonly start: number,
    private readonly maxSpans: number,
    readonly readsCpu: boolean,
    private readonly onClose: (record: RequestRecord) => void,
  ) {
    this.#nowhere = slab.length - SPAN_LENGTH;
    this.#phase = this.#nowhere;
  }

  /** False while the request runs, or something may still write for it. */
  get free(): boolean {
    return !this.#open && this.#holds === 0;
  }

  get closed(): boolean {
    return !this.#open && this.header('number') > 0;
  }

  header(field: keyof typeof HEADER): number {
    return this.slab[this.start + HEADER[field]] as number;
  }

  setHeader(field: keyof typeof HEADER, value: number): void {
    this.slab[this.start + HEADER[field]] = value;
  }

  /** Where span s starts. */
  spanAt(s: number): number {
    return this.start + HEADER_LENGTH + s * SPAN_LENGTH;
  }

  open(number: number, startedAt: number): void {
    this.slab.fill(0, this.start, this.start + HEADER_LENGTH);
    this.#open = true;
    this.error = null;
    this.setHeader('number', number);
    if (this.readsCpu) this.setHeader('mainCpuUs', native.threadCpuUs());
    this.setHeader('startedAt', startedAt);
    this.#phase = this.#begin(KINDS.admission, 0, 0, startedAt);
  }

  /** The caller has its answer, or the error of this code. What still runs may write on. */
  close(error: string | null): void {
    if (!this.#open) return;
    this.#open = false;
    this.error = error;
    if (this.readsCpu) this.setHeader('mainCpuUs', native.threadCpuUs() - this.header('mainCpuUs'));
    this.onClose(this);
    const now = performance.now();
    this.#endPhase(now);
    this.setHeader('endedAt', now);
  }

  /** Keeps the slot from being used again until as many calls of letGo. */
  hold(): void {
    this.#holds++;
  }

  letGo(): void {
    this.#holds--;
  }

  /** The main thread works on the request from here on; ends the phase before. */
  enter(phase: PhaseKind, batch = 0, round = 0): void {
    const now = performance.now();
    this.#endPhase(now);
    this.#phase = this.#begin(KINDS[phase], batch, round, now);
  }

  /** The main thread turns to something else. */
  leave(): void {
    this.#endPhase(performance.now());
  }

  /** A job of the addon is about to be called; the phase before ends. */
  startJob(job: JobKind, batch = 0, round = 0): JobSpan {
    const now = performance.now();
    this.#endPhase(now);
    const at = this.#begin(KINDS[job], batch, round, now);
    // Asks for CPU time.
    if (this.readsCpu) this.slab[at + JOB.cpuUs] = 1;
    return new JobSpan(this.slab, at);
  }

  startRpc(batch: number, round: number, shard: number): RpcSpan {
    const at = this.#begin(KINDS.rpc, batch, round, performance.now());
    this.slab[at + SPAN.shard] = shard;
    return new RpcSpan(this.slab, at, this);
  }

  /** Where the new span starts. */
  #begin(kind: number, batch: number, round: number, now: number): number {
    const { slab } = this;
    const spans = this.start + HEADER.spans;
    const count = slab[spans] as number;
    if (count === this.maxSpans) {
      this.setHeader('lostSpans', this.header('lostSpans') + 1);
      return this.#nowhere;
    }
    slab[spans] = count + 1;
    const at = this.spanAt(count);
    slab.fill(0, at, at + SPAN_LENGTH);
    slab[at + SPAN.kind] = kind;
    slab[at + SPAN.batch] = batch;
    slab[at + SPAN.round] = round;
    slab[at + SPAN.startedAt] = now;
    return at;
  }

  #endPhase(now: number): void {
    this.slab[this.#phase + SPAN.endedAt] = now;
    this.#phase = this.#nowhere;
  }
}
