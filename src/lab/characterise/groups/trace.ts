import { join } from 'node:path';
import { chromeTrace } from '../../../observe/chrome-trace.js';
import { writeFileAtomic } from '../../../tables/atomic.js';
import { chosenSetup } from '../best.js';
import { type Group, serialTurns } from '../group.js';
import { configurationOf, type Measured } from '../measured.js';
import { setupId } from '../setup.js';
import { withStands } from '../stand.js';
import { answered, medianRequest, waterfallOf } from '../tracing.js';

/** File beside the results: opens in Perfetto. */
export const TRACE_FILE = 'trace.json';
/** In the file: those around the one that is drawn. */
const REQUESTS_IN_FILE = 50;

export const traceGroup: Group = {
  name: 'trace',
  description: `where the time of single requests goes; ${TRACE_FILE} opens in Perfetto`,
  estimateMs: (experiment) => serialTurns(experiment, 1).turnMs,
  run: async (experiment, results, onProgress): Promise<Partial<Measured>> => {
    const setup = chosenSetup(results, experiment.scale.shards);
    return withStands([setup], experiment, async ([stand]) => {
      if (stand === undefined) return {};
      const { take, turnMs } = serialTurns(experiment, 1);
      await take(stand, 0);
      onProgress(turnMs);
      const requests = answered(stand.tracer);
      const median = medianRequest(requests);
      if (median === null) return { skipped: [{ experiment: 'trace', reason: 'no traced request was answered' }] };
      const at = Math.max(0, requests.indexOf(median) - REQUESTS_IN_FILE / 2);
      const trace = chromeTrace(requests.slice(at, at + REQUESTS_IN_FILE));
      await writeFileAtomic(join(experiment.dir, TRACE_FILE), `${JSON.stringify(trace)}\n`);
      const described = { configuration: setupId(setup), request: `the median of ${requests.length} serial requests` };
      return { configurations: [configurationOf(stand, [])], waterfall: waterfallOf(median, described) };
    });
  },
};
