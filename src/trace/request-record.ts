import { performance } from 'node:perf_hooks';
import { native } from '../engine/native.js';
import { HEADER, HEADER_LENGTH, JOB, type JobKind, KINDS, type PhaseKind, RPC, SPAN, SPAN_LENGTH } from './layout.js';

const { nodeTiming } = performance;

/**
 * One request's stamps, in a slot that is used again: a write is a few doubles, and nothing is allocated. A span is named by where it starts
 * in the slab; -1 is one that had no room, whose stamps are dropped.
 */
export class RequestRecord {
  /** Why the request failed; null when it did not. */
  error: string | null = null;
  #open = false;
  #holds = 0;
  #phase = -1;

  constructor(
    /** Of all records: native code writes durations of jobs into it. */
    readonly slab: Float64Array,
    private readonly start: number,
    private readonly maxSpans: number,
    readonly readsCpu: boolean,
    private readonly onClose: (record: RequestRecord) => void,
  ) {}

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
    this.#phase = -1;
    this.setHeader('number', number);
    if (this.readsCpu) this.setHeader('mainCpuUs', native.threadCpuUs());
    this.setHeader('startedAt', startedAt);
    this.enter('admission', 0, 0);
    this.slab[this.#phase + SPAN.startedAt] = startedAt;
  }

  /** The caller has its answer, or the error of this code. What still runs may write on. */
  close(error: string | null): void {
    if (!this.#open) return;
    this.#open = false;
    this.error = error;
    if (this.readsCpu) this.setHeader('mainCpuUs', native.threadCpuUs() - this.header('mainCpuUs'));
    this.onClose(this);
    this.leave();
    this.setHeader('endedAt', performance.now());
  }

  /** Keeps the slot from being used again until as many calls of letGo. */
  hold(): void {
    this.#holds++;
  }

  letGo(): void {
    this.#holds--;
  }

  /** The main thread works on the request from here on; ends the phase before. */
  enter(phase: PhaseKind, batch: number, round: number): void {
    const now = performance.now();
    this.#endPhase(now);
    this.#phase = this.#begin(KINDS[phase], batch, round, -1, now);
  }

  /** The main thread turns to something else. */
  leave(): void {
    if (this.#phase >= 0) this.#endPhase(performance.now());
  }

  /** A job of the addon is about to be called; the phase before ends. */
  startJob(job: JobKind, batch: number, round: number): number {
    const now = performance.now();
    this.#endPhase(now);
    const at = this.#begin(KINDS[job], batch, round, -1, now);
    // Asks for CPU time.
    if (at >= 0 && this.readsCpu) this.slab[at + JOB.cpuUs] = 1;
    return at;
  }

  /** Where in the slab the job is to write its times: of one without room, into a span that no request has. */
  timesAt(job: number): number {
    return (job < 0 ? this.slab.length - SPAN_LENGTH : job) + JOB.queuedUs;
  }

  endJob(job: number, onThread: boolean): void {
    if (job < 0) return;
    this.#stamp(job, SPAN.endedAt);
    this.slab[job + JOB.onThread] = onThread ? 1 : 0;
  }

  startRpc(batch: number, round: number, shard: number): number {
    return this.#begin(KINDS.rpc, batch, round, shard, performance.now());
  }

  serialized(rpc: number): void {
    this.#stamp(rpc, RPC.serializedAt);
  }

  sent(rpc: number): void {
    if (rpc < 0) return;
    this.#stamp(rpc, RPC.sentAt);
    this.slab[rpc + RPC.idleSent] = nodeTiming.idleTime;
  }

  /** receivedAt: when the message came; now it is decoded. */
  answered(rpc: number, receivedAt: number, stages: Float64Array | null): void {
    if (rpc < 0) return;
    this.#stamp(rpc, SPAN.endedAt);
    this.slab[rpc + RPC.receivedAt] = receivedAt;
    this.slab[rpc + RPC.idleReceived] = nodeTiming.idleTime;
    if (stages !== null) this.slab.set(stages, rpc + RPC.stages);
  }

  #begin(kind: number, batch: number, round: number, shard: number, now: number): number {
    const { slab } = this;
    const spans = this.start + HEADER.spans;
    const count = slab[spans] as number;
    if (count === this.maxSpans) {
      this.setHeader('lostSpans', this.header('lostSpans') + 1);
      return -1;
    }
    slab[spans] = count + 1;
    const at = this.spanAt(count);
    slab.fill(0, at, at + SPAN_LENGTH);
    slab[at + SPAN.kind] = kind;
    slab[at + SPAN.batch] = batch;
    slab[at + SPAN.round] = round;
    slab[at + SPAN.shard] = shard;
    slab[at + SPAN.startedAt] = now;
    return at;
  }

  #endPhase(now: number): void {
    if (this.#phase >= 0) this.slab[this.#phase + SPAN.endedAt] = now;
    this.#phase = -1;
  }

  #stamp(span: number, field: number): void {
    if (span >= 0) this.slab[span + field] = performance.now();
  }
}
