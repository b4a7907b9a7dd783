import fc from 'fast-check';
import { expect, test } from 'vitest';
import { modelHash } from '../../../../src/model/hash.js';
import { NO_ATTRIBUTES } from '../../../../src/model/ops.js';
import { MAIN_SHARD, type Plan } from '../../../../src/plan/file/plan.js';
import { makePlan, STRATEGIES } from '../../../../src/plan/placement/strategies.js';
import type { Costs } from '../../../../src/plan/predict/costs.js';
import { PlanPredictor, predictPlan } from '../../../../src/plan/predict/predict-plan.js';
import { profileFromSpec } from '../../../../src/plan/profile/profile-from-spec.js';
import { withItems } from '../../../../src/plan/search/scenario.js';
import { PLAIN_COSTS } from '../../../reference/costs.js';
import { anySpec, bagOf, bagsOnly, sequenceOf, specOf, table } from '../../../reference/specs.js';

/** A user's bag of 3 ids of 16-byte rows in the first net, and per item one of 2 ids of 32-byte rows in the second. */
const spec = specOf(
  [table('a', 100, 4), table('b', 50, 8)],
  [
    { name: 'first', layers: [bagOf('a_bag', 'a', { side: 'user', poolingFactor: 3 })] },
    { name: 'second', layers: [bagOf('b_bag', 'b', { side: 'item', poolingFactor: 2 })] },
  ],
);
const planned = { spec, model: bagsOnly(spec) };
const profile = withItems(profileFromSpec(spec), 10);
const planOf = (a: string[], b: string[]): Plan => ({
  terabagPlan: 1,
  strategy: 'by hand',
  model: { name: spec.name, version: spec.version, hash: modelHash(spec) },
  shards: ['s0', 's1'].map((name) => ({ name, endpoints: [`ipc://${name}`] })),
  tables: [
    { table: 'a', parts: a },
    { table: 'b', parts: b },
  ],
});
const predict = (plan: Plan, costs: Costs = PLAIN_COSTS, options = {}) => predictPlan(planned, plan, profile, costs, options);

test('a table on each of two shards costs what adding up by hand gives', () => {
  const { shards, main, cpuUs, p50Us, p99Us, rpcs, sentBytes, receivedBytes, boundingShard } = predict(planOf(['s0'], ['s1']));
  // Engine: a segment 1 us, bags 0.1 us each, 3 ids of 10 ns and 20 of 20 ns. Messages: 36 bytes sent and 16 received, 140 and 320.
  expect(shards.map(({ serviceUs }) => serviceUs)).toEqual([expect.closeTo(1.13, 9), expect.closeTo(2.4, 9)]);
  expect(shards.map((shard) => shard.cpuUs)).toEqual([expect.closeTo(1.13 + 13.12, 9), expect.closeTo(2.4 + 14.24, 9)]);
  expect(shards.map(({ tables, bytes, lookups }) => [tables, bytes, lookups])).toEqual([
    [1, 1600, 3],
    [1, 1600, 20],
  ]);
  // 5 + 7 + 2 RPCs of 11, 2 segments, 176 bytes of 4 ns and 336 of 6 ns.
  const mainUs = 5 + 7 + 22 + 2 + 0.704 + 2.016;
  expect(main.cpuUs).toBeCloseTo(mainUs, 9);
  expect(cpuUs).toBeCloseTo(mainUs + 14.25 + 16.64, 9);
  // Main alone, then its messages, the longer of the two shards, and the wait.
  expect(p50Us).toBeCloseTo(7 + 31.72 + 16.64 + 50, 9);
  expect(p99Us).toBe(p50Us);
  expect({ rpcs, sentBytes, receivedBytes, boundingShard }).toEqual({ rpcs: 2, sentBytes: 176, receivedBytes: 336, boundingShard: 's1' });
});

test.each<[object, string, RegExp]>([
  [{ rpc: 'each' }, 'rpc', /^rpc has to be one of coalesced, paper: each$/],
  [{ rpc: null }, 'rpc', /coalesced, paper: null$/],
  ...[0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY].map((batchItems): [object, string, RegExp] => [
    { rpc: 'paper', batchItems },
    'batchItems',
    new RegExp(`^batchItems has to be an integer, 1 or more: ${batchItems}$`),
  ]),
  [{ rpc: 'paper', batchItems: '5' }, 'batchItems', /integer, 1 or more: a string$/],
  [{ batchItems: 5 }, 'batchItems', /^batchItems needs rpc paper/],
])('a predictor that is to ask as nobody does (%o) is refused', (options, field, message) => {
  const make = () => new PlanPredictor(planned, profile, PLAIN_COSTS, options);
  expect(make).toThrow(expect.objectContaining({ code: 'invalid_argument', details: { field }, message: expect.stringMatching(message) }));
});

