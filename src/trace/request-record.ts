import { performance } from 'node:perf_hooks';
import { native } from '../engine/native.js';
import {
  HEADER,
  HEADER_LENGTH,
  JOB,
  type JobKind,
  KIND_RPC,
  kindOfJob,
  kindOfPhase,
  type PhaseKind,
  RPC,
  SPAN,
  SPAN_LENGTH,
} from './layout.js';

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

  open(number: number): void {
    this.slab.fill(0, this.start, this.start + HEADER_LENGTH);
    this.#open = true;
    this.error = null;
    this.#phase = -1;
    this.setHeader('number', number);
    this.setHeader('mainCpuUs', native.threadCpuUs());
    this.setHeader('startedAt', performance.now());
    this.enter('admission', 0, 0);
  }

  /** The caller has its answer, or the error of this code. What still runs may write on. */
  close(error: string | null): void {
    if (!this.#open) return;
    this.leave();
    this.#open = false;
    this.error = error;
    this.setHeader('endedAt', performance.now());
    this.setHeader('mainCpuUs', native.threadCpuUs() - this.header('mainCpuUs'));
    this.onClose(this);
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
    this.leave();
    this.#phase = this.#begin(kindOfPhase(phase), batch, round, -1);
  }

  /** The main thread turns to something else. */
  leave(): void {
    this.#stamp(this.#phase, SPAN.endedAt);
    this.#phase = -1;
  }

  /** A job of the addon is about to be called; the phase before ends. */
  startJob(job: JobKind, batch: number, round: number): number {
    this.leave();
    return this.#begin(kindOfJob(job), batch, round, -1);
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
    return this.#begin(KIND_RPC, batch, round, shard);
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

  #begin(kind: number, batch: number, round: number, shard: number): number {
    const { slab } = this;
    const count = this.header('spans');
    if (count === this.maxSpans) {
      this.setHeader('lostSpans', this.header('lostSpans') + 1);
      return -1;
    }
    this.setHeader('spans', count + 1);
    const at = this.spanAt(count);
    slab.fill(0, at, at + SPAN_LENGTH);
    slab[at + SPAN.kind] = kind;
    slab[at + SPAN.batch] = batch;
    slab[at + SPAN.round] = round;
    slab[at + SPAN.shard] = shard;
    slab[at + SPAN.startedAt] = performance.now();
    return at;
  }

  #stamp(span: number, field: number): void {
    if (span >= 0) this.slab[span + field] = performance.now();
  }
}
