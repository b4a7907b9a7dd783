import { join } from 'node:path';
import { native } from '../src/engine/native.js';
import { type ModelShape, type TableShape, tableName } from '../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { shapeByName } from '../src/lab/generate/shape-by-name.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import { findMaxQps, firstRate } from '../src/lab/load/capacity-search.js';
import type { ModelSpec } from '../src/model/spec.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest } from '../src/predictor/predictor.js';
import { BatchingPredictor } from '../src/serve/batching/batching-predictor.js';
import { capacityPlan } from '../test/reference/plans.js';
import { type Line, median, quartileSpread, type Suite } from './suite.js';
import { measure, openLocalTarget, openShardedTarget, type Target } from './targets.js';

const ITEMS = 8;
const BOUND = { quantile: 0.99, ms: 10 };
/** A request is worth nothing after it. */
const DEADLINE_MS = 100;
const FULL = { rows: 400_000, distinct: 512, warmUpMs: 300, runMs: 1500, tolerance: 0.05 };
const QUICK = { rows: 20_000, distinct: 64, warmUpMs: 100, runMs: 300, tolerance: 0.2 };
const SHARDS = [0, 2, 4] as const;

interface Model {
  readonly name: string;
  readonly shape: (rows: number) => ModelShape;
}

/** Large layers over small requests, and small layers over large bags of the user. */
const MODELS: readonly Model[] = [
  { name: 'dlrm26', shape: dlrmShape },
  { name: 'rmc1', shape: (rows) => capRows(shapeByName('rmc1', 1), rows) },
];

const capRows = (shape: ModelShape, most: number): ModelShape => ({
  ...shape,
  nets: shape.nets.map((net) => ({ ...net, tables: net.tables.map((table) => ({ ...table, rows: Math.min(most, table.rows) })) })),
});

/** As that of the predict bench. */
function dlrmShape(rows: number): ModelShape {
  const tables = Array.from(
    { length: 26 },
    (_, table): TableShape => ({
      ...{ name: tableName(table), rows, dim: 64, format: 'fp32', side: 'item', pooling: 'sum', weighted: false },
      ...{ poolingFactor: 1, bagSizes: 'fixed', reuse: { type: 'zipf', exponent: 0 } },
    }),
  );
  const net = { name: 'dlrm', bottomMlp: [512, 256, 64], interaction: { type: 'dot' }, topMlp: [512, 512, 256, 1], tables } as const;
  return { name: 'dlrm26', description: '26 tables of dim 64, one id a bag', seed: 26, denseDim: 13, nets: [net] };
}

export const batchingSuite: Suite = {
  name: 'batching',
  description: `the most requests of ${ITEMS} items a second at P99 <= ${BOUND.ms} ms, with dynamic batching and without, in this process and on shards`,
  async *run({ quick, rounds, wanted, dir }) {
    const lengths = quick ? QUICK : FULL;
    for (const model of MODELS) {
      const cases = SHARDS.map((shards) => ({ shards, name: `${model.name}-${shards === 0 ? 'local' : `${shards}shards`}` }));
      const chosen = cases.filter(({ name }) => wanted.test(name));
      if (chosen.length === 0) continue;
      const shape = model.shape(lengths.rows);
      const bundle = join(dir, model.name);
      const spec = await writeSyntheticBundle(bundle, shape);
      const generator = new RequestGenerator(requestShape(shape), ITEMS);
      const requests = Array.from({ length: lengths.distinct }, () => generator.next(ITEMS));
      for (const { shards, name } of chosen) {
        const target = await openTarget(spec, bundle, shards);
        try {
          yield* linesOf(name, await measureRates(target, requests, lengths, rounds));
        } finally {
          await target.close();
        }
      }
    }
  },
};

const openTarget = (spec: ModelSpec, bundle: string, shards: number): Promise<Target> =>
  shards === 0 ? openLocalTarget(bundle, { verify: 'size' }) : openShardedTarget(capacityPlan(spec, shards), bundle, { verify: 'size' });

/** What one round gave: requests a second. */
interface Rates {
  readonly without: number;
  readonly batching: number;
  /** Requests of a run of several, over the round. */
  readonly perRun: number;
}

/** With and without in turn; the first round warms up. A rate that was not found, since not even the lowest met the bound, is 0. */
async function measureRates(target: Target, requests: readonly PredictRequest[], lengths: typeof FULL, rounds: number): Promise<Rates[]> {
  const { warmUpMs, runMs: durationMs, tolerance } = lengths;
  const rates: Rates[] = [];
  for (let round = -1; round < rounds; round++) {
    const serial = await measure(target, requests.slice(0, 64));
    const rateOf = async (predictor: Predictor): Promise<number> => {
      const { qps } = await findMaxQps({
        ...{ predictor, requests, warmUpMs, durationMs, tolerance, bound: BOUND, process: 'poisson', seed: 100 + round },
        ...{ repeats: 1, deadlineMs: DEADLINE_MS, firstQps: firstRate(serial.p50) },
      });
      return qps ?? 0;
    };
    const batching = new BatchingPredictor(new KeptOpen(target.predictor));
    const own = { without: await rateOf(target.predictor), batching: await rateOf(batching) };
    const { mergedRequests, mergedRuns } = batching.batchingStats();
    if (round >= 0) rates.push({ ...own, perRun: mergedRequests / Math.max(1, mergedRuns) });
    await batching.close();
  }
  return rates;
}

/** A predictor that outlives who has it. */
class KeptOpen implements Predictor {
  readonly modelHash: string;
  readonly model: Predictor['model'];
  constructor(private readonly predictor: Predictor) {
    this.modelHash = predictor.modelHash;
    this.model = predictor.model;
  }
  predict(request: PredictRequest, options?: PredictOptions): Promise<Prediction> {
    return this.predictor.predict(request, options);
  }
  readiness(): ReturnType<Predictor['readiness']> {
    return this.predictor.readiness();
  }
  stats(): ReturnType<Predictor['stats']> {
    return this.predictor.stats();
  }
  async close(): Promise<void> {}
}

function* linesOf(name: string, rates: readonly Rates[]): Generator<Line> {
  const base = { suite: 'batching', peer: null, isa: native.isa, threads: 1, residency: 'populate', unit: '/s' } as const;
  const line = (which: 'without' | 'batching', against: string): Line => {
    const values = rates.map((round) => round[which]);
    const params = { items: ITEMS, p99Ms: BOUND.ms, against };
    const value = median(values);
    return { ...base, case: `${name}-${which}`, params, metric: 'max rate', value, ratio: null, spread: quartileSpread(values) / value };
  };
  const gain = median(rates.map(({ without, batching }) => batching / without));
  const perRun = median(rates.map((round) => round.perRun));
  yield line('without', '');
  yield line('batching', `${gain.toFixed(2)} x without, the median over rounds; ${perRun.toFixed(1)} requests a merged run`);
}
