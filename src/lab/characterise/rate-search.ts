import { type Capacity, findMaxQps } from '../load/capacity-search.js';
import type { Characterisation } from '../report/characterisation.js';
import { chosenSetup } from './best.js';
import type { Experiment } from './experiment.js';
import { configurationOf, type Measured } from './measured.js';
import { SINGULAR } from './setup.js';
import { type Ready, type Stand, withStands } from './stand.js';
import { loadOf } from './turns.js';

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

/** Singular, and the best sharded setup so far. */
export const SEARCHED_SETUPS = 2;

/** Searches on each of them, one after the other: which rates a search tries depends on what it has seen, so that there are no pairs. */
export function searchEach<T>(
  experiment: Experiment,
  results: Characterisation,
  search: (stand: Stand, experiment: Experiment, onProbe: () => void) => Promise<T>,
  onProgress: (doneMs: number) => void,
): Promise<{ readonly configurations: Measured['configurations']; readonly found: T[] }> {
  return withStands([SINGULAR, chosenSetup(results, experiment.scale.shards)], experiment, async (stands) => {
    const found: T[] = [];
    let probes = 0;
    for (const stand of stands) found.push(await search(stand, experiment, () => onProgress(++probes * probeMs(experiment))));
    return { configurations: stands.map((stand) => configurationOf(stand, [])), found };
  });
}