test('on shared cores a request takes at least all of its work over the cores', () => {
  const plan = planOf(['s0'], ['s1']);
  expect(predict(plan, { ...PLAIN_COSTS, sharedCores: 1 }).p50Us).toBeCloseTo(7 + 31.72 + 14.25 + 16.64 + 50, 9);
  expect(predict(plan, { ...PLAIN_COSTS, sharedCores: 64 }).p50Us).toBe(predict(plan).p50Us);
});

test('tables of main cost no message', () => {
  const { cpuUs, p50Us, rpcs, main, boundingShard, shards } = predict({ ...planOf([MAIN_SHARD], [MAIN_SHARD]), shards: [] });
  expect(cpuUs).toBeCloseTo(5 + 2 + 1.13 + 2.4, 9);
  expect(p50Us).toBe(cpuUs);
  expect({ rpcs, boundingShard, shards }).toEqual({ rpcs: 0, boundingShard: null, shards: [] });
  expect(main).toMatchObject({ tables: 2, bytes: 3200, lookups: 23 });
});

test('RPCs cost shards more the longer main computes, up to two milliseconds', () => {
  const fc = { ...NO_ATTRIBUTES, name: 'fc', op: 'fc', inputs: [0], dim: 1000, stage: 1, tensors: ['w', null] } as const;
  const deep = { spec, model: { ...planned.model, layers: [fc] } };
  const plan = planOf(['s0'], ['s1']);
  const shardsUs = (nsPerWeight: number): number[] =>
    predictPlan(deep, plan, profile, {
      ...PLAIN_COSTS,
      dense: { nsPerWeight, nsPerMac: 0, nsPerPairMac: 0 },
      shard: { ...PLAIN_COSTS.shard, usPerColdRpc: 100 },
    }).shards.map(({ cpuUs }) => cpuUs);
  const warm = shardsUs(0);
  // 4000 weights: half a millisecond, then five.
  for (const [ns, more] of [
    [125, 25],
    [1250, 100],
  ] as const)
    expect(shardsUs(ns)).toEqual(warm.map((us) => expect.closeTo(us + more, 9)));
});

test('a part of a row-wise table is sent the bags that have ids on it', () => {
  const { shards, receivedBytes } = predict(planOf(['s0'], ['s0', 's1']));
  // A quarter of 10 bags with 2 ids each has none on one of two parts.
  expect(receivedBytes).toBeCloseTo(16 + 2 * 7.5 * 32, 9);
  expect(shards.map(({ lookups }) => lookups)).toEqual([13, 10]);
  // The user's one bag of 3 ids: an eighth of the requests has none of them on a part.
  expect(predict(planOf(['s0', 's1'], ['s0'])).receivedBytes).toBeCloseTo(2 * 0.875 * 16 + 320, 9);
});

test('each id of a sequence comes back as a row, and parts tell the sums of weights of a weighted mean', () => {
  const layers = [
    sequenceOf('a_sequence', 'a', { side: 'user', maxLength: 3 }),
    bagOf('b_bag', 'b', { poolingFactor: 2, pooling: 'weighted_mean', weighted: true }),
  ];
  const other = specOf(spec.tables, [{ name: 'first', layers }]);
  const received = (a: string[], b: string[]): number => {
    const plan = { ...planOf(a, b), model: { name: other.name, version: other.version, hash: modelHash(other) } };
    return predictPlan({ spec: other, model: bagsOnly(other) }, plan, withItems(profileFromSpec(other), 10), PLAIN_COSTS).receivedBytes;
  };
  expect(received(['s0'], ['s1'])).toBeCloseTo(3 * 16 + 10 * 32, 9);
  expect(received(['s0', 's1'], ['s1', 's0'])).toBeCloseTo(3 * 16 + 2 * 7.5 * 36, 9);
});

