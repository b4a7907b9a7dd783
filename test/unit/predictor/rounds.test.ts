import { expect, test } from 'vitest';
import type { ResolvedModel } from '../../../src/model/graph.js';
import type { Plan } from '../../../src/plan/file/plan.js';
import { checkRequest } from '../../../src/predictor/request.js';
import { roundOfPlan, roundOnMain } from '../../../src/predictor/rounds.js';
import { Scratch } from '../../../src/predictor/scratch.js';
import { PLAIN_BAG } from '../../reference/plain-bag.js';

const bag = (name: string, table: number) => ({ ...PLAIN_BAG, name, table, tableName: `t${table}`, dim: 2 }) as const;
/** Two layers read the first table. */
const MODEL: ResolvedModel = { dense: [], bags: [bag('a', 0), bag('b', 1), bag('c', 0)], layers: [], output: 0, outputDim: 1 };
const request = () => {
  const bags = { indices: [1, 2], offsets: [0, 2] };
  return checkRequest(MODEL, { dense: {}, sparse: { a: bags, b: { indices: [], offsets: [0, 0] }, c: bags } }, new Scratch());
};

test('on main, one destination has all layers in the model order, also those without an id: its answer is what the dense net reads', () => {
  const { bags, rowWise, stage, partitioner } = roundOnMain(MODEL);
  expect([bags, rowWise, stage]).toEqual([[0, 1, 2], [], 1]);
  const [main, ...others] = partitioner.partition(request(), new Scratch());
  expect(main?.assignments.map((assignment) => assignment.bag)).toEqual([0, 1, 2]);
  expect([[...(main?.numBags ?? [])], others]).toEqual([[1, 1, 1], []]);
});

test('of a plan, shards come in its order and main after them, each with the layers of its tables and parts', () => {
  const plan = {
    shards: ['x', 'y', 'idle'].map((name) => ({ name, endpoints: [] })),
    tables: [
      { table: 't0', parts: ['y', 'main'] },
      { table: 't1', parts: ['x'] },
    ],
  } as unknown as Plan;
  const { bags, rowWise, stage, partitioner } = roundOfPlan(plan, MODEL);
  expect([bags, rowWise, stage]).toEqual([[0, 1, 2], [0, 2], 1]);
  const partitions = partitioner.partition(request(), new Scratch());
  expect(
    partitions.map(({ assignments, batch }) => [assignments.map(({ bag, part, parts }) => [bag, part, parts]), batch !== null]),
  ).toEqual([
    // No id of t1 is given.
    [[[1, 0, 1]], false],
    [
      [
        [0, 0, 2],
        [2, 0, 2],
      ],
      true,
    ],
    [[], false],
    [
      [
        [0, 1, 2],
        [2, 1, 2],
      ],
      true,
    ],
  ]);
});
