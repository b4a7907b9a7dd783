import { existsSync, statfsSync, statSync } from 'node:fs';
import {
  appendFile,
  type FileHandle,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { openBundle, readModelSpec, verifyBundle, writeModelJson } from '../../../../src/model/bundle.js';
import { rowBytes } from '../../../../src/model/formats.js';
import { modelHash } from '../../../../src/model/hash.js';
import { DirectoryLock } from '../../../../src/plan/file/publish/directory-lock.js';
import { publish } from '../../../../src/plan/file/publish/publish.js';
import { ShardDirectory } from '../../../../src/plan/file/publish/shard-directory.js';
import { bundlesIn, verifyPublished } from '../../../../src/plan/file/publish/verify-published.js';
import { CHUNK_BYTES } from '../../../../src/tables/checksum.js';
import { naivePart, planOf, type RawModel, tensorBytes, writeRawModel } from '../../../reference/published-model.js';

const SHARDS = ['a', 'b', 'c'];
const TABLES = [
  { name: 'alone', rows: 40, dim: 4, format: 'fp32', file: 'tables/alone.safetensors', tensor: 'weight' },
  { name: 'first', rows: 31, dim: 8, format: 'int8', file: 'tables/two.safetensors', tensor: 'first' },
  { name: 'second', rows: 17, dim: 6, format: 'int4', file: 'tables/two.safetensors', tensor: 'second' },
  { name: 'split', rows: 50, dim: 3, format: 'fp16', file: 'split.safetensors', tensor: 'weight' },
] as const;
const PARTS = [['a'], ['a'], ['b'], ['c', 'a', 'b']];

let model: RawModel;
let dir: string;
let out: string;
beforeAll(async () => {
  model = await writeRawModel(TABLES);
});
afterAll(() => rm(model.dir, { recursive: true }));
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-publish-'));
  out = join(dir, 'out');
});
afterEach(() => rm(dir, { recursive: true }));

const plan = (parts: readonly (readonly string[])[] = PARTS) => planOf(model, SHARDS, parts);
const inode = async (...path: string[]): Promise<number> => (await stat(join(...path))).ino;

test('random models and plans: every part is, row by row, what a plain loop takes from the source, and its data starts on a page', async () => {
  const anyTable = fc.record({
    rows: fc.integer({ min: 1, max: 60 }),
    dim: fc.integer({ min: 1, max: 9 }),
    format: fc.constantFrom('fp32' as const, 'fp16' as const, 'bf16' as const, 'int8' as const, 'int8_fp16' as const, 'int4' as const),
    file: fc.constantFrom('x.safetensors', 'y/z.safetensors'),
    shares: fc.boolean(),
    holders: fc.oneof(fc.constant(['main']), fc.shuffledSubarray(SHARDS, { minLength: 1 })),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(anyTable, { minLength: 1, maxLength: 5 }), fc.nat(1e6), async (drawn, seed) => {
      const tables = drawn.map(({ shares, holders: _, ...table }, at) => {
        const before = drawn.slice(0, at).findIndex(({ file }) => file === table.file);
        const { rows, dim, format } = drawn[shares && before >= 0 ? before : at]!;
        return { ...table, rows, dim, format, name: `t${at}`, tensor: shares && before >= 0 ? `w${before}` : `w${at}` };
      });
      const names = new Set(tables.map(({ file, tensor }) => `${file} ${tensor}`));
      const raw = await writeRawModel(tables, seed);
      expect(raw.bytes.size).toBe(names.size);
      const placed = drawn.map(({ holders }, at) => holders.slice(0, tables[at]!.rows));
      await rm(out, { recursive: true, force: true });
      try {
        await publish(planOf(raw, SHARDS, placed), raw.dir, out);
        for (const [at, { name, file, tensor, format, dim }] of tables.entries()) {
          for (const [part, shard] of placed[at]!.entries()) {
            const spec = await readModelSpec(join(out, shard));
            const held = spec.published!.parts.find(({ table }) => table === name)!;
            const { bytes, byteOffset, metadata } = await tensorBytes(join(out, shard, held.file), held.tensor);
            expect(bytes).toEqual(naivePart(raw.bytes.get(`${file} ${tensor}`)!, rowBytes(format, dim), part, placed[at]!.length));
            if ((await inode(out, shard, held.file)) !== (await inode(raw.dir, file))) {
              const { tables: opened } = await openBundle(join(out, shard), { dense: false });
              const starts = opened.flatMap((table) => (table?.file === held.file ? table.byteOffset : []));
              expect(starts).toContain(byteOffset);
              expect(Math.min(...starts) % 4096).toBe(0);
            }
            expect(metadata['maker']).toBe('test');
          }
        }
        for (const shard of [...SHARDS, 'main']) {
          expect(await verifyBundle(join(out, shard))).toEqual([]);
          expect((await openBundle(join(out, shard), { dense: shard === 'main' })).hash).toBe(raw.hash);
        }
        expect(await verifyPublished(out, raw.dir)).toEqual([]);
      } finally {
        await rm(raw.dir, { recursive: true });
      }
    }),
    { numRuns: 40 },
  );
});

