import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { modelHash } from '../../../../src/model/hash.js';
import { modelSchema } from '../../../../src/model/spec.js';
import { type Profile, profileSchema, readProfile, writeProfile } from '../../../../src/plan/profile/profile.js';
import { ProfileBuilder, type ProfiledRequest } from '../../../../src/plan/profile/profile-builder.js';
import { ASSUMED_ITEMS, profileFromSpec } from '../../../../src/plan/profile/profile-from-spec.js';
import { bagOf, sequenceOf, specOf, table } from '../../../reference/specs.js';

/** Two bags read the shared table, in two nets; one of them may be the user's. Nobody reads the last table. */
const spec = specOf(
  [table('shared', 5000), table('own', 20), table('idle', 3)],
  [
    { name: 'n0', layers: [bagOf('a', 'shared', { side: 'user', poolingFactor: 12.5 }), bagOf('b', 'own')] },
    { name: 'n1', layers: [bagOf('c', 'shared', { poolingFactor: 3 })] },
  ],
);

test('without requests, the figures of the spec count, and are said to', () => {
  const profile = profileSchema.parse(profileFromSpec(spec));
  expect(profile).toMatchObject({ source: 'spec', requests: 0, items: { mean: ASSUMED_ITEMS, p50: ASSUMED_ITEMS, p99: ASSUMED_ITEMS } });
  expect(profile.model.hash).toBe(modelHash(spec));
  const [shared, own, idle] = profile.tables;
  const items = ASSUMED_ITEMS;
  expect(shared).toMatchObject({
    bags: 1 + items,
    lookups: 12.5 + 3 * items,
    userBags: 1,
    userLookups: 12.5,
    uniqueRows: 12.5 + 3 * items,
    hotShare: 0.01,
  });
  expect(own).toMatchObject({ bags: items, lookups: items, userBags: 0, userLookups: 0, uniqueRows: 20 });
  expect(idle).toMatchObject({ bags: 0, lookups: 0, uniqueRows: 0, hotShare: 0 });
});

/** Rows: last of up to three, a row per item; and first of up to two, the user's. */
const sequences = specOf(
  [table('items', 1000)],
  [
    {
      name: 'n',
      layers: [
        sequenceOf('last', 'items', { maxLength: 3 }),
        sequenceOf('first', 'items', { maxLength: 2, truncate: 'first', side: 'user', poolingFactor: 7 }),
      ],
    },
  ],
);

test('each id of a sequence is a bag and a lookup, once a request, and ids that are cut off are none', () => {
  const builder = new ProfileBuilder(sequences);
  const last = { numBags: 2, input: { indices: [1, 2, 3, 4, 5, 4, 4], offsets: [0, 4, 7] } };
  const first = { numBags: 1, input: { indices: ['9', '8', '7'], offsets: [0, 3] } };
  builder.add({ items: 2, bags: [last, first] });
  // 2, 3, 4 and 5; 9 and 8.
  expect(builder.build().tables[0]).toMatchObject({ bags: 6, lookups: 6, uniqueRows: 6, userBags: 2, userLookups: 2 });
  expect(profileFromSpec(sequences).tables[0]).toMatchObject({
    ...{ bags: 3 * ASSUMED_ITEMS + 2, lookups: 3 * ASSUMED_ITEMS + 2, userBags: 2, userLookups: 2 },
  });
});

test('bags without the optional figures keep the hash that they had', () => {
  const { files: _, ...plain } = specOf([table('a', 1)], [{ name: 'n', layers: [bagOf('b', 'a')] }]);
  const parsed = modelSchema.parse({ ...plain, files: {} });
  expect(parsed.nets[0]?.layers[0]).toEqual({ type: 'embedding_bag', name: 'b', table: 'a', pooling: 'sum', weighted: false });
  expect(Object.keys(parsed.nets[0]?.layers[0] ?? {}).length).toBe(5);
  const figures = { ...plain, files: {}, nets: [{ name: 'n', layers: [bagOf('b', 'a', { poolingFactor: 2, side: 'user' })] }] };
  expect(modelHash(modelSchema.parse(figures))).not.toBe(modelHash(parsed));
  for (const bad of [{ poolingFactor: -1 }, { poolingFactor: 2 ** 32 }, { poolingFactor: 1e308 }, { side: 'both' }])
    expect(modelSchema.safeParse({ ...figures, nets: [{ name: 'n', layers: [{ ...bagOf('b', 'a'), ...bad }] }] }).success).toBe(false);
});

/** Bags in model order: a, b, c. */
const bags = (numBags: number, rows: number): fc.Arbitrary<ProfiledRequest['bags'][number]> =>
  fc.record({
    numBags: fc.constant(numBags),
    input: fc.record({
      indices: fc.oneof(
        fc.array(fc.nat(rows - 1), { maxLength: 40 }),
        fc.array(fc.nat(rows - 1), { maxLength: 40 }).map((ids) => BigInt64Array.from(ids, BigInt)),
      ),
    }),
  });
const requests = fc.array(
  fc
    .record({ items: fc.integer({ min: 0, max: 9 }), user: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()) })
    .chain(({ items, user }) =>
      fc
        .tuple(bags(user[0] ? 1 : items, 5000), bags(user[1] ? 1 : items, 20), bags(user[2] ? 1 : items, 5000))
        .map((given) => ({ items, bags: given })),
    ),
  { minLength: 1, maxLength: 30 },
);

