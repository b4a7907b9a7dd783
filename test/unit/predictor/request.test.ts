import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { TerabagError } from '../../../src/errors.js';
import type { ResolvedModel } from '../../../src/model/graph.js';
import { firstBadId } from '../../../src/predictor/ids.js';
import { firstBadCopy, Partitioner } from '../../../src/predictor/partition.js';
import type { BagsInput } from '../../../src/predictor/predictor.js';
import { type CheckedRequest, checkRequest, sliceItems } from '../../../src/predictor/request.js';
import { Scratch } from '../../../src/predictor/scratch.js';
import { PLAIN_BAG } from '../../reference/plain-bag.js';

const BAG = { ...PLAIN_BAG, tableName: 'shared', rows: 1000, dim: 2 } as const;
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
  const { items, users } = request;
  const userOf = Array.from(users ?? []).flatMap((count, user) => Array<number>(count).fill(user));
  /** Which row is the item's, of how many. */
  const rowOf = (input: number): [row: number, rows: number] =>
    request.perItem[input] === 1 ? [item, items] : request.perItem[input] === 2 ? [userOf[item] as number, users?.length ?? 0] : [0, 1];
  const dense = MODEL.dense.map(({ dim }, feature) => {
    const [row, rows] = rowOf(feature);
    const start = at + row * dim;
    at += dim * rows;
    return [...request.dense.subarray(start, start + dim)];
  });
  expect(request.dense.length).toBe(at);
  const bags = request.bags.map(({ input: { indices, offsets, weights }, numBags }, b) => {
    const [row, rows] = rowOf(2 + b);
    expect([numBags, offsets.length, offsets[numBags]]).toEqual([rows, numBags + 1, indices.length]);
    const [from, to] = [offsets[row] as number, offsets[row + 1] as number];
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

test('slices of a request of several users hold the rows of the users whose items they have', () => {
  const [scratch, own] = [new Scratch(), new Scratch()];
  const users = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 2, maxLength: 6 });
  fc.assert(
    fc.property(
      users,
      fc.array(fc.constantFrom(0, 1, 2), { minLength: 4, maxLength: 4 }),
      fc.integer({ min: 1, max: 9 }),
      (counts, kinds, size) => {
        const items = counts.reduce((sum, count) => sum + count, 0);
        const rows = kinds.map((kind) => [1, items, counts.length][kind] as number);
        const values = (length: number): number[] => Array.from({ length }, (_, at) => at);
        const bags = (count: number): BagsInput => ({ indices: values(2 * count), offsets: values(count + 1).map((bag) => 2 * bag) });
        const request = {
          ...{ items, users: counts, dense: { user: values(3 * rows[0]!), item: values(2 * rows[1]!) } },
          sparse: { clicks: { ...bags(rows[2]!), weights: values(2 * rows[2]!) }, item_id: bags(rows[3]!) },
        };
        const whole = checkRequest(MODEL, request, scratch);
        for (let from = 0; from < items; from += size) {
          const to = Math.min(items, from + size);
          const slice = sliceItems(MODEL, whole, from, to, own);
          if (slice.users !== null) expect(slice.users.reduce((sum, count) => sum + count, 0)).toBe(to - from);
          for (let item = from; item < to; item++) expect(itemOf(slice, item - from)).toEqual(itemOf(whole, item));
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('users that do not have all items, that have none, or that an ONNX model would get are refused', () => {
  const sparse = { clicks: { indices: [], offsets: [0, 0], weights: [] }, item_id: { indices: [], offsets: [0, 0, 0, 0] } };
  const check = (users: unknown, model: ResolvedModel = MODEL): CheckedRequest =>
    checkRequest(model, { items: 3, users: users as number[], dense: { user: [1, 2, 3], item: [1, 2, 3, 4] }, sparse }, new Scratch());
  expect(check([1, 2]).perItem).toEqual(Uint8Array.of(0, 2, 0, 1));
  const refused = (call: () => unknown): void => expect(call).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
  for (const users of [[1, 1], [1, 3], [0, 3], [3, 0], [1.5, 1.5], [-1, 4], ['1', '2'], 7, null]) refused(() => check(users));
  refused(() => check([1, 2], { ...MODEL, onnx: {} as NonNullable<ResolvedModel['onnx']> }));
  // Two rows are of no user when there is one.
  refused(() => check([3]));
});

test('the first bad id of a request is found, whatever its type and wherever else one is, in every slice and layer', () => {
  const offsets = [0, 2, 2, 3, 7, 9, 10];
  const numIds = 10;
  for (let bad = 0; bad < numIds; bad++) {
    for (const layer of ['clicks', 'item_id']) {
      for (const typed of [true, false]) {
        // Every id from the bad one on is one, and so is each of the layer after.
        const ids = (name: string) =>
          Array.from({ length: numIds }, (_, at) =>
            (name === layer ? at >= bad : layer === 'clicks' && name === 'item_id') ? 1000 + at : at,
          );
        const bags = (name: string) => ({ indices: typed ? Int32Array.from(ids(name)) : ids(name), offsets });
        const request = {
          dense: { user: [1, 2, 3], item: [1, 2] },
          sparse: { clicks: { ...bags('clicks'), weights: ids('').map(() => 1) }, item_id: bags('item_id') },
        };
        const bag = offsets.findIndex((_, b) => bad < (offsets[b + 1] as number));
        const place = { table: 'shared', bag, position: bad, index: String(1000 + bad), rows: '1000' };
        const [scratch, own] = [new Scratch(), new Scratch()];
        const whole = checkRequest(MODEL, request, scratch);
        expect(firstBadId(MODEL, whole)).toMatchObject({ code: 'index_out_of_range', details: place });
        const from = 2 * Math.floor(bag / 2);
        const slice = sliceItems(MODEL, whole, from, from + 2, own);
        const partitioner = new Partitioner(
          MODEL,
          // The later layer's shard is the first of the plan.
          [1, 0].map((bag) => [{ bag, part: 0, parts: 1 }]),
        );
        if (!typed) {
          expect(() => partitioner.partition(slice, own)).toThrow(expect.objectContaining({ code: 'index_out_of_range' }));
          continue;
        }
        const partitions = partitioner.partition(slice, own);
        const layerNumber = layer === 'clicks' ? 0 : 1;
        // The caller may change its arrays meanwhile.
        for (const { indices } of Object.values(request.sparse)) (indices as Int32Array).fill(0);
        expect(firstBadCopy(MODEL, slice, partitions)).toMatchObject({ layer: layerNumber, position: bad, error: { details: place } });
      }
    }
  }
});

test('a request without a bad id has none', () => {
  const [scratch, own] = [new Scratch(), new Scratch()];
  const partitioner = new Partitioner(MODEL, [[0, 1].map((bag) => ({ bag, part: 0, parts: 1 }))]);
  fc.assert(
    fc.property(given, (request) => {
      const checked = checkRequest(MODEL, request, scratch);
      expect(firstBadId(MODEL, checked)).toBeNull();
      expect(firstBadCopy(MODEL, checked, partitioner.partition(checked, own))).toBeNull();
    }),
  );
});

const valid = () => ({
  dense: { user: [1, 2, 3], item: [1, 2] },
  sparse: { clicks: { indices: [1, 2], offsets: [0, 2], weights: [1, 1] }, item_id: { indices: [3], offsets: [0, 1] } },
});
const check = (request: object) => checkRequest(MODEL, request as never, new Scratch());
const refusal = (request: object): TerabagError => {
  try {
    check(request);
  } catch (error) {
    return error as TerabagError;
  }
  return expect.fail('accepted');
};

test('numbers that are not finite in float32 are refused with their place, in every form', () => {
  const MOST = 3.4028234663852886e38;
  for (const [value, text] of [
    [Number.NaN, 'NaN'],
    [Number.POSITIVE_INFINITY, 'Infinity'],
    [Number.NEGATIVE_INFINITY, '-Infinity'],
    [1e39, '1e+39'],
    [-1e39, '-1e+39'],
    [3.4028235677973366e38, '3.4028235677973366e+38'],
  ] as const) {
    for (let length = 3; length <= 27; length += 3) {
      for (let position = 0; position < length; position++) {
        const values = Array.from({ length }, (_, at) => (at === position ? value : -MOST));
        for (const form of [values, Float64Array.from(values), Float32Array.from(values)]) {
          const shown = form instanceof Float32Array ? String(Math.fround(value)) : text;
          const error = refusal({ ...valid(), dense: { ...valid().dense, user: form } });
          expect(error).toMatchObject({ code: 'invalid_argument', details: { field: 'dense.user', position } });
          expect(error.message).toBe(`dense.user has to hold finite numbers that fit float32: position ${position}, ${shown}`);
        }
      }
    }
    for (const form of [[1, value], Float32Array.of(1, value)]) {
      const { sparse } = valid();
      const error = refusal({ ...valid(), sparse: { ...sparse, clicks: { ...sparse.clicks, weights: form } } });
      expect(error).toMatchObject({ code: 'invalid_argument', details: { field: 'sparse.clicks.weights', position: 1 } });
    }
  }
  const largest = check({ ...valid(), dense: { user: [MOST, -MOST, 3.4028235677973362e38], item: [5e-324, -0] } });
  expect([...largest.dense]).toEqual([MOST, -MOST, MOST, 0, -0]);
});

test('offsets are taken as 64-bit integers, in numbers and bigints mixed too', () => {
  const { sparse } = valid();
  for (const offsets of [BigInt64Array.of(0n, 1n, 2n), [0n, 1n, 2n], [0, 1n, 2], [0n, 1, 2]]) {
    const { bags } = check({ ...valid(), items: 2, sparse: { ...sparse, clicks: { ...sparse.clicks, offsets } } });
    expect(bags[0]).toMatchObject({ numBags: 2 });
    expect([...(bags[0]?.input.offsets ?? [])]).toEqual([0, 1, 2]);
  }
  for (const [offsets, position, value] of [
    [BigInt64Array.of(0n, 2n ** 62n), 1, '4611686018427387904n'],
    [[0n, 2n ** 32n + 2n], 1, '4294967298n'],
    [[0, 2n, 1n], 2, '1n'],
    [[-1n, 2], 0, '-1n'],
    [[1n, 2], 0, '1n'],
  ] as const) {
    const error = refusal({ ...valid(), sparse: { ...sparse, clicks: { ...sparse.clicks, offsets } } });
    expect(error).toMatchObject({ code: 'bad_offsets', details: { layer: 'clicks', position } });
    expect(error.message).toContain(`offset the bigint ${value}, indices 2`);
  }
});

test('offsets without their last entry, as PyTorch leaves it out, are refused with a hint', () => {
  const { sparse } = valid();
  const hint = /append the number of indices/;
  const clicks = (offsets: number[], indices: number[]) => ({
    ...valid(),
    items: 2,
    sparse: { ...sparse, clicks: { indices, offsets, weights: indices.map(() => 1) } },
  });
  expect(refusal(clicks([0, 1], [1, 2]))).toMatchObject({ code: 'bad_offsets', message: expect.stringMatching(hint) });
  expect(refusal(clicks([0], [1, 2]))).toMatchObject({ code: 'bad_offsets', message: expect.stringMatching(hint) });
  // The last bag is empty.
  const three = { ...clicks([0, 1, 2], [1, 2]), items: 3 };
  expect(refusal(three)).toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(hint) });
  expect(refusal({ ...three, items: 5 }).message).not.toMatch(hint);
  expect(refusal(clicks([0, 3], [1, 2])).message).not.toMatch(hint);
});

test('messages about a type name it, so that values that print alike are told apart', () => {
  const { sparse } = valid();
  const offsets = (value: unknown) => ({ ...valid(), sparse: { ...sparse, clicks: { ...sparse.clicks, offsets: [0, value] } } });
  expect(refusal(offsets('2')).message).toContain('offset the string "2", indices 2');
  expect(refusal(offsets(null)).message).toContain('offset null,');
  expect(refusal(offsets(undefined)).message).toContain('offset undefined,');
  expect(refusal(offsets({})).message).toContain('offset an object,');
  expect(refusal({ ...valid(), items: 1n }).message).toMatch(/integer between 0 and 1048576: the bigint 1n$/);
  expect(refusal({ ...valid(), items: '1' }).message).toMatch(/: the string "1"$/);
  expect(refusal({ ...valid(), dense: { user: [1, 2, '3'], item: [1, 2] } }).message).toMatch(/numbers: position 2, the string "3"$/);
  const ids = (id: unknown) => firstBadId(MODEL, check({ ...valid(), sparse: { ...sparse, item_id: { indices: [id], offsets: [0, 1] } } }));
  expect(ids('x')?.message).toMatch(/position 0, index the string "x"$/);
  expect(ids(1.5)?.message).toMatch(/position 0, index 1.5$/);
  expect(ids([3])?.message).toMatch(/position 0, index an array$/);
  expect(ids('3')).toBeNull();
  expect(ids('9007199254740993')).toMatchObject({ code: 'index_out_of_range', details: { index: '9007199254740993' } });
});

test('features are found among own properties alone, whatever they are named', () => {
  const names = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'valueOf'];
  const model: ResolvedModel = {
    ...MODEL,
    dense: names.map((name) => ({ name, dim: 1 })),
    bags: names.map((name) => ({ ...BAG, name, weighted: false })),
  };
  const record = <T>(value: T) => JSON.parse(`{${names.map((name) => `"${name}": ${JSON.stringify(value)}`).join()}}`);
  const request = { dense: record([7]), sparse: record({ indices: [1], offsets: [0, 1] }) };
  const checked = checkRequest(model, request, new Scratch());
  expect([...checked.dense]).toEqual(names.map(() => 7));
  for (const name of names) {
    const without = (field: 'dense' | 'sparse') => {
      const rest = Object.entries(request[field]).filter(([other]) => other !== name);
      return { ...request, [field]: Object.fromEntries(rest) };
    };
    for (const field of ['dense', 'sparse'] as const)
      expect(() => checkRequest(model, without(field), new Scratch())).toThrow(
        expect.objectContaining({ code: 'invalid_argument', message: expect.stringContaining(`missing: ${name}`) }),
      );
  }
});
