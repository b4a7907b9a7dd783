import type { JobTimes } from '../engine/job-times.js';
import type { JobKind, KINDS, PhaseKind } from './layout.js';
import type { RpcSpan } from './spans.js';

/** A bag or sequence layer's part of a request. */
export interface LookedUp {
  readonly input: { readonly indices: { readonly length: number } };
}

/** A job of the addon: gets where the addon writes its times, null when nobody wants them; done on return (undefined), or when the promise settles. */
export type Job = (times: JobTimes | null) => Promise<void> | undefined;

/**
 * The one hook by which a predictor says what it does for a request: stamped by a RequestRecord, or nothing at all by NO_STAGES. batch counts the
 * batches of a request, round the RPCs that follow one another.
 */
export interface Stages {
  /** Its shapes are checked. */
  setItems(items: number, bags: readonly LookedUp[]): void;
  /** The main thread works on the request from here on; ends the phase before. */
  enter(phase: (typeof KINDS)[PhaseKind], batch?: number, round?: number): void;
  /** The main thread turns to something else. */
  leave(): void;
  /** Runs a job, and stamps when it has ended; the phase before ends. What run returns or throws is passed on. */
  runJob(kind: (typeof KINDS)[JobKind], batch: number, round: number, run: Job): Promise<void> | undefined;
  /** A message to a shard is about to be encoded; null when nobody wants its times. */
  startRpc(batch: number, round: number, shard: number): RpcSpan | null;
  /** Native code or a shard may write times from here on, until as many calls of letGo, also when the request ends before. */
  hold(): void;
  letGo(): void;
  /** The caller has its answer, or the error of this code. */
  close(error: string | null): void;
}

/** Listens to a request that is not traced. */
export const NO_STAGES: Stages = {
  setItems: () => undefined,
  enter: () => undefined,
  leave: () => undefined,
  runJob: (_kind, _batch, _round, run) => run(null),
  startRpc: () => null,
  hold: () => undefined,
  letGo: () => undefined,
  close: () => undefined,
};
