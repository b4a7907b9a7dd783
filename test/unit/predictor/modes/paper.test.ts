import { expect, test } from 'vitest';
import type { ResolvedModel } from '../../../../src/model/graph.js';
import type { Plan } from '../../../../src/plan/file/plan.js';
import { numBatches, roundsOfNets } from '../../../../src/predictor/modes/paper.js';
import { PLAIN_BAG } from '../../../reference/plain-bag.js';

const bag = (name: string, net: number) => ({ ...PLAIN_BAG, name, net, tableName: `${name}-table` }) as const;
const MODEL: ResolvedModel = {
  dense: [],
  bags: [bag('a', 0), bag('b', 1), bag('c', 0), bag('d', 2)],
  layers: [],
  output: 0,
  outputDim: 1,
};
const PLAN = {
  shards: ['x', 'y'].map((name) => ({ name, endpoints: [] })),
  tables: MODEL.bags.map(({ tableName }) => ({ table: tableName, parts: tableName === 'b-table' ? ['x', 'y'] : ['x'] })),
} as unknown as Plan;

test('each net has a round with its bag layers, before the stage of the dense net that needs them', () => {
  expect(roundsOfNets(PLAN, MODEL, 1).map(({ bags, rowWise, stage }) => [bags, rowWise, stage])).toEqual([
    [[0, 2], [], 1],
    [[1], [1], 2],
    [[3], [], 3],
  ]);
});

test('a net without bag layers has a round of its own all the same, since its layers have to run', () => {
  expect(roundsOfNets(PLAN, MODEL, 5).map(({ bags, stage }) => [bags, stage])).toEqual([
    [[0, 2], 1],
    [[1], 2],
    [[3], 3],
    [[], 4],
    [[], 5],
  ]);
});

test('a request is cut into batches of as many items, and has one when it has none', () => {
  expect(
    [
      [0, 4],
      [1, 4],
      [4, 4],
      [5, 4],
      [1024, 1],
      [7, Number.POSITIVE_INFINITY],
    ].map(([items = 0, each = 0]) => numBatches(items, each)),
  ).toEqual([1, 1, 1, 2, 1024, 1]);
  expect(() => numBatches(1025, 1)).toThrow(
    expect.objectContaining({ code: 'invalid_argument', details: { field: 'batchItems', items: 1025 } }),
  );
});
