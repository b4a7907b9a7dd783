import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type ImportOptions, type ImportReport, importBundle } from '../../src/import/import-bundle.js';
import { checkImportSpec } from '../../src/import/import-spec.js';
import { openCheckpoints } from '../../src/import/open-checkpoint.js';
import { OpenFiles } from '../../src/import/open-files.js';
import { openLocal, type Predictor, publish } from '../../src/index.js';
import { openBundle, readModelSpec, verifyBundle } from '../../src/model/bundle.js';
import { modelHash } from '../../src/model/hash.js';
import { verifyPublished } from '../../src/plan/file/publish/verify-published.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';
import { capacityPlan } from '../reference/plans.js';
import { zipOf } from '../reference/zip.js';

const FIXTURES = fileURLToPath(new URL('../fixtures/checkpoints', import.meta.url));
const { layouts } = JSON.parse(await readFile(join(FIXTURES, 'expected.json'), 'utf8')) as {
  readonly layouts: { readonly values: number[][]; readonly quantized: number[][]; readonly keys: string[] };
};
const UNKNOWN = 12_345n;

let dir: string;
let bundle: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-import-keys-'));
  bundle = join(dir, 'bundle');
});
afterEach(() => rm(dir, { recursive: true }));

interface KeyedTable {
  readonly name: string;
  readonly tensor: string;
  readonly keys?: { readonly tensor: string };
  readonly [field: string]: unknown;
}

/** A bag of each table, summed up. */
async function importTables(
  paths: readonly [string, ...string[]],
  tables: readonly KeyedTable[],
  options: ImportOptions = {},
): Promise<ImportReport> {
  const bags = tables.map(({ name }) => ({ type: 'embedding_bag', name: `${name}_bag`, table: name }));
  const layers = [...bags, { type: 'sum', name: 'out', inputs: bags.map(({ name }) => name) }];
  const spec = checkImportSpec('spec', {
    ...{ terabag: 1, name: 'keyed', version: '1', dense: [], output: 'out' },
    ...{ tables, nets: [{ name: 'net', layers }] },
  });
  const files = new OpenFiles();
  try {
    return await importBundle(await openCheckpoints(files, paths), files, spec, bundle, options);
  } finally {
    await files.close();
  }
}

/** The row of each key, as the bag of one table gives it. */
async function rowsOf(predictor: Predictor, bag: string, keys: readonly bigint[]): Promise<number[][]> {
  const offsets = [...keys.keys(), keys.length];
  const { scores } = await predictor.predict({ items: keys.length, dense: {}, sparse: { [bag]: { indices: keys, offsets } } });
  const dim = scores.length / keys.length;
  return keys.map((_, at) => [...scores.subarray(at * dim, (at + 1) * dim)]);
}

const SOURCES = [
  ['hugectr', '0_sparse_1000.model.emb_vector', '0_sparse_1000.model.key', 'values', /in place/],
  ['torcheasyrec', 'dynamic.values', 'dynamic.keys', 'values', /copied/],
  ['torcheasyrec', 'dynamic_quantized.values', 'dynamic_quantized.keys', 'quantized', /copied/],
  ['arrays.npz', 'plain', 'ids', 'values', /in place|copied/],
  ['arrays.npz', 'double', 'ids', 'values', /converted/],
  ['keyed.pt', 'rows', 'ids', 'values', /in place/],
  ['keyed.pt', 'rows', 'column', 'values', /in place/],
  ['keyed.safetensors', 'rows', 'ids', 'values', /in place/],
] as const;

