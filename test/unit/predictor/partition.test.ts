import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SEGMENT_DIVISOR, SEGMENT_FIELDS, SEGMENT_WEIGHTED, type SparseBatch } from '../../../src/engine/sparse-batch.js';
import type { ResolvedBag, ResolvedModel } from '../../../src/model/graph.js';
import { POOLING_NAMES, POOLINGS, type Pooling } from '../../../src/model/pooling.js';
import { expandPooled, Gathering, inputStarts, type PooledVectors, pooledStarts } from '../../../src/predictor/gather.js';
import { dropRepeatedBags } from '../../../src/predictor/modes/dedup.js';
import { type Partition, Partitioner } from '../../../src/predictor/partition.js';
import type { BagsInput } from '../../../src/predictor/predictor.js';
import { type CheckedRequest, checkRequest, sliceItems } from '../../../src/predictor/request.js';
import { Scratch } from '../../../src/predictor/scratch.js';
import { rowFloats, SequenceCutter } from '../../../src/predictor/sequences.js';
import { PLAIN_BAG } from '../../reference/plain-bag.js';

const DIM = 2;

interface BagShape {
  readonly rows: number;
  readonly pooling: Pooling;
  readonly weighted: boolean;
  readonly leavesOut?: boolean;
  /** Of a sequence, which is neither pooled nor weighted. */
  readonly sequence?: { readonly maxLength: number; readonly truncate: 'first' | 'last' } | null;
}

function modelOf(bags: readonly BagShape[]): ResolvedModel {
  return {
    dense: [],
    bags: bags.map(({ rows, pooling, weighted, leavesOut = false, sequence }, at) => ({
      ...PLAIN_BAG,
      ...{ rows, pooling, weighted, leavesOut, name: `bag${at}`, table: at, tableName: `table${at}`, dim: DIM, net: at % 2 },
      ...(sequence && { ...sequence, pooling: 'sum', weighted: false }),
    })),
    layers: [],
    output: 0,
    outputDim: 1,
  };
}

/** Row r of a table is [r mod 97, 1]: sums of small integers are exact, so that every order of additions gives the same bits. */
const row = (id: bigint): number[] => [Number(id % 97n), 1];
/** Of a table that leaves ids out. */
const isLeftOut = (id: bigint): boolean => id % 3n === 1n;

interface WeightedId {
  readonly id: bigint;
  readonly weight: number;
}

/** The contract of embedding bags, before means are divided. */
function pool({ pooling, leavesOut }: ResolvedBag, ids: readonly WeightedId[]): { readonly values: number[]; readonly divisor: number } {
  const kept = ids.filter(({ id }) => !(leavesOut && isLeftOut(id)));
  const rows = kept.map(({ id, weight }) => row(id).map((value) => value * weight));
  const values = Array.from({ length: DIM }, (_, d) =>
    rows.length === 0 ? 0 : rows.map((each) => each[d] as number).reduce((a, b) => (pooling === 'max' ? Math.max(a, b) : a + b)),
  );
  const divisor = pooling === 'weighted_mean' ? kept.reduce((sum, { weight }) => sum + weight, 0) : kept.length;
  return { values, divisor };
}

const divided = ({ values, divisor }: ReturnType<typeof pool>, flags: number): number[] =>
  (flags & (POOLINGS.mean.flag | POOLINGS.weighted_mean.flag)) === 0
    ? values
    : values.map((value) => (divisor === 0 ? 0 : value / divisor));

