import { SHARD_STAGES, type ShardStage } from '../rpc/messages.js';
import {
  HEADER,
  HEADER_LENGTH,
  JOB,
  JOBS,
  type JobKind,
  KINDS,
  lengthOfSpan,
  PHASES,
  type PhaseKind,
  RPC,
  readWhat,
  SPAN,
} from './layout.js';
import type { RequestRecord } from './request-record.js';

/** Microseconds on the clock of performance.now(). */
export interface Interval {
  readonly startUs: number;
  readonly endUs: number;
}

interface Span extends Interval {
  /** With rpc paper, requests are cut into batches that run side by side; else 0. */
  readonly batch: number;
  /** With rpc paper, the net; else 0. */
  readonly round: number;
}

/** Work of the main thread. place: pooled vectors put where the dense net reads them; finish: from the last layer to the caller. */
export interface TracedPhase extends Span {
  readonly kind: PhaseKind;
}

/** A call of the addon: dense layers, or main's own tables. From start to end: queued, ran, and the way back to the event loop. */
export interface TracedJob extends Span {
  readonly kind: JobKind;
  readonly queuedUs: number;
  readonly ranUs: number;
  /** On all threads; the time it ran, when CPU clocks are not read. */
  readonly cpuUs: number;
  /** The interaction's share of the time in layers, 0 to 1. */
  readonly interactionShare: number;
  /** False when it ran on the main thread. */
  readonly onThread: boolean;
}

/** From encoding to having decoded the answer. Stamps are null from where it stopped: then it was not answered, and ends with the request. */
export interface TracedRpc extends Span {
  readonly shard: string;
  readonly serializedUs: number | null;
  readonly sentUs: number | null;
  readonly receivedUs: number | null;
  /** How long main's event loop slept between sent and received. */
  readonly idleUs: number;
  /** Since the process started: the loop's sleep when it was sent and received. */
  readonly idleSentUs: number;
  readonly idleReceivedUs: number;
  /** Durations on the shard, whose clock is another one. */
  readonly stages: Readonly<Record<ShardStage, number>> | null;
}

export interface TracedRequest extends Interval {
  readonly number: number;
  readonly items: number;
  /** The code of its error. */
  readonly error: string | null;
  /** False when the record had too few spans: no stack can be made. */
  readonly complete: boolean;
  /** No other traced request ran meanwhile. */
  readonly alone: boolean;
  /** CPU time of the main thread from start to end, whatever it did; null unless the tracer reads CPU clocks. */
  readonly mainCpuUs: number | null;
  readonly phases: readonly TracedPhase[];
  readonly jobs: readonly TracedJob[];
  readonly rpcs: readonly TracedRpc[];
  /** Garbage collections of the main thread, cut to the request. */
  readonly collections: readonly Interval[];
}

/** Copies a closed record out. What had not ended ends with the request. */
export function readRecord(record: RequestRecord, shards: readonly string[], pauses: readonly Interval[]): TracedRequest {
  const { slab, start } = record;
  const header = (offset: number): number => slab[start + offset] as number;
  const [startUs, endUs] = [header(HEADER.startedAt) * 1000, header(HEADER.endedAt) * 1000];
  const phases: TracedPhase[] = [];
  const jobs: TracedJob[] = [];
  const rpcs: TracedRpc[] = [];
  for (let at = start + HEADER_LENGTH; at < record.end; ) {
    const field = (offset: number): number => slab[at + offset] as number;
    const stamp = (offset: number): number | null => (field(offset) === 0 ? null : field(offset) * 1000);
    const { kind, batch, round } = readWhat(field(SPAN.what));
    const begun = Math.min(endUs, field(SPAN.startedAt) * 1000);
    const ended = Math.min(endUs, stamp(SPAN.endedAt) ?? endUs);
    const span = { batch, round, startUs: begun, endUs: Math.max(begun, ended) };
    if (kind < PHASES.length) phases.push({ ...span, kind: PHASES[kind] as PhaseKind });
    else if (kind < KINDS.rpc) {
      const onThread = field(JOB.onThread) === 1;
      // Its call was all there was to it, and is not measured twice.
      const itself = kind === KINDS.pool && !onThread;
      jobs.push({
        ...span,
        kind: JOBS[kind - PHASES.length] as JobKind,
        queuedUs: field(JOB.queuedUs),
        ranUs: itself ? span.endUs - span.startUs : field(JOB.ranUs),
        cpuUs: itself ? span.endUs - span.startUs : field(JOB.cpuUs),
        interactionShare: field(JOB.layersUs) > 0 ? field(JOB.interactionUs) / field(JOB.layersUs) : 0,
        onThread,
      });
    } else {
      const receivedUs = stamp(RPC.receivedAt);
      // An answer after the request's end is none.
      const answered = receivedUs !== null && receivedUs <= endUs;
      rpcs.push({
        ...span,
        shard: shards[field(RPC.shard)] ?? String(field(RPC.shard)),
        serializedUs: stamp(RPC.serializedAt),
        sentUs: stamp(RPC.sentAt),
        receivedUs: answered ? receivedUs : null,
        idleUs: answered ? (field(RPC.idleReceived) - field(RPC.idleSent)) * 1000 : 0,
        idleSentUs: field(RPC.idleSent) * 1000,
        idleReceivedUs: field(RPC.idleReceived) * 1000,
        stages: answered ? stagesAt(slab, at + RPC.stages) : null,
      });
    }
    at += lengthOfSpan(kind);
  }
  return {
    number: record.number,
    startUs,
    endUs,
    items: record.items,
    error: record.error,
    complete: !record.lostSpans,
    alone: record.alone,
    mainCpuUs: record.readsCpu ? header(HEADER.mainCpuUs) : null,
    phases,
    jobs,
    rpcs,
    collections: pauses
      .filter((pause) => pause.startUs < endUs && pause.endUs > startUs)
      .map((pause) => ({ startUs: Math.max(startUs, pause.startUs), endUs: Math.min(endUs, pause.endUs) })),
  };
}

function stagesAt(slab: Float64Array, at: number): TracedRpc['stages'] {
  return Object.fromEntries(SHARD_STAGES.map((stage, s) => [stage, slab[at + s] as number])) as Record<ShardStage, number>;
}