test('a profile has the means of its requests', () => {
  fc.assert(
    fc.property(requests, (sample) => {
      const builder = new ProfileBuilder(spec);
      for (const request of sample) builder.add(request);
      const profile = profileSchema.parse(builder.build());
      const mean = (of: (request: ProfiledRequest) => number): number =>
        sample.reduce((total, request) => total + of(request), 0) / sample.length;
      const ids = (request: ProfiledRequest, at: number): number[] => Array.from(request.bags[at]!.input.indices, Number);
      // One bag of one item is what most other requests have of the layer; where there are none, what the spec says: a is the user's.
      const told = sample.filter(({ items }) => items !== 1);
      const once = (at: number): number => told.filter((request) => request.bags[at]!.numBags === 1).length;
      const ofUser = (request: ProfiledRequest, at: number): boolean =>
        request.bags[at]!.numBags === 1 && (request.items !== 1 || (told.length > 0 ? 2 * once(at) > told.length : at === 0));
      const ascending = sample.map(({ items }) => items).toSorted((x, y) => x - y);
      expect(profile).toMatchObject({ source: 'requests', requests: sample.length });
      expect(profile.items.mean).toBeCloseTo(mean(({ items }) => items));
      // At least half, and 99 %, of the requests have at most so many items; with one less they would not.
      for (const [q, value] of [
        [0.5, profile.items.p50],
        [0.99, profile.items.p99],
      ] as const) {
        expect(ascending.filter((items) => items <= value).length).toBeGreaterThanOrEqual(q * sample.length);
        expect(ascending.filter((items) => items < value).length).toBeLessThan(q * sample.length);
      }
      for (const [index, layers] of [[0, 2], [1], []].entries()) {
        const of = profile.tables[index]!;
        const total = (count: (request: ProfiledRequest, at: number) => number): number =>
          mean((request) => layers.reduce((sum, at) => sum + count(request, at), 0));
        expect(of.bags).toBeCloseTo(total((request, at) => request.bags[at]!.numBags));
        expect(of.lookups).toBeCloseTo(total((request, at) => ids(request, at).length));
        expect(of.userBags).toBeCloseTo(total((request, at) => Number(ofUser(request, at))));
        expect(of.userLookups).toBeCloseTo(total((request, at) => (ofUser(request, at) ? ids(request, at).length : 0)));
        expect(of.uniqueRows).toBeCloseTo(mean((request) => new Set(layers.flatMap((at) => ids(request, at))).size));
        const all = sample.flatMap((request) => layers.flatMap((at) => ids(request, at)));
        const counts = [...new Set(all)].map((row) => all.filter((id) => id === row).length).toSorted((x, y) => y - x);
        const hot = counts.slice(0, Math.ceil(counts.length / 100)).reduce((sum, count) => sum + count, 0);
        expect(of.hotShare).toBeCloseTo(all.length === 0 ? 0 : hot / all.length);
      }
    }),
    { numRuns: 300 },
  );
});

test('whose a bag is in a request of one item, the others tell before the spec', () => {
  const given = (items: number, numBags: readonly number[]): ProfiledRequest => ({
    items,
    bags: numBags.map((count) => ({ numBags: count, input: { indices: [1, 2] } })),
  });
  const userBags = (...sample: ProfiledRequest[]): number[] => {
    const builder = new ProfileBuilder(spec);
    for (const request of sample) builder.add(request);
    return builder.build().tables.map((of) => of.userBags * sample.length);
  };
  // The spec says that a is the user's, and nothing of b and c; a and c read the first table.
  expect(userBags(given(1, [1, 1, 1]))).toEqual([1, 0, 0]);
  expect(userBags(given(1, [1, 1, 1]), given(3, [3, 1, 1]))).toEqual([2, 2, 0]);
  expect(userBags(given(1, [1, 1, 1]), given(3, [1, 3, 1]), given(4, [4, 4, 4]), given(4, [4, 4, 4]))).toEqual([2, 0, 0]);
});

test('rows are counted for the hot share of the first 2^22 lookups alone; all else counts all requests', () => {
  const builder = new ProfileBuilder(spec);
  const given = (row: number, ids: number): ProfiledRequest['bags'][number] => ({
    numBags: 1,
    input: { indices: new Int32Array(ids).fill(row) },
  });
  const none = given(0, 0);
  builder.add({ items: 1, bags: [given(1, 2 ** 22), none, none] });
  for (let row = 2; row < 4; row++) builder.add({ items: 1, bags: [given(row, 2 ** 20), none, none] });
  // The share of row 1 alone; with the others it would be 2/3.
  expect(builder.build().tables[0]).toMatchObject({ lookups: 2 ** 21, uniqueRows: 1, hotShare: 1 });
});

test('a profile of no request is refused', () => {
  expect(() => new ProfileBuilder(spec).build()).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
});

test('a profile file reads back, and a broken one names where it is broken', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
  const path = join(dir, 'profile.json');
  const profile = profileFromSpec(spec);
  await writeProfile(path, profile);
  expect(await readProfile(path)).toEqual(profile);
  await writeFile(path, JSON.stringify({ ...profile, items: { mean: -1, p50: 1, p99: 1 } }));
  await expect(readProfile(path)).rejects.toThrow(/^profile: items\.mean: .*profile\.json$/);
  await writeProfile(path, profile);
  const [first] = profile.tables;
  for (const [bad, field] of [
    [{ ...profile, items: { mean: -1, p50: 1, p99: 1 } }, 'items.mean'],
    [{ ...profile, tables: [{ ...first, lookups: Number.NaN }] }, 'tables.0.lookups'],
    [{ ...profile, tables: [{ ...first, lookups: 1e300 }] }, 'tables.0.lookups'],
    [null, 'root'],
  ] as const) {
    await expect(writeProfile(path, bad as Profile)).rejects.toMatchObject({ code: 'invalid_argument', details: { path, field } });
    expect(await readProfile(path)).toEqual(profile);
  }
  await writeFile(path, '{');
  await expect(readProfile(path)).rejects.toMatchObject({ code: 'invalid_argument', details: { path } });
  await rm(dir, { recursive: true });
});