/** What a shard would answer, from the bytes of the batch alone. */
function naiveAnswer(model: ResolvedModel, batch: SparseBatch): Uint8Array {
  const bytes = (part: Uint8Array): ArrayBuffer => Uint8Array.from(part).buffer;
  const segments = new Uint32Array(bytes(batch.segments));
  const offsets = new Uint32Array(bytes(batch.offsets));
  const indices =
    batch.indexBytes === 4 ? Array.from(new Int32Array(bytes(batch.indices)), BigInt) : [...new BigInt64Array(bytes(batch.indices))];
  const weights = batch.weights === null ? [] : [...new Float32Array(bytes(batch.weights))];
  const out: number[] = [];
  let bag = 0;
  for (let s = 0; s < segments.length; s += SEGMENT_FIELDS) {
    const [table = 0, part = 0, parts = 0, numBags = 0, flags = 0] = segments.subarray(s, s + SEGMENT_FIELDS);
    const pooling = POOLING_NAMES.find((name) => POOLINGS[name].flag === (flags & ~(SEGMENT_WEIGHTED | SEGMENT_DIVISOR))) as Pooling;
    for (const end = bag + numBags; bag < end; bag++) {
      const ids = indices.slice(offsets[bag], offsets[bag + 1]).map((index) => ({
        id: index * BigInt(parts) + BigInt(part),
        weight: flags & SEGMENT_WEIGHTED ? (weights.shift() as number) : 1,
      }));
      const pooled = pool({ ...(model.bags[table] as ResolvedBag), pooling }, ids);
      if (flags & SEGMENT_DIVISOR) out.push(...pooled.values, pooled.divisor);
      else out.push(...divided(pooled, flags));
    }
  }
  expect([bag, weights.length]).toEqual([offsets.length - 1, 0]);
  return new Uint8Array(Float32Array.from(out).buffer);
}

/** The contract of sequences: ids are cut off, those that are left out leave no position, and zeros follow the last. */
function positionsOf(
  { maxLength = 0, truncate, leavesOut }: ResolvedBag,
  ids: readonly WeightedId[],
): { values: number[]; length: number } {
  const kept = truncate === 'first' ? ids.slice(0, maxLength) : ids.slice(-maxLength);
  const rows = kept.filter(({ id }) => !(leavesOut && isLeftOut(id))).map(({ id }) => row(id));
  const values = rows.flat();
  return { values: [...values, ...new Array<number>(maxLength * DIM - values.length).fill(0)], length: rows.length };
}

function naivePooled(model: ResolvedModel, sparse: Record<string, BagsInput>): number[] {
  return model.bags.flatMap((bag) => {
    return idsOf(sparse[bag.name] as BagsInput).flatMap((ids) =>
      (bag.maxLength === undefined ? divided(pool(bag, ids), POOLINGS[bag.pooling].flag) : positionsOf(bag, ids).values).map(Math.fround),
    );
  });
}

/** By bag. */
const idsOf = ({ indices, offsets, weights }: BagsInput): WeightedId[][] =>
  Array.from({ length: offsets.length - 1 }, (_, b) => {
    const [from, to] = [Number(offsets[b]), Number(offsets[b + 1])];
    return Array.from({ length: to - from }, (__, i) => ({ id: BigInt(indices[from + i] as number), weight: weights?.[from + i] ?? 1 }));
  });

/** Of all rows of the sequences. */
const naiveLengths = (model: ResolvedModel, sparse: Record<string, BagsInput>): number[] =>
  model.bags
    .filter(({ maxLength }) => maxLength !== undefined)
    .flatMap((bag) => idsOf(sparse[bag.name] as BagsInput).map((ids) => positionsOf(bag, ids).length));

/** What the main shard makes of the answers. */
function gathered(
  model: ResolvedModel,
  request: CheckedRequest,
  partitions: readonly Partition[],
  answers: readonly (Uint8Array | null)[],
): PooledVectors {
  const counts = model.bags.map((bag, b) =>
    bag.maxLength === undefined ? null : new Float32Array(request.bags[b]?.numBags ?? 0).fill(Number.NaN),
  );
  const pooled = { ...unknownVectors(pooledStarts(model, request)), counts };
  const split = new Set(partitions.flatMap(({ assignments }) => assignments.flatMap(({ bag, parts }) => (parts > 1 ? [bag] : []))));
  const gathering = new Gathering(model, [...split], partitions, pooled);
  // In any order.
  for (const [destination] of [...partitions.entries()].reverse()) gathering.place(destination, answers[destination] ?? null);
  gathering.finish();
  return pooled;
}

const unknownVectors = (starts: readonly number[]): PooledVectors => ({
  starts,
  values: new Float32Array(starts.at(-1) as number).fill(Number.NaN),
});

const answersOf = (model: ResolvedModel, partitions: readonly Partition[]): (Uint8Array | null)[] =>
  partitions.map(({ batch }) => (batch === null ? null : naiveAnswer(model, batch)));