test('a file of which a shard needs all is linked, also through a symbolic link; one that holds other tables, or is split, is written', async () => {
  const [a, b] = await publish(plan(), model.dir, out);
  expect(a).toMatchObject({ shard: 'a', tables: 3, linked: 1, written: 2, kept: 0, copied: 0 });
  expect(b).toMatchObject({ shard: 'b', tables: 2, linked: 0, written: 2 });
  expect(await inode(out, 'a/tables/alone.safetensors')).toBe(await inode(model.dir, 'tables/alone.safetensors'));
  const { metadata } = await tensorBytes(join(out, 'a/tables/two.safetensors'), 'first');
  expect(metadata).toEqual({ maker: 'test', 'first.row_format': 'int8 dim 8' });
  expect((await readdir(join(out, 'c'))).sort()).toEqual(['model.json', 'split.part-0-of-3.safetensors']);
  expect((await readdir(join(out, 'main'))).sort()).toEqual(['dense.safetensors', 'model.json']);

  const linking = await writeRawModel(TABLES);
  const moved = join(dir, 'moved.safetensors');
  await writeFile(moved, await readFile(join(linking.dir, 'tables/alone.safetensors')));
  await rm(join(linking.dir, 'tables/alone.safetensors'));
  await symlink(moved, join(linking.dir, 'tables/alone.safetensors'));
  await publish(plan(), linking.dir, join(dir, 'links'), { shards: ['a'] });
  expect(await inode(dir, 'links/a/tables/alone.safetensors')).toBe(await inode(moved));
  expect((await readdir(join(dir, 'links'))).sort()).toEqual(['a']);
  await rm(linking.dir, { recursive: true });
});

const MEMORY = '/dev/shm';
const otherFilesystem = existsSync(MEMORY) && statSync(MEMORY).dev !== statSync(tmpdir()).dev;
test.skipIf(!otherFilesystem)('on another filesystem files are copied, and a damaged source is found on the way', async () => {
  const far = await mkdtemp(join(MEMORY, 'terabag-publish-'));
  try {
    const [a] = await publish(plan(), model.dir, join(far, 'out'));
    expect(a).toMatchObject({ copied: 1, linked: 0, written: 2 });
    expect(await verifyPublished(join(far, 'out'), model.dir)).toEqual([]);
    const damaged = await writeRawModel(TABLES);
    const alone = join(damaged.dir, 'tables/alone.safetensors');
    await writeFile(
      alone,
      (await readFile(alone)).map((byte, at) => (at === 300 ? byte ^ 1 : byte)),
    );
    await expect(publish(plan(), damaged.dir, join(far, 'damaged'))).rejects.toMatchObject({ code: 'checksum_mismatch' });
    expect((await readdir(join(far, 'damaged/a'), { recursive: true })).filter((name) => name.includes('alone'))).toEqual([]);
    await rm(damaged.dir, { recursive: true });
  } finally {
    await rm(far, { recursive: true });
  }
});

