import fc from 'fast-check';
import { expect, test } from 'vitest';
import { countNamed, type IdRule, idRules, namedRows, REJECT, ruleOfKeyedPart, ruleOfPart } from '../../../src/model/id-rules.js';
import type { EmbeddingBagSpec } from '../../../src/model/layers.js';
import { mix64 } from '../../../src/model/mix64.js';
import type { ModelSpec } from '../../../src/model/spec.js';
import { idSchema, type UnseenSpec, unseenSchema } from '../../../src/model/unseen.js';
import { bagOf, specOf, table } from '../../reference/specs.js';
import { splitmixFinalizer } from '../../reference/unseen-ids.js';

/** A table of 10 rows of 4 values, and these bags of it. */
const spec = (unseen: UnseenSpec | undefined, ...bags: readonly Partial<EmbeddingBagSpec>[]): ModelSpec =>
  specOf(
    [{ ...table('items', 10), ...(unseen && { unseen }) }],
    [{ name: 'net', layers: bags.map((more, bag) => bagOf(`bag${bag}`, 'items', more)) }],
  );

test('a table has the rules of its readers, each once, and one that nobody reads its own', () => {
  const zero: UnseenSpec = { policy: 'zero' };
  expect(idRules(spec(zero)).ofTables).toEqual([[{ ...REJECT, policy: 'zero' }]]);
  const vector: UnseenSpec = { policy: 'default', vector: [1, 2, 3, 4] };
  const { ofTables, ofBags } = idRules(spec(zero, {}, { unseen: vector }, { paddingId: 3 }, {}, { unseen: vector }, { paddingId: '3' }));
  expect(ofTables[0]?.map(({ policy, paddingId }) => [policy, paddingId])).toEqual([
    ['zero', null],
    ['default', null],
    ['zero', 3n],
  ]);
  expect(ofBags.map(({ number }) => number)).toEqual([0, 1, 2, 0, 1, 2]);
});

test('an id that is padding is the same with a sign and without', () => {
  const { ofTables, ofBags } = idRules(spec(undefined, { paddingId: -1 }, { paddingId: '18446744073709551615' }));
  expect(ofTables[0]).toHaveLength(1);
  expect(ofBags.map(({ padding }) => padding)).toEqual([-1, -1]);
});

test.each<[UnseenSpec, string, RegExp]>([
  [{ policy: 'default', row: 10 }, 'row', /has to be a row of the table: 10, rows 10/],
  [{ policy: 'default', vector: [1, 2, 3] }, 'vector', /3, dim 4/],
  [{ policy: 'default' }, 'policy', /needs either row or vector: none is given/],
  [{ policy: 'default', row: 1, vector: [1, 2, 3, 4] }, 'policy', /both are given/],
  [{ policy: 'zero', row: 1 }, 'row', /policy default only: zero/],
  [{ policy: 'hash', vector: [1, 2, 3, 4] }, 'vector', /policy default only: hash/],
  [{ policy: 'skip', rows: 3 }, 'rows', /policy hash only: skip/],
  [{ policy: 'hash', rows: 11 }, 'rows', /at most the rows of the table: 11, rows 10/],
])('%j is refused with its place', (unseen, key, message) => {
  for (const [given, path] of [
    [spec(unseen), `tables[0].unseen.${key}`],
    [spec(undefined, {}, { unseen }), `nets[0].layers[1].unseen.${key}`],
  ] as const)
    expect(() => idRules(given)).toThrow(
      expect.objectContaining({ code: 'bad_model', message: expect.stringMatching(message), details: { path } }),
    );
});

