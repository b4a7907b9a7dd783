import type { Characterisation, KneeCurve } from '../../report/characterisation.js';
import type { Probe } from '../../workload/capacity-search.js';
import { latencyAt } from '../../workload/load-run.js';
import { chosenSetup } from '../best.js';
import type { Experiment } from '../experiment.js';
import type { Group } from '../group.js';
import { configurationOf, type Measured } from '../measured.js';
import { FIRST_SHARE, probeMs, searchRates } from '../rate-search.js';
import { type Setup, SINGULAR, setupId } from '../setup.js';
import { closeStands, openStands, type Stand } from '../stand.js';

/** Rates that a search tries, as seen. */
const PROBES = 7;

const setups = ({ scale }: Experiment, results: Characterisation): Setup[] => [SINGULAR, chosenSetup(results, scale.shards)];

/** One setup after the other: which rates a search tries depends on what it has seen, so that there are no pairs. */
export const ratesGroup: Group = {
  name: 'rates',
  description: 'latency against the rate of requests, and the highest rate whose P99 stays within the bound',
  estimateMs: (experiment, results) => setups(experiment, results).length * PROBES * probeMs(experiment),
  run: async (experiment, results, onProgress): Promise<Partial<Measured>> => {
    const stands = await openStands(setups(experiment, results), experiment);
    try {
      const knees: KneeCurve[] = [];
      let probes = 0;
      for (const stand of stands) knees.push(await kneeOf(stand, experiment, () => onProgress(++probes * probeMs(experiment))));
      return { configurations: stands.map((stand) => configurationOf(stand, [])), knees };
    } finally {
      await closeStands(stands);
    }
  },
};

function kneeOf(stand: Stand, experiment: Experiment, onProbe: () => void): Promise<KneeCurve> {
  const { p99Ms, serialMs } = experiment;
  return stand.use(async (ready) => {
    const { qps, probes } = await searchRates(ready, experiment, (FIRST_SHARE * 1000) / serialMs, onProbe);
    return { configuration: setupId(stand.setup), p99BoundMs: p99Ms, maxQps: qps, points: probes.map(pointOf) };
  });
}

function pointOf({ qps, run }: Probe): KneeCurve['points'][number] {
  const [p50 = null, p99 = null] = [0.5, 0.99].map((q) => latencyAt(run, q)).map((ms) => (ms !== null && Number.isFinite(ms) ? ms : null));
  return { qps, p50, p99, valid: run.invalid.length === 0 };
}
