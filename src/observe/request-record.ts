import { performance } from 'node:perf_hooks';
import type { JobTimes } from '../engine/job-times.js';
import { native } from '../engine/native.js';
import {
  HEADER,
  HEADER_LENGTH,
  JOB,
  JOB_LENGTH,
  type JobKind,
  KINDS,
  PHASE_LENGTH,
  type PhaseKind,
  RPC,
  RPC_LENGTH,
  SPAN,
  whatOf,
} from './layout.js';
import { JobSpan, RpcSpan } from './spans.js';
import type { Stages } from './stages.js';

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
export class RequestRecord implements Stages {
  /** 0 before the first request, and once it is forgotten. */
  number = 0;
  items = 0;
  /** Why the request failed; null when it did not. */
  error: string | null = null;
  /** No other traced request ran meanwhile. */
  alone = false;
  /** There was no room for some. */
  lostSpans = false;
  /** Where the next span starts. */
  end: number;
  #open = false;
  #holds = 0;
  /** Where the phase that goes on is written; while there is none, nowhere. */
  #phase: number;
  readonly #limit: number;
  /** A span that no record has: what has no place of its own is written there, and never read. */
  readonly #nowhere: number;

  constructor(
    /** All records lie in it, and a span more. */
    readonly slab: Float64Array,
    readonly start: number,
    length: number,
    readonly readsCpu: boolean,
    private readonly running: Running,
  ) {
    this.end = start;
    this.#limit = start + length;
    this.#nowhere = slab.length - RPC_LENGTH;
    this.#phase = this.#nowhere;
  }

  /** performance.now() times; of a request that has ended. */
  get startedAt(): number {
    return this.slab[this.start + HEADER.startedAt] as number;
  }

  get endedAt(): number {
    return this.slab[this.start + HEADER.endedAt] as number;
  }

  /** False while the request runs, or something may still write for it. */
  get free(): boolean {
    return !this.#open && this.#holds === 0;
  }

  get closed(): boolean {
    return !this.#open && this.number > 0;
  }

  open(startedAt: number): void {
    const { slab, start, running } = this;
    this.#open = true;
    this.number = ++running.lastNumber;
    this.items = 0;
    this.error = null;
    this.alone = running.requests++ === 0;
    this.lostSpans = false;
    this.end = start + HEADER_LENGTH;
    slab[start + HEADER.startedAt] = startedAt;
    if (this.readsCpu) slab[start + HEADER.mainCpuUs] = native.threadCpuUs();
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
    if (this.number !== running.lastNumber) this.alone = false;
    if (this.readsCpu) slab[start + HEADER.mainCpuUs] = native.threadCpuUs() - (slab[start + HEADER.mainCpuUs] as number);
    const now = performance.now();
    this.#endPhase(now);
    slab[start + HEADER.endedAt] = now;
  }

  setItems(items: number): void {
    this.items = items;
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

  runJob(
    kind: (typeof KINDS)[JobKind],
    batch: number,
    round: number,
    run: (times: JobTimes | null) => Promise<void> | undefined,
  ): Promise<void> | undefined {
    const span = this.startJob(kind, batch, round);
    const running = run(span);
    if (running !== undefined) return running.then(() => span.end());
    span.end();
    return undefined;
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
    const { slab } = this;
    let at = this.end;
    if (at + length > this.#limit) {
      this.lostSpans = true;
      at = this.#nowhere;
    } else this.end = at + length;
    slab[at + SPAN.what] = whatOf(kind, batch, round);
    slab[at + SPAN.startedAt] = now;
    slab[at + SPAN.endedAt] = 0;
    return at;
  }

  #endPhase(now: number): void {
    this.slab[this.#phase + SPAN.endedAt] = now;
    this.#phase = this.#nowhere;
  }
}
