import { expect, test } from 'vitest';
import { modelHash } from '../../../src/model/hash.js';
import { PlanPredictor } from '../../../src/plan/predict-plan.js';
import { profileFromSpec } from '../../../src/plan/profile-from-spec.js';
import { withItems } from '../../../src/plan/scenario.js';
import { makePlan } from '../../../src/plan/strategies.js';
import type { Measured } from '../../../src/workload/calibrate-requests.js';
import { TRIALS, type Trial } from '../../../src/workload/calibrate-requests.js';
import { fitCosts } from '../../../src/workload/fit-costs.js';
import { PLAIN_COSTS } from '../../reference/costs.js';
import { bagOf, bagsOnly, specOf, table } from '../../reference/specs.js';

const TRUE_COSTS = { ...PLAIN_COSTS, sharedCores: 2, latency: { waitUs: 40, onPath: 0.5, bytesOnPath: 0.25 } };

/** What a machine with the true costs would measure, in us. */
function measuredOn(trial: Trial): Measured {
  const { tables, dim, bagSize, items, shards, rowWise = false } = trial;
  const all = Array.from({ length: tables }, (_, at) => at);
  const layers = all.map((at) => bagOf(`bag${at}`, `t${at}`, { side: 'item', poolingFactor: bagSize }));
  const spec = specOf(
    all.map((at) => table(`t${at}`, 500, dim)),
    [{ name: 'net', layers }],
  );
  const planned = { spec, model: bagsOnly(spec) };
  const profile = withItems(profileFromSpec(spec), items);
  const made = makePlan(shards === 0 ? 'singular' : 'capacity-balanced', spec, modelHash(spec), profile, { shards: Math.max(1, shards) });
  const names = made.shards.map(({ name }) => name);
  const plan = rowWise ? { ...made, tables: made.tables.map((placed) => ({ ...placed, parts: names })) } : made;
  const predictor = new PlanPredictor(planned, profile, TRUE_COSTS);
  const { main, cpuUs, latencyUs } = predictor.request(plan, predictor.mean);
  return { trial, planned, plan, profile, mainCpuUs: main.cpuUs, shardCpuUs: cpuUs - main.cpuUs, p50Us: latencyUs };
}

test('the costs of a machine are found from what its requests take', () => {
  const measured = TRIALS.map(measuredOn);
  const { lookups, cacheBytes, pool, dense } = TRUE_COSTS;
  const costs = fitCosts('planted', 2, { lookups, cacheBytes, pool, dense }, measured);
  for (const { planned, plan, profile, mainCpuUs, shardCpuUs, p50Us } of measured) {
    const predictor = new PlanPredictor(planned, profile, costs);
    const { cpuUs, latencyUs } = predictor.request(plan, predictor.mean);
    expect(cpuUs / (mainCpuUs + shardCpuUs)).toBeCloseTo(1, 2);
    expect(Math.abs(latencyUs / p50Us - 1)).toBeLessThan(0.03);
  }
  expect(costs.shard.usPerRpc).toBeCloseTo(TRUE_COSTS.shard.usPerRpc, 1);
  expect(costs.main.usPerRpc).toBeCloseTo(TRUE_COSTS.main.usPerRpc, 0);
});
