import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ResolvedModel } from '../../../src/model/graph.js';
import { Gathering, pooledLength, pooledStarts } from '../../../src/predictor/gather.js';
import { Partitioner } from '../../../src/predictor/partition.js';
import { checkRequest } from '../../../src/predictor/request.js';
import { Scratch } from '../../../src/predictor/scratch.js';
import { PLAIN_BAG } from '../../reference/plain-bag.js';

const BAG = { ...PLAIN_BAG, rows: 1000 };
const modelOf = (bags: readonly { name: string; pooling: 'sum' | 'mean'; dim?: number }[]): ResolvedModel => ({
  dense: [],
  bags: bags.map((bag) => ({ ...BAG, ...bag })),
  layers: [],
  output: 0,
  outputDim: 1,
});

const floats = (...values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);

/** One bag with an id on each of so many parts, whose sums are given. */
function addedUp(pooling: 'sum' | 'mean', sums: readonly number[], order: readonly number[]): number {
  const model = modelOf([{ name: 'bag', pooling }]);
  const scratch = new Scratch();
  const indices = sums.map((_, part) => part);
  const request = checkRequest(model, { dense: {}, sparse: { bag: { indices, offsets: [0, sums.length] } } }, scratch);
  const parts = sums.length;
  const partitions = new Partitioner(
    model,
    sums.map((_, part) => [{ bag: 0, part, parts }]),
  ).partition(request, scratch);
  const values = new Float32Array([Number.NaN]);
  const gathering = new Gathering(model, [0], partitions, { values, starts: pooledStarts(model, request) });
  for (const part of order) gathering.place(part, floats(sums[part] as number));
  gathering.finish();
  return values[0] as number;
}

test('sums of the parts of a table are added in float32 in the order of the parts, in whichever order they come', () => {
  // (1e8 + -1e8) + 1, and not in the order in which they come: (1e8 + 1) + -1e8 is 0.
  for (const order of [
    [0, 1, 2],
    [0, 2, 1],
    [2, 1, 0],
    [1, 2, 0],
  ])
    expect([addedUp('sum', [1e8, -1e8, 1], order), addedUp('sum', [1e8, 1, -1e8], order)]).toEqual([1, 0]);
  const parts = fc.array(fc.float({ noNaN: true, noDefaultInfinity: true, min: -(2 ** 100), max: 2 ** 100 }), {
    minLength: 2,
    maxLength: 6,
  });
  fc.assert(
    fc.property(
      parts.chain((sums) =>
        fc.record({ sums: fc.constant(sums), order: fc.shuffledSubarray([...sums.keys()], { minLength: sums.length }) }),
      ),
      ({ sums, order }) => {
        let expected = 0;
        for (const sum of sums) expected = Math.fround(expected + sum);
        expect(addedUp('sum', sums, order)).toBe(expected);
        expect(addedUp('mean', sums, order)).toBe(Math.fround(expected / sums.length));
      },
    ),
  );
});

test('vectors of whole tables are copied bit by bit, and those of which nothing was asked are zeros', () => {
  const model = modelOf([
    { name: 'a', pooling: 'sum', dim: 2 },
    { name: 'b', pooling: 'mean', dim: 3 },
    { name: 'c', pooling: 'sum' },
  ]);
  const scratch = new Scratch();
  const sparse = {
    a: { indices: [1, 2], offsets: [0, 1, 2] },
    b: { indices: [], offsets: [0, 0] },
    c: { indices: [3], offsets: [0, 1] },
  };
  const request = checkRequest(model, { dense: {}, sparse }, scratch);
  const whole = (bag: number) => ({ bag, part: 0, parts: 1 });
  const partitions = new Partitioner(model, [[whole(2)], [whole(1), whole(0)]], { emptyTables: 'skip' }).partition(request, scratch);
  expect(pooledLength(model, request)).toBe(8);
  const values = new Float32Array(8).fill(Number.NaN);
  const gathering = new Gathering(model, [], partitions, { values, starts: pooledStarts(model, request) });
  const odd = [-0, 1e-45, 3.4028234663852886e38, Number.NEGATIVE_INFINITY];
  // An answer lies wherever its message does.
  const unaligned = new Uint8Array(odd.length * 4 + 1).subarray(1);
  unaligned.set(floats(...odd));
  gathering.place(1, unaligned);
  gathering.place(0, floats(7));
  gathering.finish();
  expect([...values]).toEqual([...Float32Array.from(odd), 0, 0, 0, 7]);
});

test('a shard that is done without leaves zeros, also of its tables that were asked for nothing', () => {
  const model = modelOf([
    { name: 'a', pooling: 'sum', dim: 2 },
    { name: 'b', pooling: 'mean' },
    { name: 'c', pooling: 'sum' },
  ]);
  const scratch = new Scratch();
  const sparse = {
    a: { indices: [1], offsets: [0, 1] },
    b: { indices: [], offsets: [0, 0] },
    c: { indices: [3], offsets: [0, 1] },
  };
  const request = checkRequest(model, { dense: {}, sparse }, scratch);
  const whole = (bag: number) => ({ bag, part: 0, parts: 1 });
  const partitions = new Partitioner(model, [[whole(0), whole(1)], [whole(2)]], { emptyTables: 'skip' }).partition(request, scratch);
  // What the request before has left there.
  const values = new Float32Array(4).fill(9);
  const gathering = new Gathering(model, [], partitions, { values, starts: pooledStarts(model, request) });
  gathering.place(1, floats(7));
  expect(gathering.placeDefaults(0)).toEqual([0]);
  gathering.finish();
  expect([...values]).toEqual([0, 0, 0, 7]);
});
