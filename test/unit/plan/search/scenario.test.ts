import { expect, test } from 'vitest';
import { modelHash } from '../../../../src/model/hash.js';
import { STRATEGIES } from '../../../../src/plan/placement/strategies.js';
import { predictPlan } from '../../../../src/plan/predict/predict-plan.js';
import { profileFromSpec } from '../../../../src/plan/profile/profile-from-spec.js';
import { changed, compareStrategies, planScenario, type Scenario, withItems } from '../../../../src/plan/search/scenario.js';
import { PLAIN_COSTS } from '../../../reference/costs.js';
import { bagOf, bagsOnly, specOf, table } from '../../../reference/specs.js';

const spec = specOf(
  Array.from({ length: 6 }, (_, at) => table(`t${at}`, 100 + at)),
  [{ name: 'net', layers: Array.from({ length: 6 }, (_, at) => bagOf(`bag${at}`, `t${at}`, { side: 'item', poolingFactor: 10 })) }],
);
const endpoints = ['tcp://a:1', 'tcp://b:1', 'tcp://c:1'];
const scenario: Scenario = {
  planned: { spec, model: bagsOnly(spec) },
  hash: modelHash(spec),
  profile: withItems(profileFromSpec(spec), 8),
  costs: PLAIN_COSTS,
  strategy: 'capacity-balanced',
  objective: 'cpu',
  options: { shards: 3, localBytes: 0, endpoints },
  asking: {},
};

test('a scenario is planned by its strategy, and predicted as it asks', () => {
  const { plan, prediction } = planScenario(scenario);
  expect([plan.strategy, plan.shards.map((shard) => shard.endpoints[0])]).toEqual(['capacity-balanced', endpoints]);
  expect(prediction).toEqual(predictPlan(scenario.planned, plan, scenario.profile, PLAIN_COSTS));
  const paper = planScenario({ ...scenario, asking: { rpc: 'paper', batchItems: 4 } });
  expect([prediction.rpcs, paper.prediction.rpcs]).toEqual([3, 6]);
  const auto = planScenario({ ...scenario, strategy: 'auto' });
  expect([auto.plan.strategy, auto.plan.shards.length]).toEqual(['auto', 1]);
});

test('a change replaces what it names and leaves the rest', () => {
  expect(changed(scenario, {})).toEqual(scenario);
  const { strategy, objective, costs, options, asking, profile, planned } = changed(scenario, {
    ...{ strategy: 'auto', objective: 'p99', cores: 4, shards: 5, memoryLimitBytes: 1000, localBytes: 10, items: 2, format: 'int8' },
    ...{ rpc: 'paper', batchItems: 3 },
  });
  expect([strategy, objective, costs.sharedCores, asking]).toEqual(['auto', 'p99', 4, { rpc: 'paper', batchItems: 3 }]);
  // The endpoints were those of three shards.
  expect(options).toEqual({ shards: 5, memoryLimitBytes: 1000, localBytes: 10 });
  expect(planned.spec.tables.map(({ format }) => format)).toEqual(spec.tables.map(() => 'int8'));
  expect([profile.items.mean, profile.tables[0]?.bags, profile.tables[0]?.lookups]).toEqual([2, 2, 20]);
  expect(changed({ ...scenario, costs: { ...PLAIN_COSTS, sharedCores: 2 } }, { cores: null }).costs.sharedCores).toBeNull();
  expect(changed(scenario, { localBytes: 10 }).options).toEqual({ ...scenario.options, localBytes: 10 });
});

test('with other items, what is the user’s stays and the rest is in proportion', () => {
  const [first, ...others] = scenario.profile.tables;
  const mixed = { ...scenario.profile, tables: [{ ...first!, bags: 9, userBags: 1, lookups: 90, userLookups: 10 }, ...others] };
  const { items, tables } = withItems(mixed, 2);
  expect(items).toEqual({ mean: 2, p50: 2, p99: 2 });
  expect(tables[0]).toMatchObject({ bags: 1 + 8 / 4, lookups: 10 + 80 / 4 });
});

test('all strategies are compared, and one that does not fit says why; other errors are not taken for that', () => {
  const compared = compareStrategies(changed(scenario, { memoryLimitBytes: 3 * 16 * 105, localBytes: 0 }));
  expect(compared.map(({ strategy }) => strategy)).toEqual([...STRATEGIES, 'auto']);
  const refused = compared.filter(({ prediction }) => prediction === null);
  expect(refused.map(({ strategy }) => strategy)).toContain('one-shard');
  for (const { refused: error, prediction } of compared) expect(error === null).toBe(prediction !== null);
  for (const { refused: error } of refused) expect(error?.code).toBe('does_not_fit');
  expect(compared.at(-1)?.prediction).not.toBeNull();
  expect(() => compareStrategies({ ...scenario, options: { ...scenario.options, endpoints: ['tcp://a:1'] } })).toThrow(
    expect.objectContaining({ code: expect.not.stringMatching('does_not_fit') }),
  );
});
