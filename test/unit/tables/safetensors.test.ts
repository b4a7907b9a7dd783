import { mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { native } from '../../../src/engine/native.js';
import { TerabagError } from '../../../src/errors.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../../src/tables/safetensors.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
});
afterAll(() => rm(dir, { recursive: true }));

const f32 = (length: number): Uint8Array => new Uint8Array(Float32Array.from({ length }, (_, at) => at).buffer);

async function writeSmall(path: string): Promise<Buffer> {
  await writeSafetensors(
    path,
    [
      { name: 'weight', dtype: 'F32', shape: [6, 4], data: f32(24) },
      { name: 'bias', dtype: 'F16', shape: [3], data: new Uint8Array(6) },
    ],
    { metadata: { format: 'pt' }, align: 64 },
  );
  return readFile(path);
}

/** A file whose header is this JSON text. */
async function withHeader(path: string, json: string, dataBytes: number): Promise<void> {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
  await writeFile(path, Buffer.concat([length, Buffer.from(json), Buffer.alloc(dataBytes)]));
}

const entry = (shape: unknown, offsets: unknown, dtype: unknown = 'F32'): string =>
  JSON.stringify({ w: { dtype, shape, data_offsets: offsets } });

async function expectSoundOrRefused(path: string): Promise<void> {
  const { size } = await stat(path);
  try {
    const header = await readSafetensorsHeader(path);
    for (const tensor of header.tensors.values()) {
      expect(tensor.byteOffset + tensor.bytes).toBeLessThanOrEqual(size);
      expect((await readTensor(header, tensor)).byteLength).toBe(tensor.bytes);
    }
  } catch (error) {
    expect(error).toBeInstanceOf(TerabagError);
    expect(error).toHaveProperty('code', 'bad_table');
    expect((error as TerabagError).message).toContain(path);
  }
}

test('what is written reads back, with its metadata, and the data is aligned', async () => {
  const path = join(dir, 'sound.safetensors');
  await writeSmall(path);
  const header = await readSafetensorsHeader(path);
  expect(header.metadata).toEqual({ format: 'pt' });
  expect(header.dataStart % 64).toBe(0);
  const weight = header.tensors.get('weight')!;
  expect(weight).toMatchObject({ dtype: 'F32', shape: [6, 4], bytes: 96 });
  expect(await readTensor(header, weight)).toEqual(f32(24));
});

test('a damaged header never leads outside the file, and is refused as bad_table', async () => {
  const path = join(dir, 'damaged.safetensors');
  const sound = await writeSmall(path);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(200), fc.oneof(fc.nat(255), fc.integer({ min: 48, max: 57 }))), { minLength: 1, maxLength: 4 }),
      fc.option(fc.nat(sound.length)),
      async (changes, cut) => {
        const bytes = Buffer.from(sound);
        for (const [at, value] of changes) bytes[at % bytes.length] = value;
        await writeFile(path, cut === null ? bytes : bytes.subarray(0, cut));
        await expectSoundOrRefused(path);
      },
    ),
    { numRuns: 400 },
  );
});

test('headers of any JSON are sound or refused', async () => {
  const path = join(dir, 'json.safetensors');
  const number = fc.oneof(fc.nat(30), fc.constantFrom(-1, 1.5, 2 ** 31, 2 ** 32, 2 ** 52, 2 ** 53, 2 ** 63, 1e300));
  const tensor = fc.record(
    {
      dtype: fc.oneof(fc.constantFrom('F32', 'F16', 'X'), fc.jsonValue()),
      shape: fc.array(number),
      data_offsets: fc.array(number, { maxLength: 3 }),
    },
    { requiredKeys: [] },
  );
  const header = fc.oneof(fc.jsonValue(), fc.dictionary(fc.string(), fc.oneof(tensor, fc.jsonValue()), { maxKeys: 3 }));
  await fc.assert(
    fc.asyncProperty(header, fc.nat(64), async (json, dataBytes) => {
      await withHeader(path, JSON.stringify(json), dataBytes);
      await expectSoundOrRefused(path);
    }),
    { numRuns: 400 },
  );
});

