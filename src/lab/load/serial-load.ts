import type { PredictRequest } from '../../predictor/predictor.js';
import { DEFAULT_DEADLINE_MS, type Load, type LoadRun, Outcomes } from './load-run.js';
import type { Pacer } from './pacer.js';
import { ProcessMeter } from './process-meter.js';

export interface SerialOptions extends Load {
  readonly warmUpMs: number;
  readonly durationMs: number;
  /** Ends the run after so many measured requests, if the time is not over before. */
  readonly mostRequests?: number;
  /** Default the monotonic clock of the process. */
  readonly clock?: Pick<Pacer, 'now'>;
}

/**
 * Sends one request at a time, the next when the one before has ended: what a request costs without others in its way. It says nothing of a
 * stall, which holds up a single request here, whereas users would have sent many meanwhile: that is what open-loop load shows.
 */
export async function runSerialLoad(options: SerialOptions): Promise<LoadRun> {
  const { predictor, requests, deadlineMs = DEFAULT_DEADLINE_MS, warmUpMs, durationMs, signal, clock = performance } = options;
  const meter = new ProcessMeter(options.shardCpu);
  try {
    const outcomes = new Outcomes();
    const startedAt = clock.now();
    let measuredFrom: number | null = null;
    let now = startedAt;
    let left = options.mostRequests ?? Number.POSITIVE_INFINITY;
    for (let n = 0; now < startedAt + warmUpMs + durationMs && left > 0 && !signal?.aborted; n++) {
      if (measuredFrom === null && now >= startedAt + warmUpMs) {
        meter.start();
        measuredFrom = clock.now();
      }
      if (measuredFrom !== null) left--;
      const sentAt = clock.now();
      try {
        const answer = await predictor.predict(requests[n % requests.length] as PredictRequest, { deadlineMs });
        now = clock.now();
        if (measuredFrom !== null) {
          outcomes.latency.record(now - sentAt);
          options.onAnswer?.(answer, now - sentAt);
        }
      } catch (error) {
        now = clock.now();
        if (measuredFrom !== null && !signal?.aborted) outcomes.failed(error);
      }
      options.onProgress?.(now - startedAt, warmUpMs + durationMs);
      // A predictor that answers without waiting would keep the loop from anything else. Between requests, so that no latency has it.
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (measuredFrom === null) meter.start();
    const { latency, lag, errors } = outcomes;
    const cost = await meter.stop();
    return {
      offeredQps: null,
      measuredMs: now - (measuredFrom ?? now),
      latency,
      fromSend: latency,
      lag,
      errors,
      cost,
      waitingCpuUs: 0,
      invalid: [],
    };
  } finally {
    meter.close();
  }
}
