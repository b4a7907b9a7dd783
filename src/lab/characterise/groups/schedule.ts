import { scheduleBatches } from '../../load/batch-scheduler.js';
import { firstRate } from '../../load/capacity-search.js';
import type { BatchScheduleResult } from '../../report/characterisation.js';
import { itemsOf, SplittingPredictor } from '../../requests/split-request.js';
import type { Experiment } from '../experiment.js';
import type { Group } from '../group.js';
import type { Measured } from '../measured.js';
import { probeMs, SEARCHED_SETUPS, searchEach, searchRates } from '../rate-search.js';
import { setupId } from '../setup.js';
import type { Stand } from '../stand.js';

/** Sizes that a climb tries, and rates for each, as seen. */
const PROBES = 6 * 5;

/** Batches are requests of their own here, sent side by side: also on shards, where each then asks every shard once. */
export const scheduleGroup: Group = {
  name: 'schedule',
  description: 'the number of items per batch that answers the most requests a second with P99 within the bound',
  estimateMs: (experiment) => SEARCHED_SETUPS * PROBES * probeMs(experiment),
  run: async (experiment, results, onProgress): Promise<Partial<Measured>> => {
    const { configurations, found } = await searchEach(experiment, results, scheduleOf, onProgress);
    return { configurations, batchSchedules: found };
  },
};

function scheduleOf(stand: Stand, experiment: Experiment, onProbe: () => void): Promise<BatchScheduleResult> {
  const { scale, requests, spec, p99Ms, serialMs, signal } = experiment;
  return stand.use(async (ready) => {
    // Rates of neighbouring sizes are close: a search begins where the one before ended.
    let firstQps = firstRate(serialMs);
    const { best, measured } = await scheduleBatches({
      mostItems: Math.max(...requests.map((request) => itemsOf(request, spec.dense))),
      closest: scale.closestBatches,
      signal,
      measure: async (items) => {
        const predictor = new SplittingPredictor(ready.predictor, items, spec.dense);
        const { qps } = await searchRates({ ...ready, predictor }, experiment, firstQps, onProbe);
        firstQps = qps ?? firstQps;
        return qps ?? 0;
      },
    });
    return { configuration: setupId(stand.setup), p99BoundMs: p99Ms, best, measured: [...measured] };
  });
}
