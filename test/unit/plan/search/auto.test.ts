import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import { modelHash } from '../../../../src/model/hash.js';
import { checkPlan, MAIN_SHARD } from '../../../../src/plan/file/plan.js';
import { planSummary, tableBytes } from '../../../../src/plan/placement/bytes.js';
import { makePlan, STRATEGIES } from '../../../../src/plan/placement/strategies.js';
import { tableLoads } from '../../../../src/plan/placement/table-load.js';
import type { Costs } from '../../../../src/plan/predict/costs.js';
import { PlanPredictor, predictPlan } from '../../../../src/plan/predict/predict-plan.js';
import { profileFromSpec } from '../../../../src/plan/profile/profile-from-spec.js';
import { Arrangement, type Piece } from '../../../../src/plan/search/arrangement.js';
import { OBJECTIVES, planAuto } from '../../../../src/plan/search/auto.js';
import { PLAIN_COSTS } from '../../../reference/costs.js';
import { anySpec, bagOf, bagsOnly, specOf, table } from '../../../reference/specs.js';

const total = (spec: Parameters<typeof bagsOnly>[0]): number => spec.tables.reduce((sum, one) => sum + tableBytes(one), 0);

test('auto keeps the limits and is never worse than a fixed strategy that keeps them', () => {
  fc.assert(
    fc.property(
      anySpec,
      fc.integer({ min: 1, max: 9 }),
      fc.constantFrom(...OBJECTIVES),
      fc.constantFrom(null, 1, 2, 16),
      fc.double({ min: 0.1, max: 3, noNaN: true }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (spec, shards, objective, sharedCores, room, local) => {
        const costs: Costs = { ...PLAIN_COSTS, sharedCores };
        const planned = { spec, model: bagsOnly(spec) };
        const profile = profileFromSpec(spec);
        const hash = modelHash(spec);
        const memoryLimitBytes = Math.ceil((room * total(spec)) / shards);
        const localBytes = Math.floor(local * memoryLimitBytes);
        const scoreOf = ({ p99Us, cpuUs }: { p99Us: number; cpuUs: number }): number => (objective === 'cpu' ? cpuUs : p99Us);
        const fixed = STRATEGIES.flatMap((strategy) => {
          try {
            const plan = makePlan(strategy, spec, hash, profile, { shards, memoryLimitBytes, localBytes });
            const main = planSummary(plan, spec).find(({ shard }) => shard === MAIN_SHARD)?.bytes ?? 0;
            return main <= localBytes ? [scoreOf(predictPlan(planned, plan, profile, costs))] : [];
          } catch {
            return [];
          }
        });
        const options = { shards, memoryLimitBytes, localBytes, objective };
        try {
          const { plan, prediction } = planAuto(new PlanPredictor(planned, profile, costs), hash, options);
          checkPlan(plan, spec, hash);
          expect(plan.strategy).toBe('auto');
          expect(plan.shards.length).toBeLessThanOrEqual(shards);
          for (const { shard, bytes } of planSummary(plan, spec))
            expect(bytes).toBeLessThanOrEqual(shard === MAIN_SHARD ? localBytes : memoryLimitBytes);
          expect(prediction).toEqual(predictPlan(planned, plan, profile, costs));
          for (const score of fixed) expect(scoreOf(prediction)).toBeLessThanOrEqual(score * (1 + 1e-9));
        } catch (error) {
          if (!(error instanceof TerabagError)) throw error;
          expect(error.code).toBe('does_not_fit');
          expect(fixed).toEqual([]);
        }
      },
    ),
    { numRuns: 300 },
  );
});

const eight = specOf(
  Array.from({ length: 8 }, (_, at) => table(`t${at}`, 1000 + at)),
  [{ name: 'net', layers: Array.from({ length: 8 }, (_, at) => bagOf(`bag${at}`, `t${at}`, { side: 'user', poolingFactor: 1000 })) }],
);
const eightAuto = (options: object, costs: Costs = PLAIN_COSTS) =>
  planAuto(new PlanPredictor({ spec: eight, model: bagsOnly(eight) }, profileFromSpec(eight), costs), modelHash(eight), {
    shards: 8,
    localBytes: 0,
    objective: 'cpu',
    ...options,
  }).plan;

test('auto asks as few shards as hold the tables when CPU counts, and as many as pay when time does', () => {
  expect(eightAuto({}).shards).toHaveLength(1);
  expect(eightAuto({ memoryLimitBytes: 3 * 16 * 1007 }).shards).toHaveLength(3);
  const slow: Costs = { ...PLAIN_COSTS, lookups: PLAIN_COSTS.lookups.map((lookup) => ({ ...lookup, ns: 1e4 })) };
  expect(eightAuto({ objective: 'p99' }, slow).shards).toHaveLength(8);
});

test('main keeps what it may, and all of it without a limit', () => {
  expect(eightAuto({ localBytes: undefined }).shards).toEqual([]);
  const kept = eightAuto({ localBytes: 2 * 16 * 1007 }).tables.filter(({ parts }) => parts[0] === MAIN_SHARD);
  expect(kept).toHaveLength(2);
});

test('a plan of fewer shards takes the first endpoints', () => {
  const endpoints = Array.from({ length: 8 }, (_, at) => `tcp://host-${at}:1`);
  expect(eightAuto({ endpoints }).shards).toEqual([{ name: 'shard-0', endpoints: ['tcp://host-0:1'] }]);
});

test('moves find what balancing misses: 5 + 4 against 3 + 3 + 3', () => {
  const spec = specOf(
    [5, 4, 3, 3, 3].map((_, at) => table(`t${at}`, 100)),
    [{ name: 'net', layers: [5, 4, 3, 3, 3].map((ids, at) => bagOf(`bag${at}`, `t${at}`, { side: 'user', poolingFactor: ids * 1000 })) }],
  );
  const predictor = new PlanPredictor({ spec, model: bagsOnly(spec) }, profileFromSpec(spec), PLAIN_COSTS);
  const { prediction, alternatives } = planAuto(predictor, modelHash(spec), { shards: 2, localBytes: 0, objective: 'p99' });
  expect(prediction.shards.map(({ lookups }) => lookups)).toEqual([9000, 9000]);
  for (const { prediction: other } of alternatives) if (other !== null) expect(prediction.p99Us).toBeLessThan(other.p99Us + 1e-9);
});

test('a shard takes no two parts of a table, and main none', () => {
  const names = ['shard-0', 'shard-1', 'shard-2'];
  const plan = makePlan('capacity-balanced', eight, modelHash(eight), profileFromSpec(eight), { shards: 3 });
  const split = { ...plan, tables: plan.tables.map((placed, at) => (at === 0 ? { ...placed, parts: names.slice(0, 2) } : placed)) };
  const predictor = new PlanPredictor({ spec: eight, model: bagsOnly(eight) }, profileFromSpec(eight), PLAIN_COSTS);
  const at = new Arrangement(split, tableLoads(eight, profileFromSpec(eight)), predictor, predictor.mean);
  const [part, , whole] = at.pieces as [Piece, Piece, Piece];
  expect([1, 2, at.main].map((shard) => at.takes(shard, part, 1e9))).toEqual([false, true, false]);
  expect([0, 1, 2].map((shard) => at.takes(shard, whole, 1e9))).toEqual([true, true, true]);
  expect(at.takes(2, part, part.bytes)).toBe(false);
});

test('what fits nowhere is refused', () => {
  expect(() => eightAuto({ shards: 1, memoryLimitBytes: 100 })).toThrow(expect.objectContaining({ code: 'does_not_fit' }));
});

test.each(['p50', 'P99', '', null, undefined])('an objective that is none (%s) is refused', (objective) => {
  const spec = specOf([table('a', 100, 4)], [{ name: 'net', layers: [bagOf('bag', 'a')] }]);
  const predictor = new PlanPredictor({ spec, model: bagsOnly(spec) }, profileFromSpec(spec), PLAIN_COSTS);
  const options = { shards: 2, objective: objective as (typeof OBJECTIVES)[number] };
  expect(() => planAuto(predictor, modelHash(spec), options)).toThrow(
    expect.objectContaining({
      code: 'invalid_argument',
      details: { field: 'objective' },
      message: expect.stringMatching(/^objective has to be one of p99, cpu: /),
    }),
  );
});
