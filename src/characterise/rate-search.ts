import { type Capacity, findMaxQps } from '../workload/capacity-search.js';
import type { Experiment } from './experiment.js';
import type { Ready } from './stand.js';
import { loadOf } from './turns.js';

/** Of the serial rate: where the first search begins. */
export const FIRST_SHARE = 0.5;

/** What trying one rate takes. */
export const probeMs = ({ scale, serialMs }: Experiment): number =>
  scale.warmUpMs + Math.max(scale.probeMs, scale.probeRequests * serialMs);

/** The highest rate whose P99 stays within the bound of the experiment. */
export function searchRates(ready: Ready, experiment: Experiment, firstQps: number, onProbe: () => void): Promise<Capacity> {
  const { scale, p99Ms, signal, seed, requests } = experiment;
  return findMaxQps({
    ...loadOf(ready, requests, signal),
    ...{ bound: { quantile: 0.99, ms: p99Ms }, process: 'poisson', seed, repeats: 1, tolerance: scale.qpsTolerance },
    ...{ warmUpMs: scale.warmUpMs, durationMs: scale.probeMs, fewestRequests: scale.probeRequests },
    ...{ firstQps, onProbe },
  });
}