test('rpc paper asks net after net and batch after batch, and pools what is the user’s in each batch', () => {
  const plan = planOf(['s0'], ['s0']);
  expect(predict(plan).rpcs).toBe(1);
  const paper = predict(plan, PLAIN_COSTS, { rpc: 'paper', batchItems: 5 });
  expect(paper.rpcs).toBe(4);
  expect(paper.shards[0]?.lookups).toBe(2 * 3 + 20);
  expect(paper.p50Us).toBeGreaterThan(predict(plan).p50Us + 50);
});

test('P99 is the time of a request with the 99th percentile of items, P50 that of the median, CPU that of the mean', () => {
  const plan = planOf(['s0'], ['s1']);
  const spread = { ...profile, items: { ...profile.items, p99: 20 } };
  const predicted = predictPlan(planned, plan, spread, PLAIN_COSTS);
  const twice = predictPlan(planned, plan, withItems(profile, 20), PLAIN_COSTS);
  expect(predicted.p99Us).toBeCloseTo(twice.p50Us, 9);
  expect(predicted.cpuUs).toBe(predict(plan).cpuUs);
  expect(predicted.p50Us).toBe(predict(plan).p50Us);
  const skewed = predictPlan(planned, plan, { ...profile, items: { ...profile.items, p50: 20, p99: 10 } }, PLAIN_COSTS);
  expect(skewed.p50Us).toBeCloseTo(twice.p50Us, 9);
  expect([skewed.p99Us, skewed.cpuUs]).toEqual([predict(plan).p99Us, predict(plan).cpuUs]);
  const one = predictPlan(planned, plan, { ...profile, items: { ...profile.items, p50: 20, p99: 20 } }, PLAIN_COSTS);
  expect([one.p50Us, one.p99Us]).toEqual([skewed.p50Us, skewed.p50Us]);
});

const anyCosts = fc
  .record({
    cores: fc.option(fc.integer({ min: 1, max: 8 })),
    onPath: fc.double({ min: 0, max: 1, noNaN: true }),
    cacheBytes: fc.nat(1_000_000),
  })
  .map(
    ({ cores, onPath, cacheBytes }): Costs => ({
      ...PLAIN_COSTS,
      sharedCores: cores,
      cacheBytes,
      latency: { waitUs: 9, onPath, bytesOnPath: onPath },
    }),
  );

test('more ids, dearer bytes and more items never make a plan cheaper, and no work is lost between shards', () => {
  fc.assert(
    fc.property(
      anySpec,
      fc.constantFrom(...STRATEGIES),
      fc.integer({ min: 1, max: 6 }),
      anyCosts,
      fc.nat(39),
      (any, strategy, shards, costs, more) => {
        const base = profileFromSpec(any);
        const model = { spec: any, model: bagsOnly(any) };
        const plan = makePlan(strategy, any, modelHash(any), base, { shards });
        const before = predictPlan(model, plan, base, costs);
        const grown = base.tables.map((one, at) =>
          at === more % base.tables.length ? { ...one, lookups: one.lookups * 2, userLookups: one.userLookups * 2 } : one,
        );
        const dearer = {
          ...costs,
          main: { ...costs.main, nsPerByteSent: 9, nsPerByteReceived: 9 },
          shard: { ...costs.shard, nsPerByteSent: 9, nsPerByteReceived: 9 },
        };
        for (const after of [
          // Without caches: what is asked more often may be cached better.
          [{ ...costs, cacheBytes: 0 }, base, { ...base, tables: grown }],
          [costs, base, withItems(base, base.items.mean * 3)],
        ] as const) {
          const [own, from, to] = after;
          const [less, greater] = [from, to].map((one) => predictPlan(model, plan, one, own));
          for (const key of ['cpuUs', 'p50Us', 'p99Us'] as const) expect(greater![key]).toBeGreaterThanOrEqual(less![key] * (1 - 1e-12));
        }
        expect(predictPlan(model, plan, base, dearer).cpuUs).toBeGreaterThanOrEqual(before.cpuUs * (1 - 1e-12));
        const lookups = base.tables.reduce((sum, one) => sum + one.lookups, 0);
        const asked = before.shards.reduce((sum, one) => sum + one.lookups, before.main.lookups);
        const read = new Set(model.model.bags.map(({ tableName }) => tableName));
        expect(asked).toBeCloseTo(base.tables.every((one) => one.lookups === 0 || read.has(one.table)) ? lookups : asked, 6);
      },
    ),
    { numRuns: 200 },
  );
});