test.each(SOURCES)('%s: rows of %s are found by the keys of %s', async (path, tensor, keys, right, how) => {
  const checkpoint = join(dir, path);
  // Beside the bundle: a link would keep the fixture's file.
  await cp(join(FIXTURES, path), checkpoint, { recursive: true });
  const report = await importTables([checkpoint], [{ name: 'table', tensor, keys: { tensor: keys }, unseen: { policy: 'zero' } }]);
  expect(report).toMatchObject({ tables: [{ rows: 9, how: expect.stringMatching(how), keys }], askedByRow: [] });
  expect(report.unused.map((unused) => unused.tensor)).not.toContain(keys);
  const [table] = (await readModelSpec(bundle)).tables;
  expect(table?.keys).toEqual({ file: 'tables/table.keys.safetensors', tensor: 'keys' });
  const wanted = new Map(layouts.keys.map((key, row) => [BigInt(key), layouts[right][row] as number[]]));
  const asked = [...wanted.keys(), UNKNOWN, ...[...wanted.keys()].reverse()];
  const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
  const found = await rowsOf(predictor, 'table_bag', asked);
  await predictor.close();
  for (const [at, key] of asked.entries())
    for (const [d, value] of (wanted.get(key) ?? new Array<number>(8).fill(0)).entries()) expect(found[at]?.[d]).toBeCloseTo(value, 6);
  expect(await verifyBundle(bundle)).toEqual([]);
});

test('an imported keyed table is published in parts that hold every row once', async () => {
  await importTables(
    [join(FIXTURES, 'hugectr')],
    [{ name: 'table', tensor: '0_sparse_1000.model.emb_vector', keys: { tensor: '0_sparse_1000.model.key' } }],
    { copy: true },
  );
  const spec = await readModelSpec(bundle);
  const plan = capacityPlan(spec, 2);
  const parts = plan.shards.map(({ name }) => name);
  const out = join(dir, 'published');
  await publish({ ...plan, model: { ...plan.model, hash: modelHash(spec) }, tables: [{ table: 'table', parts }] }, bundle, out);
  expect(await verifyPublished(out, bundle)).toEqual([]);
});

test('tables of one tensor of keys have one index, and names that meet get files of their own', async () => {
  const path = join(FIXTURES, 'keyed.pt');
  const report = await importTables(
    [path],
    [
      { name: 'first', tensor: 'rows', keys: { tensor: 'ids' } },
      { name: 'second', tensor: 'rows', keys: { tensor: 'ids' }, format: 'int8' },
      { name: 'first.keys', tensor: 'rows' },
      { name: 'third', tensor: 'rows', keys: { tensor: 'column' } },
    ],
    { copy: true },
  );
  expect(report.tables.map(({ keys }) => keys)).toEqual(['ids', 'ids', null, 'column']);
  const { tables } = await readModelSpec(bundle);
  expect(tables.map(({ keys }) => keys?.file)).toEqual([
    'tables/first.keys.safetensors',
    'tables/first.keys.safetensors',
    undefined,
    'tables/third.keys.safetensors',
  ]);
  expect(new Set([...tables.map(({ file }) => file), 'tables/first.keys.safetensors', 'tables/third.keys.safetensors']).size).toBe(6);
  expect(await verifyBundle(bundle)).toEqual([]);
});

test('a layout whose rows have keys says so when the spec names none', async () => {
  const tensor = '0_sparse_1000.model.emb_vector';
  expect(await importTables([join(FIXTURES, 'hugectr')], [{ name: 'table', tensor }], { dryRun: true })).toMatchObject({
    askedByRow: [{ table: 'table', keys: '0_sparse_1000.model.key' }],
  });
  expect(await importTables([join(FIXTURES, 'torcheasyrec')], [{ name: 'table', tensor: 'plain' }], { dryRun: true })).toMatchObject({
    askedByRow: [],
  });
});

const int64s = (keys: readonly bigint[]): Uint8Array => new Uint8Array(BigInt64Array.from(keys).buffer);

/** Rows that tell their number, and tensors beside them. */
async function writeKeyed(
  rows: number,
  keys: readonly { readonly name: string; readonly dtype: string; readonly shape: readonly number[]; readonly data: Uint8Array }[],
): Promise<string> {
  const path = join(dir, 'keyed.safetensors');
  const values = Float32Array.from({ length: rows * 2 }, (_, at) => (at % 2 === 0 ? at / 2 + 1 : -at));
  await writeSafetensors(path, [{ name: 'rows', dtype: 'F32', shape: [rows, 2], data: new Uint8Array(values.buffer) }, ...keys]);
  return path;
}

const anyKey = fc.oneof(
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.constantFrom(0n, -1n, 1n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n),
  fc.bigInt({ min: -20n, max: 20n }),
);