test('a table of more parts than one pass writes is whole, and what of a begun one is left is written', async () => {
  const shards = Array.from({ length: 37 }, (_, at) => `s${at}`);
  const parts = [['s0'], ['s1'], ['s2'], shards];
  const wide = planOf(model, shards, parts);
  await publish(wide, model.dir, out);
  expect(await verifyPublished(out, model.dir)).toEqual([]);
  await rm(join(out, 's15'), { recursive: true });
  const counts = await publish(wide, model.dir, out);
  expect(counts.filter(({ written }) => written > 0).map(({ shard }) => shard)).toEqual(['s15']);
  expect(await verifyPublished(out, model.dir)).toEqual([]);
});

test('a table of several blocks whose rows are no multiple of the parts is dealt as a plain loop deals it', async () => {
  // Blocks of 4 MiB have 32768 rows of 128 bytes, which leaves two over three parts.
  const table = { name: 'long', rows: 70_001, dim: 32, format: 'fp32', file: 'long.safetensors', tensor: 'w' } as const;
  const raw = await writeRawModel([table]);
  await publish(planOf(raw, SHARDS, [['b', 'c', 'a']]), raw.dir, out);
  const source = Buffer.from(raw.bytes.get('long.safetensors w')!);
  for (const [part, shard] of ['b', 'c', 'a'].entries()) {
    const rows = Array.from({ length: table.rows }, (_, row) => row).filter((row) => row % 3 === part);
    const { bytes } = await tensorBytes(join(out, shard, `long.part-${part}-of-3.safetensors`), 'w');
    expect(Buffer.from(bytes).equals(Buffer.concat(rows.map((row) => source.subarray(row * 128, (row + 1) * 128))))).toBe(true);
  }
  expect(await verifyPublished(out, raw.dir)).toEqual([]);
  await rm(raw.dir, { recursive: true });
});

test('tables that share a tensor are each split their own way', async () => {
  const shared = { rows: 3000, dim: 8, format: 'fp32', file: 'shared.safetensors', tensor: 'w' } as const;
  const raw = await writeRawModel(['x', 'y', 'z'].map((name) => ({ ...shared, name })));
  await publish(
    planOf(raw, SHARDS, [
      ['a', 'b'],
      ['b', 'c', 'a'],
      ['c', 'b'],
    ]),
    raw.dir,
    out,
  );
  expect(await verifyPublished(out, raw.dir)).toEqual([]);
  await rm(raw.dir, { recursive: true });
});

test('tables that lie beside the dense weights are published to files of their own', async () => {
  const beside = ['kept', 'whole', 'split'].map((name, at) => ({
    ...{ name, rows: 10 + at, dim: 2, format: 'fp32' as const, file: 'dense.safetensors', tensor: name },
  }));
  const raw = await writeRawModel(beside);
  try {
    await publish(planOf(raw, SHARDS, [['main'], ['a'], ['b', 'c']]), raw.dir, out);
    expect(await verifyPublished(out, raw.dir)).toEqual([]);
    expect(await inode(out, 'main/dense.safetensors')).toBe(await inode(raw.dir, 'dense.safetensors'));
    await expect(openBundle(join(out, 'a'))).rejects.toThrow(/no dense weights, it was published for shard a/);
  } finally {
    await rm(raw.dir, { recursive: true });
  }
});

test('what is whole is kept; what was damaged, truncated or lost is written again', async () => {
  await publish(plan(), model.dir, out);
  const [kept] = await publish(plan(), model.dir, out, { shards: ['a'] });
  expect(kept).toMatchObject({ kept: 3, written: 0, linked: 0 });
  const split = join(out, 'a/split.part-1-of-3.safetensors');
  const before = await inode(out, 'a/tables/two.safetensors');
  for (const verify of ['full', 'size'] as const)
    for (const damage of [
      async () =>
        writeFile(
          split,
          (await readFile(split)).map((byte, at) => (at === 4100 ? byte ^ 1 : byte)),
        ),
      () => truncate(split, 4097),
      () => rm(split),
    ]) {
      await damage();
      const [again] = await publish(plan(), model.dir, out, { shards: ['a'], verify });
      expect(again).toMatchObject({ kept: 2, written: 1, linked: 0 });
      expect(await verifyPublished(join(out, 'a'), model.dir)).toEqual([]);
    }
  expect(await inode(out, 'a/tables/two.safetensors')).toBe(before);
});

