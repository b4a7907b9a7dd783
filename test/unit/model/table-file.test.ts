import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { sampleChunks } from '../../../src/model/bundle-files.js';
import { fileSchema, type TableSpec } from '../../../src/model/spec.js';
import { readTableFile } from '../../../src/model/table-file.js';

let dir: string;
let path: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-table-file-'));
  path = join(dir, 'rows.bin');
  await writeFile(path, new Uint8Array(100));
});
afterAll(() => rm(dir, { recursive: true }));

const TABLE: TableSpec = { name: 't', rows: 3, dim: 4, format: 'fp32', file: 'rows.bin', tensor: 'rows', byteOffset: 7 };

test('rows are where model.json says, at any byte; quantized ones have their format', async () => {
  const { tensors, metadata } = await readTableFile(path, [
    TABLE,
    { ...TABLE, name: 'q', format: 'int8', tensor: 'packed', byteOffset: 0 },
  ]);
  expect(tensors.get('rows')).toEqual({ dtype: 'F32', shape: [3, 4], byteOffset: 7, bytes: 48 });
  expect(tensors.get('packed')).toEqual({ dtype: 'U8', shape: [3, 12], byteOffset: 0, bytes: 36 });
  expect(metadata).toEqual({ 'packed.row_format': 'int8 dim 4' });
});

test.each([
  ['that ends behind the file', [{ ...TABLE, byteOffset: 53 }], 'bad_table'],
  ['whose rows are more than any file has', [{ ...TABLE, rows: Number.MAX_SAFE_INTEGER }], 'bad_table'],
  ['beside one that the header places', [TABLE, { ...TABLE, tensor: 'other', byteOffset: undefined }], 'bad_model'],
  ['of two places', [TABLE, { ...TABLE, byteOffset: 8 }], 'bad_model'],
])('a table %s is refused', async (_, tables, code) => {
  await expect(readTableFile(path, tables as TableSpec[])).rejects.toMatchObject({ code });
});

const EXTENTS = {
  bytes: 100,
  crc32: ['00000000', '00000001'],
  extents: [
    { from: 10, bytes: 5 },
    { from: 15, bytes: 85 },
  ],
};

test('checksums may be of extents, which are in order, apart and inside the file, one for each', () => {
  expect(fileSchema.parse(EXTENTS)).toEqual(EXTENTS);
  expect(sampleChunks([{ file: 'f', path, expected: EXTENTS }], 'hash').map(({ from, bytes, chunk }) => [chunk, from, bytes])).toEqual([
    [0, 10, 5],
    [1, 15, 85],
  ]);
  const [first, second] = EXTENTS.extents as [{ from: number; bytes: number }, { from: number; bytes: number }];
  for (const extents of [[first], [second, first], [first, { from: 14, bytes: 3 }], [first, { from: 15, bytes: 86 }]])
    expect(fileSchema.safeParse({ ...EXTENTS, extents }).success).toBe(false);
});
