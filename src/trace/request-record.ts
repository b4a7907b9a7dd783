import { performance } from 'node:perf_hooks';
import { native } from '../engine/native.js';
import { HEADER, HEADER_LENGTH, JOB, JOB_LENGTH, type JobKind, KINDS, PHASE_LENGTH, type PhaseKind, RPC, RPC_LENGTH, SPAN } from './layout.js';
import { JobSpan, RpcSpan } from './spans.js';

/** What requests of one tracer know of each other. */
export interface Running {
  requests: number;
  /** Requests are numbered in the order of their beginning, from 1. */
  lastNumber: number;
}

/**
 * One request's stamps, in a slot of the slab that is used again. A stamp is a few stores, and no call but that of the clock: between two requests
 * the caches have served tables, so that every line of code and data comes from far away.
 */
export class RequestRecord {
  /** Why the request failed; null when it did not. */
  error: string | null = null;
  #open = false;
  #holds = 0;
  /** Where the phase that goes on is written; while there is none, nowhere. */
  #phase: number;
  readonly #end: number;
  /** A span that no record has: what has no place of its own is written there, and never read. */
  readonly #nowhere: number;

  constructor(
    /** Of all records, and a span more. */
    readonly slab: Float64Array,
    readonly start: number,
    length: number,
    readonly readsCpu: boolean,
    private readonly running: Running,
  ) {
    this.#end = start + length;
    this.#nowhere = slab.length - RPC_LENGTH;
    this.#phase = this.#nowhere;
  }

  /** False while the request runs, or something may still write for it. */
  get free(): boolean {
    return !this.#open && this.#holds === 0;
  }

  get closed(): boolean {
    return !this.#open && this.number > 0;
  }

  get number(): number {
    return this.slab[this.start + HEADER.number] as number;
  }

  set items(items: number) {
    this.slab[this.start + HEADER.items] = items;
  }

  open(startedAt: number): void {
    const { slab, start, running } = this;
    this.#open = true;
    this.error = null;
    slab[start + HEADER.number] = ++running.lastNumber;
    slab[start + HEADER.startedAt] = startedAt;
    slab[start + HEADER.items] = 0;
    slab[start + HEADER.end] = start + HEADER_LENGTH;
    slab[start + HEADER.lostSpans] = 0;
    slab[start + HEADER.mainCpuUs] = this.readsCpu ? native.threadCpuUs() : 0;
    slab[start + HEADER.alone] = running.requests++ === 0 ? 1 : 0;
    this.#phase = this.#begin(KINDS.admission, PHASE_LENGTH, 0, 0, startedAt);
  }

  /** The caller has its answer, or the error of this code. What still runs may write on. */
  close(error: string | null): void {
    if (!this.#open) return;
    const { slab, start, running } = this;
    this.#open = false;
    this.error = error;
    running.requests--;
    // Another request that began later would have taken a number.
    if (slab[start + HEADER.number] !== running.lastNumber) slab[start + HEADER.alone] = 0;
    if (this.readsCpu) slab[start + HEADER.mainCpuUs] = native.threadCpuUs() - (slab[start + HEADER.mainCpuUs] as number);
    const now = performance.now();
    this.#endPhase(now);
    slab[start + HEADER.endedAt] = now;
  }

  forget(): void {
    this.slab[this.start + HEADER.number] = 0;
  }

  /** Keeps the slot from being used again until as many calls of letGo. */
  hold(): void {
    this.#holds++;
  }

  letGo(): void {
    this.#holds--;
  }

  /** The main thread works on the request from here on; ends the phase before. */
  enter(phase: (typeof KINDS)[PhaseKind], batch = 0, round = 0): void {
    const now = performance.now();
    this.#endPhase(now);
    this.#phase = this.#begin(phase, PHASE_LENGTH, batch, round, now);
  }

  /** The main thread turns to something else. */
  leave(): void {
    this.#endPhase(performance.now());
  }

  /** A job of the addon is about to be called; the phase before ends. */
  startJob(job: (typeof KINDS)[JobKind], batch = 0, round = 0): JobSpan {
    const now = performance.now();
    this.#endPhase(now);
    const at = this.#begin(job, JOB_LENGTH, batch, round, now);
    const { slab } = this;
    slab[at + JOB.queuedUs] = 0;
    slab[at + JOB.ranUs] = 0;
    // Asks for CPU time.
    slab[at + JOB.cpuUs] = this.readsCpu ? 1 : 0;
    slab[at + JOB.interactionUs] = 0;
    slab[at + JOB.layersUs] = 0;
    return new JobSpan(slab, at);
  }

  startRpc(batch: number, round: number, shard: number): RpcSpan {
    const at = this.#begin(KINDS.rpc, RPC_LENGTH, batch, round, performance.now());
    const { slab } = this;
    slab[at + RPC.shard] = shard;
    slab[at + RPC.serializedAt] = 0;
    slab[at + RPC.sentAt] = 0;
    slab[at + RPC.receivedAt] = 0;
    return new RpcSpan(slab, at, this);
  }

  /** Where the new span starts. */
  #begin(kind: number, length: number, batch: number, round: number, now: number): number {
    const { slab, start } = this;
    let at = slab[start + HEADER.end] as number;
    if (at + length > this.#end) {
      slab[start + HEADER.lostSpans] = 1;
      at = this.#nowhere;
    } else slab[start + HEADER.end] = at + length;
    slab[at + SPAN.kind] = kind;
    slab[at + SPAN.batch] = batch;
    slab[at + SPAN.round] = round;
    slab[at + SPAN.startedAt] = now;
    slab[at + SPAN.endedAt] = 0;
    return at;
  }

  #endPhase(now: number): void {
    this.slab[this.#phase + SPAN.endedAt] = now;
    this.#phase = this.#nowhere;
  }
}