test.each([
  ['a shape whose product is 2^64 bytes', entry([2 ** 31, 2 ** 31], [0, 0])],
  ['a shape whose product wraps to the right size', entry([2 ** 32, 2 ** 32, 24], [0, 96])],
  ['fewer bytes than the shape', entry([6, 4], [0, 92])],
  ['an extent past the end', entry([7, 4], [0, 112])],
  ['an extent that runs backwards', entry([6, 4], [96, 0])],
  ['a hole before the data', entry([5, 4], [16, 96])],
  ['a negative size', entry([-6, -4], [0, 96])],
  ['half a row', entry([6.5, 4], [0, 104])],
  ['a dtype that is an object', entry([6, 4], [0, 96], { toString: 1 })],
  ['metadata that is no map of strings', '{"__metadata__":{"a":1}}'],
  ['metadata that is a list', '{"__metadata__":["a"]}'],
  [
    'a key that stands twice',
    `{"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96]},"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96]}}`,
  ],
  ['a key that stands twice, once as an escape', '{"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96],"\\u0064type":"F32"}}'],
  ['a size with a fraction of zero', '{"w":{"dtype":"F32","shape":[6.0,4],"data_offsets":[0,96]}}'],
  ['a size with an exponent', '{"w":{"dtype":"F32","shape":[6,4e0],"data_offsets":[0,96]}}'],
  ['a size of minus zero', '{"w":{"dtype":"F32","shape":[24],"data_offsets":[-0,96]}}'],
  ['a size that a double does not hold', '{"w":{"dtype":"X","shape":[9007199254740993],"data_offsets":[0,96]}}'],
  ['half of a surrogate pair in a name', '{"\\ud800":{"dtype":"F32","shape":[24],"data_offsets":[0,96]}}'],
  ['a byte order mark', '\uFEFF{"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96]}}'],
  ['space before the header', ' {"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96]}}'],
  [
    'tensors that overlap',
    '{"a":{"dtype":"U8","shape":[60],"data_offsets":[0,60]},"b":{"dtype":"U8","shape":[60],"data_offsets":[36,96]}}',
  ],
  ['values of four bits that end within a byte', '{"w":{"dtype":"F4","shape":[191],"data_offsets":[0,96]}}'],
  ['a dtype that is missing', '{"w":{"shape":[24],"data_offsets":[0,96]}}'],
  ['no JSON', 'x'.repeat(20)],
  ['a list', '[1,2]'],
])('refuses %s', async (_, json) => {
  const path = join(dir, 'lying.safetensors');
  await withHeader(path, json, 96);
  await expect(readSafetensorsHeader(path)).rejects.toMatchObject({ code: 'bad_table', details: { path } });
});

test.each([
  ['a dtype that nobody knows', entry([7], [0, 96], 'F99')],
  ['values of eight bits', entry([96], [0, 96], 'F8_E4M3')],
  ['values of six bits', entry([128], [0, 96], 'F6_E2M3')],
  ['values of four bits', entry([192], [0, 96], 'F4')],
  ['complex values', entry([12], [0, 96], 'C64')],
  ['a tensor without dims', '{"n":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[22],"data_offsets":[8,96]}}'],
  ['no metadata, said as null', '{"__metadata__":null,"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96]}}'],
  ['fields that the format may get', '{"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96],"scale":0.5}}'],
  ['spaces after the header', '{"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96]}}   '],
  [
    'a tensor of no bytes',
    '{"e":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},"w":{"dtype":"F32","shape":[24],"data_offsets":[0,96]}}',
  ],
])('takes %s', async (_, json) => {
  const path = join(dir, 'taken.safetensors');
  await withHeader(path, json, 96);
  expect([...(await readSafetensorsHeader(path)).tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)).toBe(96);
});

