import type { Costs } from '../../plan/predict/costs.js';
import { latencyUs } from '../../plan/predict/latency.js';
import { PlanPredictor } from '../../plan/predict/predict-plan.js';
import { type AskedRequest, predictRequest, totals } from '../../plan/predict/predict-request.js';
import { mainAmounts, shardAmounts } from '../../plan/predict/request-cost.js';
import type { EngineCosts } from './calibrate-engine.js';
import type { Measured } from './calibrate-requests.js';
import { nonNegativeLeastSquares, type Observation } from './least-squares.js';

const NOTHING = {
  main: {
    ...{ fixedUs: 0, askUs: 0, usPerRpc: 0, nsPerSegment: 0, nsPerRowWiseId: 0, nsPerRowWisePartial: 0 },
    ...{ nsPerByteSent: 0, nsPerByteReceived: 0 },
  },
  shard: { usPerRpc: 0, usPerColdRpc: 0, nsPerByteSent: 0, nsPerByteReceived: 0 },
  latency: { waitUs: 0, onPath: 0, bytesOnPath: 0 },
};

/** The costs that explain the measured requests best, given those of the engine. */
export function fitCosts(machine: string, sharedCores: number, engine: EngineCosts, measured: readonly Measured[]): Costs {
  const engineOnly: Costs = { terabagCosts: 2, machine, sharedCores, ...engine, dense: { ...engine.dense, nsPerWeight: 0 }, ...NOTHING };
  const { nsPerWeight, ...main } = fitMain(engineOnly, measured);
  const withMain = { ...engineOnly, dense: { ...engineOnly.dense, nsPerWeight }, main };
  return fitLatency({ ...withMain, shard: fitShard(withMain, measured) }, measured);
}

function fitMain(engineOnly: Costs, measured: readonly Measured[]): Costs['main'] & Pick<Costs['dense'], 'nsPerWeight'> {
  const keys = [...(Object.keys(NOTHING.main) as (keyof Costs['main'])[]), 'nsPerWeight'] as const;
  const observations = measured.map((trial): Observation => {
    const request = askedBy(trial, engineOnly);
    const { shards, own } = totals(request);
    const amounts = { ...mainAmounts(shards, own), nsPerWeight: thousandWeights(trial, engineOnly) };
    const ofEngine = predictRequest(request, engineOnly).main.cpuUs;
    return { amounts: keys.map((key) => amounts[key]), value: trial.mainCpuUs - ofEngine, scale: trial.mainCpuUs };
  });
  return costsOf(keys, nonNegativeLeastSquares(observations));
}

/** us of the dense layers when a weight takes 1 ns and nothing else takes time. */
function thousandWeights(trial: Measured, costs: Costs): number {
  return denseUsOf(askedBy(trial, { ...costs, dense: { nsPerWeight: 1, nsPerMac: 0, nsPerPairMac: 0 } }));
}

const denseUsOf = ({ denseUs }: AskedRequest): number => denseUs.reduce((sum, us) => sum + us, 0);

function fitShard(costs: Costs, measured: readonly Measured[]): Costs['shard'] {
  const keys = Object.keys(NOTHING.shard) as (keyof Costs['shard'])[];
  const observations = measured
    .filter(({ plan }) => plan.shards.length > 0)
    .map((trial): Observation => {
      const request = askedBy(trial, costs);
      const amounts = totals(request).shards.map((asked) => shardAmounts(asked, denseUsOf(request)));
      const ofEngine = predictRequest(request, costs).shards.reduce((sum, { cpuUs }) => sum + cpuUs, 0);
      const total = (key: keyof Costs['shard']): number => amounts.reduce((sum, amount) => sum + amount[key], 0);
      return { amounts: keys.map(total), value: trial.shardCpuUs - ofEngine, scale: trial.shardCpuUs };
    });
  return costsOf(keys, nonNegativeLeastSquares(observations));
}

function askedBy({ planned, plan, profile }: Measured, costs: Costs): AskedRequest {
  const predictor = new PlanPredictor(planned, profile, costs);
  return predictor.asked(plan, predictor.mean);
}

const costsOf = <K extends string>(keys: readonly K[], values: readonly number[]): Record<K, number> =>
  Object.fromEntries(keys.map((key, index) => [key, values[index] ?? 0])) as Record<K, number>;

const SHARES = Array.from({ length: 21 }, (_, step) => step / 20);
const WAITS_US = Array.from({ length: 61 }, (_, step) => step * 5);

/** Errors this close, relative to the least, are taken as alike. */
const ALIKE = 0.02;

/**
 * Tries all shares and waits. Where several are as good as the best, which happens when all cores are busy whatever is waited for, the one with
 * the most work waited for is taken: on machines with cores to spare it promises the least.
 */
function fitLatency(costs: Costs, measured: readonly Measured[]): Costs {
  const sharded = measured
    .filter(({ plan }) => plan.shards.length > 0)
    .map((trial) => ({ p50Us: trial.p50Us, timeline: predictRequest(askedBy(trial, costs), costs).timeline }));
  const tried = SHARES.flatMap((onPath) =>
    SHARES.flatMap((bytesOnPath) =>
      WAITS_US.map((waitUs) => {
        const latency = { waitUs, onPath, bytesOnPath };
        const errors = sharded.map(({ timeline, p50Us }) => Math.abs(Math.log(latencyUs(timeline, { ...costs, latency }) / p50Us)));
        return { latency, error: errors.reduce((sum, error) => sum + error, 0) };
      }),
    ),
  );
  const least = tried.reduce((min, { error }) => Math.min(min, error), Number.POSITIVE_INFINITY);
  const good = tried.filter(({ error }) => error <= least * (1 + ALIKE));
  const best = good.reduce((a, b) =>
    b.latency.onPath > a.latency.onPath || (b.latency.onPath === a.latency.onPath && b.error < a.error) ? b : a,
  );
  return { ...costs, latency: best.latency };
}
