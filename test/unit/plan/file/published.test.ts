import { expect, test } from 'vitest';
import type { Plan } from '../../../../src/plan/file/plan.js';
import { checkPublishedFor, partsDifference } from '../../../../src/plan/file/published.js';
import { specOf, table } from '../../../reference/specs.js';

const plan: Plan = {
  terabagPlan: 1,
  strategy: 'by hand',
  model: { name: 'm', version: '1', hash: 'a'.repeat(64) },
  shards: ['s0', 's1'].map((name) => ({ name, endpoints: [`ipc://${name}`] })),
  tables: [
    { table: 'split', parts: ['s0', 's1'] },
    { table: 'whole', parts: ['s1'] },
  ],
};
const bundleFor = (shard: string, parts: readonly { table: string; part: number; parts: number }[]) => ({
  ...specOf([table('split', 9), table('whole', 5)]),
  published: {
    ...{ shard, source: 'b'.repeat(64), files: {} },
    parts: parts.map((part) => ({ ...part, rows: 1, file: `${part.table}.safetensors`, tensor: 'w' })),
  },
});
const ofS1 = [
  { table: 'split', part: 1, parts: 2 },
  { table: 'whole', part: 0, parts: 1 },
];

test('a bundle serves the shard that it was published for, by a plan of the same parts; a whole one serves any', () => {
  const check = (shard: string, held = ofS1) => checkPublishedFor(plan, 's1', bundleFor(shard, held), './published/s1');
  expect(() => check('s1')).not.toThrow();
  expect(() => checkPublishedFor(plan, 's1', specOf([]), './model')).not.toThrow();
  expect(() => check('s0')).toThrow(/published for shard s0, this is s1: \.\/published\/s1/);
  expect(() => check('s1', ofS1.slice(0, 1))).toThrow(/holds nothing of table whole, the plan says part 0 of 1/);
  expect(() => check('s1', [...ofS1, { table: 'more', part: 0, parts: 1 }])).toThrow(/part 0 of 1 of table more, the plan says nothing/);
});

test('the first table of which other parts are wanted than held is named', () => {
  const parts = (part: number, count: number) => new Map([['t', { part, parts: count }]]);
  expect(partsDifference(parts(0, 2), parts(0, 2))).toBeNull();
  expect(partsDifference(parts(0, 2), parts(1, 2))?.details).toEqual({ table: 't' });
  expect(partsDifference(parts(0, 2), parts(0, 3))?.details).toEqual({ table: 't' });
});