test('a begun directory is gone on with: noted files are kept, a torn note and half-written files are not', async () => {
  await publish(plan(), model.dir, out, { shards: ['a'] });
  const { published } = await readModelSpec(join(out, 'a'));
  const { files, ...head } = published!;
  const [whole, torn] = ['tables/two.safetensors', 'split.part-1-of-3.safetensors'];
  await rm(join(out, 'a/model.json'));
  const note = (file: string): string => `\n${JSON.stringify({ file, ...files[file] })}\n`;
  await writeFile(join(out, 'a/publishing.jsonl'), `${JSON.stringify(head)}\n${note(whole)}${note(torn).slice(0, 40)}`);
  await writeFile(join(out, 'a/tables/two.safetensors.123.tmp'), 'half');
  await writeFile(join(out, 'a/model.json.7.tmp'), '{');
  expect(await verifyPublished(out, model.dir)).toEqual(expect.arrayContaining([expect.stringMatching(/no bundle here.*a\/model\.json/)]));
  const [again] = await publish(plan(), model.dir, out, { shards: ['a'] });
  expect(again).toMatchObject({ kept: 1, written: 1, linked: 1 });
  expect((await readdir(join(out, 'a'), { recursive: true })).sort()).toEqual(
    ['model.json', torn, 'tables', 'tables/alone.safetensors', whole].sort(),
  );
});

test('a note behind a torn one counts', async () => {
  await publish(plan(), model.dir, out, { shards: ['a'] });
  const { files, ...head } = (await readModelSpec(join(out, 'a'))).published!;
  const begun = join(dir, 'begun');
  await mkdir(begun);
  await writeFile(join(begun, 'publishing.jsonl'), `${JSON.stringify(head)}\n\n{"file":"tables/al`);
  const [[name, whole]] = Object.entries(files) as [[string, (typeof files)[string]]];
  await (await ShardDirectory.read(begun, head)).note(name, whole!);
  expect([...(await ShardDirectory.read(begun, head)).known]).toEqual([[name, whole]]);
});

test('a directory of another model, shard or plan, or with other files, is refused before anything is written', async () => {
  const refused = (given: ReturnType<typeof plan>, source: string, message: RegExp) =>
    expect(publish(given, source, out)).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(message) });
  await publish(plan(), model.dir, out);
  const other = await writeRawModel(TABLES, 2);
  await refused(planOf(other, SHARDS, PARTS), other.dir, /of another model, [0-9a-f]{12}, this is/);
  expect(await verifyPublished(out, other.dir)).toEqual(
    SHARDS.concat('main').map((shard) => expect.stringMatching(`of shard ${shard} was made of another model`)),
  );
  await rm(other.dir, { recursive: true });
  await refused(
    plan([['b'], ['a'], ['b'], ['c', 'a', 'b']]),
    model.dir,
    /another plan, it holds part 0 of 1 of table alone, the plan says nothing/,
  );
  await refused(
    plan([['a'], ['a'], ['b'], ['c', 'a']]),
    model.dir,
    /another plan, it holds part 1 of 3 of table split, the plan says part 1 of 2/,
  );
  await rm(join(out, 'a'), { recursive: true });
  await rename(join(out, 'b'), join(out, 'a'));
  await refused(plan(), model.dir, /of shard b, this is a/);
  expect(await readdir(out)).not.toContain('b');
  await rm(join(out, 'a'), { recursive: true });
  await mkdir(join(out, 'a'));
  await appendFile(join(out, 'a/notes.txt'), 'mine');
  await refused(plan(), model.dir, /1 files that were not published, first notes\.txt/);
  await rm(out, { recursive: true });
  await mkdir(join(out, 'a'), { recursive: true });
  await publish(plan(), model.dir, out);
  await expect(publish(plan(), join(out, 'a'), join(dir, 'twice'))).rejects.toThrow(/only a whole bundle can be published.*shard a/);
  await expect(publish(plan(), model.dir, join(dir, 'nope'), { shards: ['a', 'z'] })).rejects.toMatchObject({ code: 'bad_plan' });
  // Where the model itself lies, what is published could not be found.
  await expect(publish(plan(), model.dir, model.dir)).rejects.toThrow(/output is itself a bundle/);
  await expect(publish(plan(), model.dir, join(out, 'a'))).rejects.toThrow(/output is itself a bundle/);
  for (const name of ['..', 'x/y', '', 'a b', '-a', 'line\n', 'x'.repeat(129)]) {
    const strange = planOf(model, [name, 'b', 'c'], [['b'], [name], ['b'], ['b']]);
    await expect(publish(strange, model.dir, join(dir, 'nope'))).rejects.toMatchObject({
      code: 'bad_plan',
      details: { field: 'shards.0.name' },
    });
  }
});