/** The bags of these items, of a request that gives some once. */
const slicedBags = ({ indices, offsets, weights }: BagsInput, items: number, from: number, to: number): BagsInput => {
  if (offsets.length - 1 !== items) return { indices, offsets, ...(weights && { weights }) };
  const ends = Array.from(offsets as ArrayLike<number>).slice(from, to + 1);
  const first = ends[0] ?? 0;
  const cut = <T>(values: ArrayLike<T>): T[] => Array.from(values).slice(first, ends.at(-1));
  return {
    indices: cut<number | bigint | string>(indices),
    offsets: ends.map((end) => end - first),
    ...(weights && { weights: cut<number>(weights) }),
  };
};

const LARGE = 2 ** 40;
const layers = fc.array(
  fc.record({
    rows: fc.constantFrom(5, 6, 1000, 2 ** 31, LARGE),
    pooling: fc.constantFrom(...POOLING_NAMES),
    weighted: fc.boolean(),
    leavesOut: fc.boolean(),
    sequence: fc.option(fc.record({ maxLength: fc.integer({ min: 1, max: 4 }), truncate: fc.constantFrom('first', 'last') })),
    parts: fc.integer({ min: 1, max: 4 }),
    first: fc.nat(3),
    form: fc.nat(3),
    bags: fc.array(
      fc.array(fc.tuple(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), fc.integer({ min: -4, max: 4 })), { maxLength: 5 }),
      {
        minLength: 1,
        maxLength: 4,
      },
    ),
  }),
  { minLength: 1, maxLength: 4 },
);

test('what is cut for any plan, pooled apart and put together equals pooling in one place, with a scratch that is used again', () => {
  const scratch = new Scratch();
  fc.assert(
    fc.property(
      layers,
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 5 }),
      fc.boolean(),
      fc.constantFrom('ask', 'skip'),
      (given, repeats, batchItems, dedup, emptyTables) => {
        const items = repeats * Math.max(...given.map(({ bags }) => bags.length));
        const model = modelOf(given);
        const sparse: Record<string, BagsInput> = {};
        given.forEach(({ rows, weighted, form, bags, sequence }, at) => {
          // The user's bag, or one per item.
          const own = bags.length === 1 ? bags : Array.from({ length: items }, (_, item) => bags[item % bags.length] ?? []);
          const ids = own.flat().map(([place]) => Math.floor(place * rows));
          const offsets = [0];
          for (const bag of own) offsets.push((offsets.at(-1) as number) + bag.length);
          const indices = [
            () => (rows <= 2 ** 31 ? Int32Array.from(ids) : ids),
            () => BigInt64Array.from(ids, BigInt),
            () => ids,
            () => ids.map(BigInt),
          ][form] as () => BagsInput['indices'];
          sparse[`bag${at}`] = {
            indices: indices(),
            offsets,
            ...(weighted && sequence === null && { weights: own.flat().map(([, weight]) => weight) }),
          };
        });
        const destinations = Array.from({ length: 4 }, (_, destination) =>
          given.flatMap(({ parts, first }, bag) =>
            Array.from({ length: parts }, (__, part) => part).flatMap((part) =>
              (first + part) % 4 === destination ? [{ bag, part, parts }] : [],
            ),
          ),
        );
        const checked = checkRequest(model, { items, dense: {}, sparse }, scratch);
        const batchScratch = new Scratch();
        for (let from = 0; from < items; from += batchItems) {
          const to = Math.min(items, from + batchItems);
          const slice = sliceItems(model, checked, from, to, batchScratch);
          const once = dedup ? dropRepeatedBags(model, slice, batchScratch) : null;
          const sequences = new SequenceCutter(model).cut(once?.request ?? slice, batchScratch);
          const asked = sequences?.request ?? once?.request ?? slice;
          const partitions = new Partitioner(model, destinations, { emptyTables }).partition(asked, batchScratch);
          const vectors = gathered(model, asked, partitions, answersOf(model, partitions));
          const expanded = unknownVectors(inputStarts(model, once?.rows ?? slice.bags.map(({ numBags }) => numBags)));
          const expansion = { sources: once?.sources ?? [], positions: sequences?.positions ?? [] };
          expandPooled(model, [...model.bags.keys()], expansion, vectors, expanded);
          const pooled = expanded.values;
          // Layers whose bags are alike may have one vector for all items: the flags say so.
          const cut = Object.fromEntries(Object.entries(sparse).map(([name, bags]) => [name, slicedBags(bags, items, from, to)]));
          let at = 0;
          const each = model.bags.flatMap((bag, b) => {
            const count = (cut[bag.name] as BagsInput).offsets.length - 1;
            const given = asked.perItem[b] === 1 ? count : 1;
            const floats = rowFloats(bag);
            const vectors = Array.from({ length: count }, (_, v) => [
              ...pooled.subarray(at + (v % given) * floats, at + ((v % given) + 1) * floats),
            ]);
            at += given * floats;
            return vectors.flat();
          });
          expect(at).toBe(pooled.length);
          expect([...(sequences?.lengths ?? [])]).toEqual(naiveLengths(model, cut));
          expect(each.map((value) => value + 0)).toEqual(naivePooled(model, cut).map((value) => value + 0));
        }
      },
    ),
    { numRuns: 500 },
  );
});