test('a header says which key stands twice and where; bytes that are no UTF-8 are refused; limits are named', async () => {
  const path = join(dir, 'strict.safetensors');
  const tensor = '{"dtype":"F32","shape":[24],"data_offsets":[0,96]}';
  await withHeader(path, `{"w":${tensor},"w":${tensor}}`, 96);
  await expect(readSafetensorsHeader(path)).rejects.toThrow(/key stands twice: "w" in root, position \d+/);
  const bytes = await readFile(path);
  bytes[10] = 0xff;
  await writeFile(path, bytes);
  await expect(readSafetensorsHeader(path)).rejects.toThrow(/header is not UTF-8/);
  const long = Buffer.alloc(8);
  long.writeBigUInt64LE(100_000_001n);
  await writeFile(path, long);
  await truncate(path, 200_000_000);
  await expect(readSafetensorsHeader(path)).rejects.toThrow(/header of 100000001 bytes, the limit is 100000000/);
});

test('what the reader refuses is refused before it is written', async () => {
  const path = join(dir, 'unwritable.safetensors');
  const data = new Uint8Array(1);
  for (const [tensors, message] of [
    [[{ name: 'a\ud800', dtype: 'U8', shape: [1], data }], /half of a surrogate pair/],
    [[{ name: '__metadata__', dtype: 'U8', shape: [1], data }], /the name of a tensor is taken: __metadata__/],
    [
      [
        { name: 'a', dtype: 'U8', shape: [1], data },
        { name: 'a', dtype: 'U8', shape: [1], data },
      ],
      /the name of a tensor is taken: a/,
    ],
    [[{ name: 'a', dtype: 'F99', shape: [1], data }], /unknown dtype/],
  ] as const) {
    await expect(writeSafetensors(path, tensors)).rejects.toThrow(message);
    await expect(stat(path)).rejects.toThrow('ENOENT');
  }
});

test('a header length of 2^63, or beyond the file, reserves nothing', async () => {
  const path = join(dir, 'length.safetensors');
  for (const length of [2n ** 64n - 1n, 2n ** 63n, 99_000_000n, 1n, 0n]) {
    const bytes = Buffer.alloc(64, ' ');
    bytes.writeBigUInt64LE(length);
    await writeFile(path, bytes);
    const before = process.memoryUsage().rss;
    await expect(readSafetensorsHeader(path)).rejects.toThrow(`header of ${length} bytes in a file of 64`);
    expect(process.memoryUsage().rss - before).toBeLessThan(32 * 2 ** 20);
  }
});

test('a missing file, an empty one and a directory are refused with the path', async () => {
  const empty = join(dir, 'empty');
  await writeFile(empty, '');
  for (const path of [join(dir, 'nowhere'), empty, dir]) {
    await expect(readSafetensorsHeader(path)).rejects.toMatchObject({ code: 'bad_table' });
  }
});

test('a file that shrinks after its header was read is refused when it is read and when it is mapped', async () => {
  const path = join(dir, 'shrinks.safetensors');
  await writeSmall(path);
  const header = await readSafetensorsHeader(path);
  const { byteOffset } = header.tensors.get('weight')!;
  await truncate(path, byteOffset + 50);
  await expect(readTensor(header, header.tensors.get('weight')!)).rejects.toMatchObject({ code: 'bad_table' });
  const table = { table: 0, part: 0, parts: 1, path, byteOffset, rows: 6, dim: 4, format: 'fp32', firstRow: 0, rowStep: 1 } as const;
  expect(() => new native.SparseEngine([table])).toThrow(/does not lie in its file/);
  for (const lie of [
    { rows: 2 ** 53 - 1, dim: 65_536 },
    { byteOffset: 2 ** 53 - 1 },
    { firstRow: 2 ** 53 - 1 },
    { rowStep: 2 ** 53 - 1 },
    { rows: 0 },
  ])
    expect(() => new native.SparseEngine([{ ...table, ...lie }]), JSON.stringify(lie)).toThrow(/does not lie in its file/);
});

test("a tensor may have any name, that of an object's prototype too", async () => {
  const path = join(dir, 'names.safetensors');
  const names = ['__proto__', 'constructor', 'toString', ''];
  await writeSafetensors(
    path,
    names.map((name, n) => ({ name, dtype: 'U8', shape: [1], data: Uint8Array.of(n) })),
  );
  const header = await readSafetensorsHeader(path);
  expect([...header.tensors.keys()].sort()).toEqual([...names].sort());
  for (const [n, name] of names.entries()) expect([...(await readTensor(header, header.tensors.get(name)!))]).toEqual([n]);
});
