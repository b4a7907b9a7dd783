import type { Characterisation, KneeCurve } from '../../report/characterisation.js';
import { findMaxQps, type Probe } from '../../workload/capacity-search.js';
import { latencyAt } from '../../workload/load-run.js';
import { chosenSetup } from '../best.js';
import type { Experiment } from '../experiment.js';
import type { Group } from '../group.js';
import { configurationOf, type Measured } from '../measured.js';
import { type Setup, SINGULAR, setupId } from '../setup.js';
import { closeStands, openStands, type Stand } from '../stand.js';
import { loadOf } from '../turns.js';

/** Of the serial rate: where the search begins. */
const FIRST_SHARE = 0.5;
/** Rates that a search tries, as seen. */
const PROBES = 7;

const setups = ({ scale }: Experiment, results: Characterisation): Setup[] => [SINGULAR, chosenSetup(results, scale.shards)];

const probeMs = ({ scale, serialMs }: Experiment): number => scale.warmUpMs + Math.max(scale.probeMs, scale.probeRequests * serialMs);

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
  const { scale, p99Ms, serialMs, signal, seed, requests } = experiment;
  return stand.use(async (ready) => {
    const { qps, probes } = await findMaxQps({
      ...loadOf(ready, requests, signal),
      ...{ bound: { quantile: 0.99, ms: p99Ms }, process: 'poisson', seed, repeats: 1, tolerance: scale.qpsTolerance },
      ...{ warmUpMs: scale.warmUpMs, durationMs: scale.probeMs, fewestRequests: scale.probeRequests },
      firstQps: (FIRST_SHARE * 1000) / serialMs,
      onProbe,
    });
    return { configuration: setupId(stand.setup), p99BoundMs: p99Ms, maxQps: qps, points: probes.map(pointOf) };
  });
}

function pointOf({ qps, run }: Probe): KneeCurve['points'][number] {
  const [p50 = null, p99 = null] = [0.5, 0.99].map((q) => latencyAt(run, q)).map((ms) => (ms !== null && Number.isFinite(ms) ? ms : null));
  return { qps, p50, p99, valid: run.invalid.length === 0 };
}