test('a bag without ids on a part of a table is not sent to it', () => {
  const model = modelOf([{ rows: 10, pooling: 'sum', weighted: false }]);
  const destinations = [0, 1, 2].map((part) => [{ bag: 0, part, parts: 3 }]);
  const scratch = new Scratch();
  const checked = checkRequest(model, { dense: {}, sparse: { bag0: { indices: [0, 3, 1, 9], offsets: [0, 2, 2, 4] } } }, scratch);
  const [zero, one, two] = new Partitioner(model, destinations).partition(checked, scratch);
  expect([zero, one, two].map((partition) => [...(partition?.numBags ?? [])])).toEqual([[2], [1], [0]]);
  expect(zero?.split[0]?.bags).toEqual(Uint32Array.of(0, 2, 2));
  expect(two?.batch).toBeNull();
});

test('a table of which a request has no id is skipped where that is wanted, and the place of its vectors holds zeros', () => {
  const model = modelOf([1, 2, 3].map(() => ({ rows: 10, pooling: 'mean', weighted: false })));
  const destinations = [[0, 1], [2]].map((bags) => bags.map((bag) => ({ bag, part: 0, parts: 1 })));
  const scratch = new Scratch();
  const empty = { indices: [], offsets: [0, 0, 0] };
  const sparse = { bag0: empty, bag1: { indices: [4, 6], offsets: [0, 2, 2] }, bag2: empty };
  const checked = checkRequest(model, { dense: {}, sparse }, scratch);
  const asked = new Partitioner(model, destinations).partition(checked, scratch);
  expect(asked.map(({ numBags, batch }) => [[...numBags], batch?.segments.byteLength])).toEqual([
    [[2, 2], 40],
    [[2], 20],
  ]);
  const skipping = new Partitioner(model, destinations, { emptyTables: 'skip' }).partition(checked, scratch);
  expect(skipping.map(({ numBags, batch }) => [[...numBags], batch?.segments.byteLength])).toEqual([
    [[0, 2], 20],
    [[0], undefined],
  ]);
  expect([...gathered(model, checked, skipping, answersOf(model, skipping)).values]).toEqual([0, 0, 0, 0, 5, 1, 0, 0, 0, 0, 0, 0]);
});

test('answers of another length than asked for are refused', () => {
  const model = modelOf([{ rows: 10, pooling: 'sum', weighted: false }]);
  const scratch = new Scratch();
  const checked = checkRequest(model, { dense: {}, sparse: { bag0: { indices: [0, 3], offsets: [0, 1, 2] } } }, scratch);
  for (const parts of [1, 2]) {
    const destinations = Array.from({ length: parts }, (_, part) => [{ bag: 0, part, parts }]);
    const partitions = new Partitioner(model, destinations).partition(checked, scratch);
    for (const change of [-1, 1, -4, 4]) {
      const answers = partitions.map((partition) => new Uint8Array(naiveAnswer(model, partition.batch as SparseBatch).byteLength + change));
      expect(() => gathered(model, checked, partitions, answers)).toThrow(expect.objectContaining({ code: 'bad_message' }));
    }
  }
});