test('a damaged source is not published, and leaves no bundle of its rows', async () => {
  for (const [file, shard] of [
    ['split.safetensors', 'c'],
    ['tables/alone.safetensors', 'a'],
  ] as const) {
    const damaged = await writeRawModel(TABLES);
    const bytes = await readFile(join(damaged.dir, file));
    bytes[bytes.length - 1]! ^= 1;
    await writeFile(join(damaged.dir, file), bytes);
    const to = join(dir, shard);
    await expect(publish(plan(), damaged.dir, to)).rejects.toMatchObject({
      code: 'checksum_mismatch',
      message: expect.stringContaining(join(damaged.dir, file)),
    });
    const left = await readdir(join(to, shard), { recursive: true });
    expect(left.filter((name) => name.endsWith('.tmp') || name === 'model.json' || name.includes(file.split('.')[0]!))).toEqual([]);
    // The sample is checked before anything is written.
    const sampled = join(dir, `${shard}-sampled`);
    await expect(publish(plan(), damaged.dir, sampled, { verify: 'size' })).rejects.toMatchObject({
      code: 'checksum_mismatch',
      message: expect.stringContaining(join(damaged.dir, file)),
    });
    expect(await readdir(sampled).catch(() => [])).toEqual([]);
    await rm(damaged.dir, { recursive: true });
  }
});

test('verify against the source says the first row that differs, files that were swapped, and parts that are nowhere', async () => {
  await publish(plan(), model.dir, out);
  const path = join(out, 'b/split.part-2-of-3.safetensors');
  const bytes = await readFile(path);
  bytes[4096 + 6 * 4 + 1]! ^= 8;
  bytes[4096 + 6 * 9]! ^= 8;
  await writeFile(path, bytes);
  const problems = await verifyPublished(out, model.dir);
  expect(problems.map((problem) => problem.split(':')[0])).toEqual(['file is damaged', 'row differs from the source']);
  // Local row 4 of part 2 of 3.
  expect(problems[1]).toMatch(/table split, row 14, local row 4 of b: .*b\/split/);
  const spec = await readModelSpec(join(out, 'b'));
  const { published } = spec;
  await writeModelJson(join(out, 'b'), {
    ...spec,
    published: { ...published!, parts: published!.parts.map((part) => ({ ...part, part: 0 })) },
  });
  await expect(verifyBundle(join(out, 'b'))).rejects.toThrow(/part 0 of 3 of table split has 16 rows, expected 17/);
  await writeModelJson(join(out, 'b'), { ...spec, version: '2' });
  await expect(openBundle(join(out, 'b'), { dense: false })).rejects.toThrow(/another hash than its source/);
  await rm(join(out, 'b'), { recursive: true });
  expect(await verifyPublished(out, model.dir)).toEqual([
    expect.stringMatching(/do not hold a table once: second, nowhere/),
    expect.stringMatching(/table once: split, part 1 of 3, part 0 of 3/),
  ]);
  await rm(join(out, 'c/model.json'));
  expect(await bundlesIn(out)).toContain(join(out, 'c'));
  expect(await verifyPublished(out, model.dir)).toContainEqual(expect.stringMatching(/no bundle here.*c\/model\.json/));
  await rename(join(out, 'main'), join(dir, 'main'));
  expect(await verifyPublished(out, model.dir)).toContainEqual(
    expect.stringMatching(/do not hold the dense weights, those of main: .*out/),
  );
  await rename(join(dir, 'main'), join(out, 'main'));
  const dense = join(out, 'main/dense.safetensors');
  const weights = await readFile(dense);
  weights[weights.length - 1]! ^= 1;
  // A copy: the file is a link of the source's.
  await rm(dense);
  await writeFile(dense, weights);
  expect(await verifyPublished(join(out, 'main'), model.dir)).toEqual([
    expect.stringMatching(/damaged.*main\/dense/),
    expect.stringMatching(new RegExp(`dense weights differ from the source: byte ${weights.length - 1}: `)),
  ]);
  // A file of the same length, with rows of one part in the place of another's.
  const even = plan([['a'], ['a'], ['b'], ['a', 'b']]);
  const evenOut = join(dir, 'even');
  await publish(even, model.dir, evenOut);
  const [one, two] = [join(evenOut, 'a/split.part-0-of-2.safetensors'), join(evenOut, 'b/split.part-1-of-2.safetensors')];
  await writeFile(one, await readFile(two));
  expect(await verifyPublished(join(evenOut, 'a'), model.dir)).toEqual([
    expect.stringMatching(/damaged.*a\/split/),
    expect.stringMatching(/table split, row 0,/),
  ]);
});