test('any keys find the rows that a Map finds, and a key of two rows is refused with both', async () => {
  const drawn = fc.record({
    keys: fc.array(anyKey, { minLength: 1, maxLength: 80 }),
    others: fc.array(anyKey, { maxLength: 20 }),
    unsigned: fc.boolean(),
  });
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(drawn, async ({ keys, others, unsigned }) => {
      const path = await writeKeyed(keys.length, [
        { name: 'ids', dtype: unsigned ? 'U64' : 'I64', shape: [keys.length], data: int64s(keys) },
      ]);
      const rows = new Map(keys.map((key, row) => [key, row]));
      const importing = importTables([path], [{ name: 't', tensor: 'rows', keys: { tensor: 'ids' }, unseen: { policy: 'zero' } }]);
      if (rows.size < keys.length) {
        refused++;
        const error = await importing.catch((thrown: unknown) => thrown);
        expect(error).toMatchObject({ code: 'bad_checkpoint', details: { table: 't', tensor: 'ids' } });
        const { key, row, otherRow } = (error as { details: Record<string, string | number> }).details;
        expect(row).not.toBe(otherRow);
        for (const at of [row, otherRow]) expect(BigInt.asIntN(64, BigInt(key as string))).toBe(keys[at as number]);
        await expect(stat(bundle)).rejects.toMatchObject({ code: 'ENOENT' });
        return;
      }
      await importing;
      const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
      const asked = [...keys, ...others];
      const given = unsigned ? asked.map((key) => BigInt.asUintN(64, key)) : asked;
      const found = await rowsOf(predictor, 't_bag', given);
      await predictor.close();
      await rm(bundle, { recursive: true });
      for (const [at, key] of asked.entries()) {
        const row = rows.get(key);
        expect(found[at]?.[0]).toBe(row === undefined ? 0 : row + 1);
      }
    }),
    { numRuns: 120 },
  );
  expect(refused).toBeGreaterThan(3);
});

test('keys that cannot be those of the rows are refused with table and tensor before anything is written', async () => {
  const ids = int64s([1n, 2n, 3n, 4n]);
  const path = await writeKeyed(4, [
    { name: 'short', dtype: 'I64', shape: [3], data: ids.subarray(0, 24) },
    { name: 'matrix', dtype: 'I64', shape: [4, 1], data: ids },
    { name: 'narrow', dtype: 'I32', shape: [4], data: ids.subarray(0, 16) },
    { name: 'floats', dtype: 'F64', shape: [4], data: ids },
    { name: 'scalar', dtype: 'I64', shape: [], data: ids.subarray(0, 8) },
    { name: 'ids', dtype: 'I64', shape: [4], data: ids },
  ]);
  for (const [tensor, what] of [
    ['short', 'a keyed table has one key for each row: table t has 4 rows, short is 3'],
    ['matrix', 'table t has 4 rows, matrix is 4x1'],
    ['scalar', 'scalar is a scalar'],
    ['narrow', 'keys are I64 or U64: narrow is I32'],
    ['floats', 'keys are I64 or U64: floats is F64'],
  ] as const)
    await expect(importTables([path], [{ name: 't', tensor: 'rows', keys: { tensor } }])).rejects.toMatchObject({
      code: 'bad_checkpoint',
      message: expect.stringMatching(new RegExp(`tables\\[0\\]\\.keys\\.tensor: .*${what}`)),
      details: { table: 't', tensor, path },
    });
  await expect(importTables([path], [{ name: 't', tensor: 'rows', keys: { tensor: 'id' } }])).rejects.toMatchObject({
    code: 'bad_checkpoint',
    message: expect.stringContaining('tables[0].keys.tensor: no such tensor: id; near are ids'),
  });
  const hashed = { name: 't', tensor: 'rows', keys: { tensor: 'ids' }, unseen: { policy: 'hash' } };
  await expect(importTables([path], [hashed])).rejects.toMatchObject({
    code: 'bad_model',
    message: expect.stringContaining('has to say how many rows of a keyed table'),
  });
  await expect(stat(bundle)).rejects.toMatchObject({ code: 'ENOENT' });
});

