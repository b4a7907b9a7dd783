import { expect, test } from 'vitest';
import type { Measured } from '../../../../src/lab/calibrate/calibrate-requests.js';
import { TRIALS, type Trial } from '../../../../src/lab/calibrate/calibrate-requests.js';
import { fitCosts } from '../../../../src/lab/calibrate/fit-costs.js';
import { SeededNumbers } from '../../../../src/lab/generate/synthetic-values.js';
import { modelHash } from '../../../../src/model/hash.js';
import { NO_ATTRIBUTES } from '../../../../src/model/ops.js';
import { makePlan } from '../../../../src/plan/placement/strategies.js';
import type { Costs } from '../../../../src/plan/predict/costs.js';
import { PlanPredictor } from '../../../../src/plan/predict/predict-plan.js';
import { profileFromSpec } from '../../../../src/plan/profile/profile-from-spec.js';
import { withItems } from '../../../../src/plan/search/scenario.js';
import { PLAIN_COSTS } from '../../../reference/costs.js';
import { bagOf, bagsOnly, specOf, table } from '../../../reference/specs.js';

const TRUE_COSTS = {
  ...PLAIN_COSTS,
  sharedCores: 2,
  dense: { nsPerWeight: 0.1, nsPerMac: 0.02, nsPerPairMac: 0 },
  shard: { ...PLAIN_COSTS.shard, usPerColdRpc: 9 },
  latency: { waitUs: 40, onPath: 0.5, bytesOnPath: 0.25 },
};
const FC = { ...NO_ATTRIBUTES, op: 'fc', inputs: [0], stage: 1, tensors: ['w', null] } as const;

/** What a machine with the true costs would measure, in us. */
function measuredOn(trial: Trial, costs: Costs = TRUE_COSTS): Measured {
  const { tables, dim, bagSize, items, shards, rowWise = false } = trial;
  const all = Array.from({ length: tables }, (_, at) => at);
  const layers = all.map((at) => bagOf(`bag${at}`, `t${at}`, { side: 'item', poolingFactor: bagSize }));
  const spec = specOf(
    all.map((at) => table(`t${at}`, 500, dim)),
    [{ name: 'net', layers }],
  );
  // One to two million weights, not in proportion to the tables.
  const weights = 1e6 * (1 + ((tables * dim) % 7) / 7);
  const planned = { spec, model: { ...bagsOnly(spec), layers: [{ ...FC, name: 'fc', dim: Math.round(weights / dim) }] } };
  const profile = withItems(profileFromSpec(spec), items);
  const made = makePlan(shards === 0 ? 'singular' : 'capacity-balanced', spec, modelHash(spec), profile, { shards: Math.max(1, shards) });
  const names = made.shards.map(({ name }) => name);
  const plan = rowWise ? { ...made, tables: made.tables.map((placed) => ({ ...placed, parts: names })) } : made;
  const predictor = new PlanPredictor(planned, profile, costs);
  const { main, cpuUs, latencyUs } = predictor.request(plan, predictor.mean);
  return { trial, planned, plan, profile, mainCpuUs: main.cpuUs, shardCpuUs: cpuUs - main.cpuUs, p50Us: latencyUs };
}

test('the costs of a machine are found from what its requests take', () => {
  const measured = TRIALS.map((trial) => measuredOn(trial));
  const {
    lookups,
    cacheBytes,
    pool,
    dense: { nsPerMac, nsPerPairMac },
  } = TRUE_COSTS;
  const costs = fitCosts('planted', 2, { lookups, cacheBytes, pool, dense: { nsPerMac, nsPerPairMac } }, measured);
  for (const { planned, plan, profile, mainCpuUs, shardCpuUs, p50Us } of measured) {
    const predictor = new PlanPredictor(planned, profile, costs);
    const { cpuUs, latencyUs } = predictor.request(plan, predictor.mean);
    expect(cpuUs / (mainCpuUs + shardCpuUs)).toBeCloseTo(1, 2);
    expect(Math.abs(latencyUs / p50Us - 1)).toBeLessThan(0.03);
  }
  // Each cost by itself, and not only their sums: the trials tell them apart.
  for (const key of Object.keys(costs.main) as (keyof typeof costs.main)[])
    expect([key, costs.main[key] / TRUE_COSTS.main[key]]).toEqual([key, expect.closeTo(1, 1)]);
  for (const key of Object.keys(costs.shard) as (keyof typeof costs.shard)[])
    expect([key, costs.shard[key] / TRUE_COSTS.shard[key]]).toEqual([key, expect.closeTo(1, 1)]);
  expect(costs.dense.nsPerWeight).toBeCloseTo(TRUE_COSTS.dense.nsPerWeight, 3);
});

test('no trial has to be exact: with errors of a tenth, costs of bytes and of RPCs stay within a third', () => {
  const numbers = new SeededNumbers(1);
  const off = (): number => 1 + 0.2 * (numbers.uniform() - 0.5);
  const dear = {
    ...TRUE_COSTS,
    main: { ...TRUE_COSTS.main, usPerRpc: 60 },
    shard: { ...TRUE_COSTS.shard, usPerRpc: 130, usPerColdRpc: 60 },
  };
  const measured = TRIALS.map((trial) => {
    const exact = measuredOn(trial, dear);
    return { ...exact, mainCpuUs: exact.mainCpuUs * off(), shardCpuUs: exact.shardCpuUs * off() };
  });
  const { lookups, cacheBytes, pool, dense } = dear;
  const { main, shard } = fitCosts('planted', 2, { lookups, cacheBytes, pool, dense }, measured);
  for (const key of ['usPerRpc', 'nsPerByteSent', 'nsPerByteReceived'] as const) {
    expect(Math.abs(main[key] / dear.main[key] - 1)).toBeLessThan(1 / 3);
    expect(Math.abs(shard[key] / dear.shard[key] - 1)).toBeLessThan(1 / 3);
  }
});