test('of several calls at once into one directory one is refused where another writes, and does it no harm', async () => {
  const lock = await DirectoryLock.take(join(out, 'b'));
  await expect(publish(plan(), model.dir, out)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(/another publish is writing to the directory: .*out\/b, process \d+/),
  });
  await lock.release();
  expect(await readdir(out, { recursive: true })).toEqual([]);
  const calls = [undefined, undefined, ['b']].map((shards) => publish(plan(), model.dir, out, { ...(shards && { shards }) }));
  const ended = await Promise.allSettled(calls);
  expect(ended.some(({ status }) => status === 'fulfilled')).toBe(true);
  for (const result of ended)
    if (result.status === 'rejected') expect(result.reason).toMatchObject({ message: expect.stringMatching(/another publish is writing/) });
  await publish(plan(), model.dir, out);
  expect(await verifyPublished(out, model.dir)).toEqual([]);
  expect((await readdir(out, { recursive: true })).filter((name) => /lock|tmp|publishing/.test(name))).toEqual([]);
});

test('calls at once for different shards of one directory go side by side', async () => {
  await Promise.all(['a', 'b', 'c', 'main'].map((shard) => publish(plan(), model.dir, out, { shards: [shard] })));
  expect(await verifyPublished(out, model.dir)).toEqual([]);
});