test('hash has to say how many rows of a keyed table are for such ids, and these have to be rows of it', () => {
  const keyed = (unseen: UnseenSpec, ...bags: readonly Partial<EmbeddingBagSpec>[]): ModelSpec => {
    const plain = spec(unseen, ...bags);
    return { ...plain, tables: plain.tables.map((table) => ({ ...table, keys: { file: 'keys', tensor: 'keys' } })) };
  };
  expect(idRules(keyed({ policy: 'hash', rows: 10 })).ofTables[0]?.[0]?.buckets).toBe(10);
  for (const [given, path, message] of [
    [keyed({ policy: 'hash' }), 'tables[0].unseen.rows', 'has to say how many rows of a keyed table'],
    [keyed({ policy: 'hash', rows: 11 }), 'tables[0].unseen.rows', 'at most the rows of the table: 11, rows 10'],
    [keyed({ policy: 'zero' }, {}, { unseen: { policy: 'hash' } }), 'nets[0].layers[1].unseen.rows', 'has to say how many rows'],
  ] as const)
    expect(() => idRules(given)).toThrow(
      expect.objectContaining({ code: 'bad_model', message: expect.stringContaining(message), details: { path } }),
    );
});

test('a part of a keyed table has the rows that rules name behind its own, each once, where its rules find them', () => {
  const anyRule = fc.oneof(
    fc.integer({ min: 1, max: 30 }).map((buckets): IdRule => ({ ...REJECT, policy: 'hash', buckets })),
    fc.integer({ min: 0, max: 60 }).map((row): IdRule => ({ ...REJECT, policy: 'default', row })),
    fc.constantFrom<IdRule>({ ...REJECT, policy: 'skip', paddingId: 3n }, { ...REJECT, policy: 'default', vector: Float32Array.of(1) }),
  );
  fc.assert(
    fc.property(fc.array(anyRule, { minLength: 1, maxLength: 6 }), fc.integer({ min: 1, max: 50 }), (rules, ownRows) => {
      const named = namedRows(rules);
      const behind = [...Array.from({ length: named.buckets }, (_, bucket) => bucket), ...named.others];
      expect(behind).toEqual([...new Set(behind)].sort((a, b) => a - b));
      expect(countNamed(named)).toBe(behind.length);
      for (const rule of rules) {
        const own = ruleOfKeyedPart(rule, ownRows, named);
        if (rule.policy === 'hash')
          expect(behind.slice((own.row as number) - ownRows, (own.row as number) - ownRows + own.buckets)).toEqual(
            Array.from({ length: rule.buckets }, (_, bucket) => bucket),
          );
        else if (rule.row === null) expect(own).toEqual(rule);
        else expect(behind[(own.row as number) - ownRows]).toBe(rule.row);
      }
    }),
  );
});

test('vectors are finite in float32, and padding has 64 bits', () => {
  for (const value of [1e39, Number.NaN, Number.POSITIVE_INFINITY, '1', null])
    expect(unseenSchema.safeParse({ policy: 'default', vector: [value] }).success).toBe(false);
  for (const id of [2 ** 53, 1.5, '18446744073709551616', '-9223372036854775809', '1e3', '', '9'.repeat(30)])
    expect(idSchema.safeParse(id).success).toBe(false);
  for (const id of [0, -1, '18446744073709551615', '-9223372036854775808']) expect(idSchema.safeParse(id).success).toBe(true);
});

test('a part of a split table is left what main does not do: zeros and vectors', () => {
  const vector = Float32Array.of(1);
  expect(ruleOfPart({ ...REJECT, policy: 'zero', paddingId: 3n })).toEqual({ ...REJECT, policy: 'zero' });
  expect(ruleOfPart({ ...REJECT, policy: 'default', vector })).toEqual({ ...REJECT, policy: 'default', vector });
  expect(ruleOfPart({ ...REJECT, policy: 'default', row: 9 })).toEqual(REJECT);
  expect(ruleOfPart({ ...REJECT, policy: 'hash', buckets: 10, paddingId: 3n })).toEqual(REJECT);
});

test('mix64 is the finalizer of splitmix64', () => {
  // The generator's first outputs for seed 1234567, as published with it: the state grows by the golden ratio.
  const outputs = [6457827717110365317n, 3203168211198807973n, 9817491932198370423n, 4593380528125082431n, 16408922859458223821n];
  expect(outputs.map((_, n) => mix64(1234567n + BigInt(n + 1) * 0x9e3779b97f4a7c15n))).toEqual(outputs);
  fc.assert(
    fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }), (key) => {
      expect(mix64(key)).toBe(splitmixFinalizer(key));
    }),
  );
});
