import type { Residency } from '../../engine/residency.js';
import { openLocal } from '../../predictor/local.js';
import type { PredictRequest } from '../../predictor/predictor.js';
import { runSerialLoad } from '../load/serial-load.js';
import type { Resume } from '../report/characterisation.js';
import type { Scale } from './experiment.js';

export interface FirstLookOptions {
  readonly scale: Scale;
  readonly residency: Residency;
  readonly verify: 'full' | 'size';
  readonly signal: AbortSignal;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onWarning: (message: string) => void;
  /** Given by the user; else they follow from the latency. */
  readonly qps?: number;
  readonly p99Ms?: number;
}

const FEWEST_REQUESTS = 12;
const MOST_REQUESTS = 400;
/** Share of the rate that one request after the other reaches: a steady rate well below the knee, also of setups that take half as long again. */
const STEADY_SHARE = 0.3;
/** Multiple of the serial P99: the bound under which rates are searched. */
const BOUND_OVER_P99 = 2;
const FIRST_LOOK_MS = 1000;

/** Opens the model in this process and sends the given requests, to choose how many of them make a turn, the steady rate, and the bound of P99. */
export async function firstLook(bundle: string, requests: readonly PredictRequest[], options: FirstLookOptions): Promise<Resume['chosen']> {
  const { scale, signal, qps, p99Ms, residency, verify, onProgress, onWarning } = options;
  const predictor = await openLocal(bundle, { residency, verify, onProgress, onWarning });
  try {
    const load = { predictor, requests, signal, warmUpMs: 0 };
    await runSerialLoad({ ...load, durationMs: FIRST_LOOK_MS, mostRequests: requests.length });
    // By number and not by time: requests differ in size.
    const { latency } = await runSerialLoad({ ...load, durationMs: 10 * FIRST_LOOK_MS, mostRequests: requests.length });
    const { mean, p99 } = latency.summary();
    const serialMs = mean ?? 1;
    return {
      serialMs,
      requests: Math.min(MOST_REQUESTS, Math.max(FEWEST_REQUESTS, Math.round(scale.turnMs / serialMs))),
      qps: qps ?? rounded((STEADY_SHARE * 1000) / serialMs),
      p99Ms: p99Ms ?? rounded(BOUND_OVER_P99 * (p99 ?? 1)),
    };
  } finally {
    await predictor.close();
  }
}

/** Two digits: a figure that people type again. */
const rounded = (value: number): number => Number(value.toPrecision(2));