test('a call that is refused or stopped leaves no lock', async () => {
  await mkdir(join(out, 'c'), { recursive: true });
  await writeFile(join(out, 'c/notes.txt'), 'mine');
  await expect(publish(plan(), model.dir, out)).rejects.toThrow(/notes\.txt/);
  expect(await readdir(out, { recursive: true })).toEqual(['c', 'c/notes.txt']);
  await rm(out, { recursive: true });
  const file = await open(join(model.dir, 'model.json'));
  const handle = Object.getPrototypeOf(file) as FileHandle;
  await file.close();
  const full = vi.spyOn(handle, 'writeFile').mockRejectedValueOnce(Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' }));
  await expect(publish(plan(), model.dir, out)).rejects.toMatchObject({ code: 'does_not_fit' });
  full.mockRestore();
  expect(await readdir(out, { recursive: true })).toEqual([]);
  await expect(publish(plan(), model.dir, out, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'aborted' });
  expect(await readdir(out, { recursive: true })).toEqual([]);
});

/** A table with twice the bytes that the disk has room for: a file that is one hole. */
async function writeHugeModel(room: number): Promise<Pick<RawModel, 'dir' | 'spec' | 'hash'>> {
  const { dir: bundle, spec } = await writeRawModel([
    { name: 'huge', rows: 2, dim: 1024, format: 'fp32', file: 'huge.safetensors', tensor: 'w' },
  ]);
  const rows = 2 * Math.ceil(room / 4096);
  const json = Buffer.from(JSON.stringify({ w: { dtype: 'F32', shape: [rows, 1024], data_offsets: [0, rows * 4096] } }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const path = join(bundle, 'huge.safetensors');
  await writeFile(path, Buffer.concat([length, json]));
  const bytes = 8 + json.length + rows * 4096;
  await truncate(path, bytes);
  const tables = spec.tables.map((table) => ({ ...table, rows }));
  const hex = (bytes: Buffer): string => crc32(bytes).toString(16).padStart(8, '0');
  const zeros = Buffer.alloc(CHUNK_BYTES);
  const chunks = Math.ceil(bytes / CHUNK_BYTES);
  const sums = new Array<string>(chunks).fill(hex(zeros));
  sums[0] = hex(Buffer.concat([length, json, zeros], CHUNK_BYTES));
  sums[chunks - 1] = hex(zeros.subarray(0, bytes - (chunks - 1) * CHUNK_BYTES));
  const huge = { ...spec, tables, files: { ...spec.files, 'huge.safetensors': { bytes, crc32: sums } } };
  await writeModelJson(bundle, huge);
  return { dir: bundle, spec: huge, hash: modelHash(huge) };
}

const { bavail, bsize } = statfsSync(tmpdir());
const room = bavail * bsize;
test.skipIf(room > 2 ** 41)('what the disk has no room for is refused before anything is written; links need none', async () => {
  const huge = await writeHugeModel(room);
  try {
    const split = publish(planOf(huge, SHARDS, [['a', 'b']]), huge.dir, out, { verify: 'size' });
    await expect(split).rejects.toMatchObject({
      code: 'does_not_fit',
      message: expect.stringMatching(/need \d+ bytes, the disk has \d+$/),
    });
    expect(await readdir(out)).toEqual([]);
    const [whole] = await publish(planOf(huge, SHARDS, [['a']]), huge.dir, out, { verify: 'size' });
    expect(whole).toMatchObject({ shard: 'a', linked: 1, bytes: huge.spec.files['huge.safetensors']!.bytes });
  } finally {
    await rm(huge.dir, { recursive: true });
  }
});

test('progress ends at the total, and an aborted call goes on later', async () => {
  const seen: number[][] = [];
  await publish(plan(), model.dir, out, { onProgress: (...at) => seen.push(at) });
  expect(seen.at(-1)![0]).toBe(seen.at(-1)![1]);
  const again: number[][] = [];
  await publish(plan(), model.dir, out, { onProgress: (...at) => again.push(at) });
  expect(again.at(-1)).toEqual(seen.at(-1));
  await rm(out, { recursive: true });
  const stop = new AbortController();
  const stopped = publish(plan(), model.dir, out, { signal: stop.signal, onProgress: () => stop.abort() });
  await expect(stopped).rejects.toMatchObject({ code: 'aborted', message: expect.stringContaining('goes on') });
  expect((await readdir(out, { recursive: true })).filter((name) => name.endsWith('.tmp') || name.endsWith('model.json'))).toEqual([]);
  await publish(plan(), model.dir, out);
  expect(await verifyPublished(out, model.dir)).toEqual([]);
});

test('an output that is no directory, or in which nothing may be written, is refused with the reason', async () => {
  await writeFile(join(dir, 'file'), 'x');
  const file = join(dir, 'file');
  await expect(publish(plan(), model.dir, file)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(/has to be a directory.*ENOTDIR.*file/),
  });
  // The system refuses a name that is too long when it is written, also to the superuser.
  await expect(publish(plan(), model.dir, join(dir, 'x'.repeat(300)))).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringContaining('ENAMETOOLONG'),
  });
});

test.skipIf(process.getuid?.() === 0)('a directory without write permission is refused with its path', async () => {
  await mkdir(out, { mode: 0o555 });
  await expect(publish(plan(), model.dir, out)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(/cannot be written \(EACCES\): .*out/),
  });
});
