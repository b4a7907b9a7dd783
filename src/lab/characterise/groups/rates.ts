import { firstRate, type Probe } from '../../load/capacity-search.js';
import { latencyAt } from '../../load/load-run.js';
import type { KneeCurve } from '../../report/characterisation.js';
import type { Experiment } from '../experiment.js';
import type { Group } from '../group.js';
import type { Measured } from '../measured.js';
import { probeMs, SEARCHED_SETUPS, searchEach, searchRates } from '../rate-search.js';
import { setupId } from '../setup.js';
import type { Stand } from '../stand.js';

/** Rates that a search tries, as seen. */
const PROBES = 7;

export const ratesGroup: Group = {
  name: 'rates',
  description: 'latency against the rate of requests, and the highest rate whose P99 stays within the bound',
  estimateMs: (experiment) => SEARCHED_SETUPS * PROBES * probeMs(experiment),
  run: async (experiment, results, onProgress): Promise<Partial<Measured>> => {
    const { configurations, found } = await searchEach(experiment, results, kneeOf, onProgress);
    return { configurations, knees: found };
  },
};

function kneeOf(stand: Stand, experiment: Experiment, onProbe: () => void): Promise<KneeCurve> {
  const { p99Ms, serialMs } = experiment;
  return stand.use(async (ready) => {
    const { qps, probes } = await searchRates(ready, experiment, firstRate(serialMs), onProbe);
    return { configuration: setupId(stand.setup), p99BoundMs: p99Ms, maxQps: qps, points: probes.map(pointOf) };
  });
}

function pointOf({ qps, run }: Probe): KneeCurve['points'][number] {
  const [p50 = null, p99 = null] = [0.5, 0.99].map((q) => latencyAt(run, q)).map((ms) => (ms !== null && Number.isFinite(ms) ? ms : null));
  return { qps, p50, p99, valid: run.invalid.length === 0 };
}
