import fc from 'fast-check';
import { expect, test } from 'vitest';
import { indexOutOfRange } from '../../../src/engine/sparse-engine.js';
import type { ResolvedModel } from '../../../src/model/graph.js';
import { Partitioner, placedInRequest } from '../../../src/predictor/partition.js';
import type { BagsInput } from '../../../src/predictor/predictor.js';
import { type CheckedRequest, checkRequest, sliceItems } from '../../../src/predictor/request.js';
import { Scratch } from '../../../src/predictor/scratch.js';

const BAG = { tableName: 'shared', table: 0, rows: 1000, pooling: 'sum', dim: 2, net: 0 } as const;
const MODEL: ResolvedModel = {
  dense: [
    { name: 'user', dim: 3 },
    { name: 'item', dim: 2 },
  ],
  bags: [
    { ...BAG, name: 'clicks', weighted: true },
    { ...BAG, name: 'item_id', weighted: false },
  ],
  layers: [],
  output: 0,
  outputDim: 1,
};

/** A feature per item or once, with values that tell its item. */
const given = fc
  .record({
    items: fc.integer({ min: 2, max: 9 }),
    once: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean(), fc.boolean()),
    lengths: fc.array(fc.nat(3), { minLength: 18, maxLength: 18 }),
  })
  .map(({ items, once, lengths }) => {
    const dense = (dim: number, feature: number) =>
      Array.from({ length: dim * (once[feature] ? 1 : items) }, (_, at) => 100 * feature + at);
    const bags = (layer: number): BagsInput => {
      const own = lengths.slice(layer * 9, layer * 9 + (once[2 + layer] ? 1 : items));
      const offsets = [0];
      for (const length of own) offsets.push((offsets.at(-1) as number) + length);
      const indices = Int32Array.from({ length: offsets.at(-1) as number }, (_, at) => at);
      return layer === 0 ? { indices, offsets, weights: Float32Array.from(indices, (at) => at / 2) } : { indices, offsets };
    };
    return { items, dense: { user: dense(3, 0), item: dense(2, 1) }, sparse: { clicks: bags(0), item_id: bags(1) } };
  });

/** All that one item of a checked request is made of. */
function itemOf(request: CheckedRequest, item: number): unknown[] {
  let at = 0;
  const dense = MODEL.dense.map(({ dim }, feature) => {
    const many = request.perItem[feature] === 1;
    const start = at + (many ? item * dim : 0);
    at += dim * (many ? request.items : 1);
    return [...request.dense.subarray(start, start + dim)];
  });
  expect(request.dense.length).toBe(at);
  const bags = request.bags.map(({ input: { indices, offsets, weights }, numBags }, b) => {
    const many = request.perItem[2 + b] === 1;
    expect([numBags, offsets.length, offsets[numBags]]).toEqual([many ? request.items : 1, numBags + 1, indices.length]);
    const [from, to] = [offsets[many ? item : 0] as number, offsets[(many ? item : 0) + 1] as number];
    return [Array.from(indices as Int32Array).slice(from, to), weights && Array.from(weights).slice(from, to)];
  });
  return [dense, bags];
}

test('slices of a request hold the values of their items, and what is given once stays as it is', () => {
  const [scratch, own] = [new Scratch(), new Scratch()];
  fc.assert(
    fc.property(given, fc.integer({ min: 1, max: 9 }), (request, batchItems) => {
      const whole = checkRequest(MODEL, request, scratch);
      for (let from = 0; from < whole.items; from += batchItems) {
        const to = Math.min(whole.items, from + batchItems);
        const slice = sliceItems(MODEL, whole, from, to, own);
        expect(slice.items).toBe(to - from);
        for (let item = from; item < to; item++) expect(itemOf(slice, item - from)).toEqual(itemOf(whole, item));
      }
    }),
    { numRuns: 300 },
  );
});

/** What it throws, or else returns. */
function thrownBy(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return error;
  }
}

test('a bad id has the place that it has in the whole request, whoever finds it, in every slice and layer', () => {
  const offsets = [0, 2, 2, 3, 7, 9, 10];
  for (let bad = 0; bad < 10; bad++) {
    for (const layer of ['clicks', 'item_id']) {
      const ids = (name: string) => Array.from({ length: 10 }, (_, at) => (at === bad && name === layer ? 1000 : at));
      const place = { table: 'shared', bag: offsets.findIndex((_, b) => bad < (offsets[b + 1] as number)), position: bad, index: '1000' };
      for (const typed of [true, false]) {
        const of = (name: string) => ({ indices: typed ? Int32Array.from(ids(name)) : ids(name), offsets });
        const request = {
          dense: { user: [1, 2, 3], item: [1, 2] },
          sparse: { clicks: { ...of('clicks'), weights: ids('').map(() => 1) }, item_id: of('item_id') },
        };
        const [scratch, own] = [new Scratch(), new Scratch()];
        const whole = checkRequest(MODEL, request, scratch);
        const from = 2 * Math.floor(place.bag / 2);
        const slice = sliceItems(MODEL, whole, from, from + 2, own);
        const partitioner = new Partitioner(MODEL, [[0, 1].map((bag) => ({ bag, part: 0, parts: 1 }))]);
        const found = (): unknown => {
          partitioner.partition(slice, own);
          // Int32 ids pass: the engine finds them, and counts from the start of what it got.
          expect(typed).toBe(true);
          return indexOutOfRange('shared', place.bag - from, bad - (offsets[from] as number), '1000', '1000');
        };
        expect(placedInRequest(MODEL, slice, thrownBy(found))).toMatchObject({
          code: 'index_out_of_range',
          details: { ...place, rows: '1000' },
        });
      }
    }
  }
});
