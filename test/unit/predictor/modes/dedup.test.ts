import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ResolvedModel } from '../../../../src/model/graph.js';
import { expandPooled, inputStarts, pooledStarts } from '../../../../src/predictor/gather.js';
import { dropRepeatedBags } from '../../../../src/predictor/modes/dedup.js';
import type { BagsInput } from '../../../../src/predictor/predictor.js';
import { type CheckedRequest, checkRequest } from '../../../../src/predictor/request.js';
import { Scratch } from '../../../../src/predictor/scratch.js';
import { PLAIN_BAG } from '../../../reference/plain-bag.js';

const DIM = 2;

function modelOf(bags: readonly { readonly rows: number; readonly weighted: boolean }[]): ResolvedModel {
  return {
    dense: [{ name: 'dense', dim: 1 }],
    bags: bags.map((bag, at) => ({ ...PLAIN_BAG, ...bag, name: `bag${at}`, table: at, tableName: `table${at}`, dim: DIM })),
    layers: [],
    output: 0,
    outputDim: 1,
  };
}

const checked = (model: ResolvedModel, sparse: Record<string, BagsInput>, scratch: Scratch): CheckedRequest =>
  checkRequest(model, { dense: { dense: [1] }, sparse }, scratch);

/** One bag's ids and weights as a string: equal strings are equal bags. */
function written({ indices, offsets, weights }: BagsInput, bag: number): string {
  const [from, to] = [offsets[bag] as number, offsets[bag + 1] as number];
  return Array.from({ length: to - from }, (_, i) => {
    const weight = weights?.[from + i] ?? 1;
    return `${indices[from + i]}x${Object.is(weight, -0) ? '-0' : weight}`;
  }).join(' ');
}

const FAR = 2 ** 35;
const id = fc.constantFrom(0, 1, 2, FAR, FAR + 1, 2 ** 40 - 1);
const weight = fc.constantFrom(1, 0.5, 0, -0, 1 + 2 ** -23);
const FORMS: readonly ((ids: readonly number[]) => BagsInput['indices'])[] = [
  (ids) => [...ids],
  (ids) => ids.map(BigInt),
  (ids) => BigInt64Array.from(ids, BigInt),
  (ids) => Int32Array.from(ids, (value) => value % 2 ** 31),
  (ids) => Uint32Array.from(ids, (value) => value % 2 ** 32),
];
/** Few different bags, many times; empty ones too. */
const layer = fc
  .tuple(
    fc.array(fc.array(fc.tuple(id, weight), { maxLength: 3 }), { minLength: 1, maxLength: 4 }),
    fc.constantFrom(...FORMS),
    fc.record({ weighted: fc.boolean(), floats: fc.boolean(), user: fc.boolean() }),
  )
  .chain(([kinds, form, { weighted, floats, user }]) =>
    fc.array(fc.nat(kinds.length - 1), { minLength: 12, maxLength: 12 }).map((chosen) => {
      const bags = (user ? chosen.slice(0, 1) : chosen).map((kind) => kinds[kind] ?? []);
      const offsets = [0];
      for (const bag of bags) offsets.push((offsets.at(-1) as number) + bag.length);
      const weights = bags.flat().map(([, value]) => value);
      const input: BagsInput = {
        indices: form(bags.flat().map(([value]) => value)),
        offsets,
        ...(weighted && { weights: floats ? Float32Array.from(weights) : weights }),
      };
      return { weighted, input };
    }),
  );

test('expanding the bags that differ gives back every bag, and no two of them are alike, with a scratch that is used again', () => {
  const scratch = new Scratch();
  const seen = { dropped: 0, alike: 0, kept: 0 };
  fc.assert(
    fc.property(fc.array(layer, { minLength: 1, maxLength: 3 }), (layers) => {
      const model = modelOf(layers.map(({ weighted }) => ({ rows: 2 ** 41, weighted })));
      const sparse = Object.fromEntries(layers.map(({ input }, at) => [`bag${at}`, input]));
      const request = checked(model, sparse, scratch);
      const once = dropRepeatedBags(model, request, scratch);
      const different = layers.map(
        ({ input }) => new Set(Array.from({ length: input.offsets.length - 1 }, (_, b) => written(input, b))).size,
      );
      if (once === null) {
        seen.kept++;
        expect(different).toEqual(request.bags.map(({ numBags }) => numBags));
        return;
      }
      seen.dropped++;
      expect(once.request.bags.map(({ numBags }) => numBags)).toEqual(different);
      // The vector of a bag is its place among those that differ: expanding tells which one each item gets.
      const starts = pooledStarts(model, once.request);
      const values = Float32Array.from({ length: starts.at(-1) as number }, (_, at) => at);
      const expandedStarts = inputStarts(model, once.rows);
      const expanded = { starts: expandedStarts, values: new Float32Array(expandedStarts.at(-1) as number).fill(Number.NaN) };
      expandPooled(model, [...model.bags.keys()], { ...once, positions: [] }, { starts, values }, expanded);
      layers.forEach(({ input }, at) => {
        const perItem = once.request.perItem[1 + at] === 1;
        const { input: kept, numBags } = once.request.bags[at] as CheckedRequest['bags'][number];
        if (numBags === 1 && input.offsets.length > 2) seen.alike++;
        for (let bag = 0; bag < input.offsets.length - 1; bag++) {
          const from = (expandedStarts[at] as number) + (perItem ? bag * DIM : 0);
          const source = ((expanded.values[from] as number) - (starts[at] as number)) / DIM;
          expect(expanded.values[from + 1]).toBe((expanded.values[from] as number) + 1);
          expect(written(kept, source)).toBe(written(input, bag));
        }
      });
    }),
    { numRuns: 500 },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(10);
});

test('many bags of the same ids with other weights are told apart in time that grows with their number only', () => {
  const numBags = 200_000;
  const model = modelOf([{ rows: 10, weighted: true }]);
  const scratch = new Scratch();
  const input: BagsInput = {
    indices: new Int32Array(numBags).fill(3),
    offsets: Uint32Array.from({ length: numBags + 1 }, (_, at) => at),
    weights: Float32Array.from({ length: numBags }, (_, at) => at / numBags),
  };
  // Compared one with another they are 2e10 pairs, which no test would see the end of.
  expect(dropRepeatedBags(model, checked(model, { bag0: input }, scratch), scratch)).toBeNull();
});

test('an id out of range is refused with its place, also among bags that are alike', () => {
  const model = modelOf([{ rows: 10, weighted: false }]);
  const scratch = new Scratch();
  const request = checked(model, { bag0: { indices: [3, 3, 3, 3, 10], offsets: [0, 1, 2, 3, 4, 5] } }, scratch);
  expect(() => dropRepeatedBags(model, request, scratch)).toThrow(
    expect.objectContaining({ code: 'index_out_of_range', details: expect.objectContaining({ table: 'table0', bag: 4, position: 4 }) }),
  );
});