/** An array as numpy.save writes it. */
function array(descr: string, shape: readonly number[], data: Uint8Array): Uint8Array {
  const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(', ')},), }`.padEnd(117, ' ');
  const start = Buffer.from('\x93NUMPY\x01\0\0\0', 'latin1');
  start.writeUInt16LE(header.length + 1, 8);
  return Buffer.concat([start, Buffer.from(`${header}\n`), data]);
}

test('ranks of TorchEasyRec that have not as many keys as rows are refused, although all together have', async () => {
  const checkpoint = join(dir, 'export');
  await mkdir(checkpoint);
  for (const [rank, keys, rows] of [
    [0, [1n, 2n], 3],
    [1, [3n, 4n], 1],
  ] as const)
    await writeFile(
      join(checkpoint, `sparse_dynamic_embedding-0${rank}-of-02.npz`),
      zipOf({
        entries: [
          { name: 't.keys.npy', data: array('<i8', [keys.length], int64s(keys)) },
          { name: 't.values.npy', data: array('<f4', [rows, 2], new Uint8Array(8 * rows)) },
        ],
      }),
    );
  const meta = { t: { dimension: 2, dtype: 'float32', is_dynamic: true, key_name: 't.keys', value_name: 't.values' } };
  await writeFile(join(checkpoint, 'sparse_embeddings-00-of-02.json'), JSON.stringify(meta));
  await expect(importTables([checkpoint], [{ name: 't', tensor: 't.values', keys: { tensor: 't.keys' } }])).rejects.toMatchObject({
    code: 'bad_checkpoint',
    message: expect.stringContaining('parts of a table have not as many keys as rows: t.values has 3, 1 rows, t.keys 2, 2'),
  });
});

test('damaged keys are not indexed, and an import that is interrupted leaves nothing', async () => {
  const checkpoint = join(dir, 'keyed.pt');
  const bytes = await readFile(join(FIXTURES, 'keyed.pt'));
  const at = bytes.indexOf(int64s([BigInt(layouts.keys[0] as string), BigInt(layouts.keys[1] as string)]));
  expect(at).toBeGreaterThan(0);
  bytes[at + 1] = (bytes[at + 1] as number) ^ 8;
  await writeFile(checkpoint, bytes);
  const table = { name: 't', tensor: 'rows', keys: { tensor: 'ids' } };
  await expect(importTables([checkpoint], [table])).rejects.toMatchObject({ code: 'checksum_mismatch' });
  const stopped = new AbortController();
  const interrupted = importTables([join(FIXTURES, 'keyed.pt')], [table], {
    signal: stopped.signal,
    onProgress: () => stopped.abort(),
  });
  await expect(interrupted).rejects.toMatchObject({ code: 'aborted' });
  expect(await readdir(dir)).toEqual(['keyed.pt']);
});

test('a million keys are indexed with progress that grows to all of the work', async () => {
  const rows = 1_000_000;
  const keys = BigInt64Array.from({ length: rows }, (_, row) => BigInt.asIntN(64, BigInt(row) * 0x9e3779b97f4a7c15n));
  const path = await writeKeyed(rows, [{ name: 'ids', dtype: 'I64', shape: [rows], data: new Uint8Array(keys.buffer) }]);
  const told: number[] = [];
  await importTables([path], [{ name: 't', tensor: 'rows', keys: { tensor: 'ids' } }], {
    // What is linked is not known to be read before it is.
    copy: true,
    onProgress: (done, total) => told.push(done / total),
  });
  expect(told.length).toBeGreaterThan(3);
  expect(told).toEqual([...told].sort((a, b) => a - b));
  expect(told.at(-1)).toBe(1);
  const { tables } = await openBundle(bundle);
  expect((tables[0]?.index?.bytes ?? Number.NaN) / rows).toBeLessThanOrEqual(16);
  const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
  const asked = [0, 1, 2, 77, 524_287, rows - 1];
  const found = await rowsOf(
    predictor,
    't_bag',
    asked.map((row) => keys[row] as bigint),
  );
  await predictor.close();
  expect(found.map(([first]) => first)).toEqual(asked.map((row) => row + 1));
});
