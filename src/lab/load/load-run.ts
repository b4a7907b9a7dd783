import { TerabagError } from '../../errors.js';
import { LatencyHistogram } from '../../observe/latency-histogram.js';
import type { PredictOptions, PredictRequest } from '../../predictor/predictor.js';
import type { ProcessCost, ShardCpu } from './process-meter.js';

/** What load is put on: a predictor, or a served one. */
export interface LoadTarget {
  predict(request: PredictRequest, options?: PredictOptions): Promise<unknown>;
}

/** What every kind of load needs. Requests are made before the run and sent round and round, so that making them is no part of it. */
export interface Load {
  readonly predictor: LoadTarget;
  /** At least one. */
  readonly requests: readonly PredictRequest[];
  /** Counted from the intended send time; default 1000. */
  readonly deadlineMs?: number;
  /** Ends the run early: nothing more is sent, and the result holds what was measured until then. */
  readonly signal?: AbortSignal;
  /** Sparse shards' processes, for their share of the cost. */
  readonly shardCpu?: ShardCpu;
  readonly onProgress?: (doneMs: number, totalMs: number) => void;
  /** Told of each answer that counts, and of its latency from the send. */
  readonly onAnswer?: (answer: unknown, ms: number) => void;
}

/** What one run measured, or several of the same load merged. */
export interface LoadRun {
  /** Requests a second that were meant to be sent; null of serial load. */
  readonly offeredQps: number | null;
  /** From the first send that counts to the end of the sends, or to the last answer when that came later. */
  readonly measuredMs: number;
  /** Latency of requests that were answered: from the intended send time (of serial load: from the send). */
  readonly latency: LatencyHistogram;
  /** Latency of the same requests from the send: what a closed-loop generator would have reported. */
  readonly fromSend: LatencyHistogram;
  /** From the intended to the real send, of all requests sent. */
  readonly lag: LatencyHistogram;
  /** Failed requests by error code. */
  readonly errors: Readonly<Record<string, number>>;
  readonly cost: ProcessCost;
  /** CPU of the generator's waiting, us, within cost.mainCpuUs. */
  readonly waitingCpuUs: number;
  /** Why the run says nothing of the system under test; empty when it does. */
  readonly invalid: readonly string[];
}

export const DEFAULT_DEADLINE_MS = 1000;
const DEFAULT_MOST_REQUESTS = 1024;

/** Takes at most so many requests of a source to send. */
export async function collectRequests(
  source: Iterable<PredictRequest> | AsyncIterable<PredictRequest>,
  most = DEFAULT_MOST_REQUESTS,
): Promise<PredictRequest[]> {
  const requests: PredictRequest[] = [];
  for await (const request of source) {
    requests.push(request);
    if (requests.length >= most) break;
  }
  if (requests.length === 0) throw new TerabagError('invalid_argument', 'load needs at least one request', { field: 'requests' });
  return requests;
}

/** The outcomes of the requests of one run. */
export class Outcomes {
  readonly latency = new LatencyHistogram();
  readonly fromSend = new LatencyHistogram();
  readonly lag = new LatencyHistogram();
  readonly errors: Record<string, number> = {};

  failed(error: unknown): void {
    const { code } = TerabagError.from(error);
    this.errors[code] = (this.errors[code] ?? 0) + 1;
  }
}

export const failures = (run: Pick<LoadRun, 'errors'>): number => Object.values(run.errors).reduce((sum, count) => sum + count, 0);
export const answeredQps = (run: LoadRun): number => (run.measuredMs > 0 ? (run.latency.count * 1000) / run.measuredMs : 0);

/**
 * The latency that the share q of all requests did not exceed, ms. A request that failed is slower than any that was answered: then Infinity.
 * Null when no request ended.
 */
export function latencyAt(run: LoadRun, q: number): number | null {
  const all = run.latency.count + failures(run);
  if (all === 0) return null;
  const rank = Math.max(1, Math.ceil(q * all));
  return rank > run.latency.count ? Number.POSITIVE_INFINITY : run.latency.quantile(rank / run.latency.count);
}

/** CPU per request that was answered, ms, without the generator's waiting. Null without an answer. */
export function cpuMsPerRequest(run: LoadRun): { readonly main: number; readonly shards: number | null } | null {
  const { count } = run.latency;
  if (count === 0) return null;
  const { mainCpuUs, shardCpuUs } = run.cost;
  return {
    main: Math.max(0, mainCpuUs - run.waitingCpuUs) / 1000 / count,
    shards: shardCpuUs === null ? null : shardCpuUs / 1000 / count,
  };
}

/** Repeats of one load as one run: histograms and counts together, invalid when one is. */
export function mergeRuns(runs: readonly LoadRun[]): LoadRun {
  const outcomes = new Outcomes();
  const sum = (pick: (run: LoadRun) => number): number => runs.reduce((total, run) => total + pick(run), 0);
  const most = (pick: (run: LoadRun) => number): number => Math.max(0, ...runs.map(pick));
  for (const run of runs) {
    for (const histogram of ['latency', 'fromSend', 'lag'] as const) outcomes[histogram].merge(run[histogram]);
    for (const [code, count] of Object.entries(run.errors)) outcomes.errors[code] = (outcomes.errors[code] ?? 0) + count;
  }
  const { latency, fromSend, lag, errors } = outcomes;
  return {
    ...{ latency, fromSend, lag, errors },
    offeredQps: runs[0]?.offeredQps ?? null,
    measuredMs: sum(({ measuredMs }) => measuredMs),
    cost: {
      mainCpuUs: sum(({ cost }) => cost.mainCpuUs),
      shardCpuUs: runs.some(({ cost }) => cost.shardCpuUs === null) ? null : sum(({ cost }) => cost.shardCpuUs ?? 0),
      collections: sum(({ cost }) => cost.collections),
      collectionMs: sum(({ cost }) => cost.collectionMs),
      // Quantiles cannot be merged: those of the worst repeat.
      loopDelayMs: {
        p50: most(({ cost }) => cost.loopDelayMs.p50),
        p99: most(({ cost }) => cost.loopDelayMs.p99),
        max: most(({ cost }) => cost.loopDelayMs.max),
      },
    },
    waitingCpuUs: sum(({ waitingCpuUs }) => waitingCpuUs),
    invalid: runs.flatMap(({ invalid }, repeat) => invalid.map((reason) => (runs.length > 1 ? `repeat ${repeat + 1}: ${reason}` : reason))),
  };
}

/** A run as plain JSON data, histograms with their compressed buckets, so that results can be merged later. */
export function runAsJson(run: LoadRun): object {
  const [p50, p90, p99] = [0.5, 0.9, 0.99].map((q) => latencyAt(run, q));
  const { latency, fromSend, lag, cost, ...rest } = run;
  return {
    ...rest,
    answered: latency.count,
    answeredQps: answeredQps(run),
    /** Null stands for no request, and for infinity: a failed one. */
    withFailuresMs: { p50, p90, p99 },
    latencyMs: latency.toJSON(),
    fromSendMs: fromSend.toJSON(),
    lagMs: lag.toJSON(),
    cost,
    cpuMsPerRequest: cpuMsPerRequest(run),
  };
}
