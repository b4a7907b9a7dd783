import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cp, link, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { importBundle } from '../../src/import/import-bundle.js';
import { checkImportSpec } from '../../src/import/import-spec.js';
import { type Like, specLike } from '../../src/import/like.js';
import { openCheckpoint, openCheckpoints } from '../../src/import/open-checkpoint.js';
import { OpenFiles } from '../../src/import/open-files.js';
import { openLocal, type PredictRequest, packBundle, publish } from '../../src/index.js';
import { openBundle, readModelSpec, verifyBundle } from '../../src/model/bundle.js';
import { modelHash } from '../../src/model/hash.js';
import { bundlesIn, verifyPublished } from '../../src/plan/file/publish/verify-published.js';
import { readSafetensorsHeader } from '../../src/tables/safetensors.js';
import { capacityPlan } from '../reference/plans.js';

const FIXTURES = fileURLToPath(new URL('../fixtures/checkpoints', import.meta.url));
const expected = JSON.parse(await readFile(join(FIXTURES, 'expected.json'), 'utf8')) as {
  readonly request: { readonly dense: number[]; readonly bags: readonly { readonly indices: number[]; readonly offsets: number[] }[] };
  readonly scores: Readonly<Record<string, number[]>>;
  readonly views: Readonly<Record<string, number[][]>>;
  readonly quantized: { readonly front: number[][] };
  readonly layouts: { readonly values: number[][]; readonly quantized: number[][]; readonly keys: string[] };
};
const ITEMS = 5;
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let dir: string;
let bundle: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-import-'));
  bundle = join(dir, 'bundle');
});
afterEach(() => rm(dir, { recursive: true }));

const LIKE_OPTIONS = { name: 'model', modelVersion: '1' };

async function importLike(checkpoint: string, like: Like, options: { readonly copy?: boolean; readonly output?: string } = {}) {
  const files = new OpenFiles();
  try {
    const opened = await openCheckpoint(files, checkpoint);
    const { spec, columns } = specLike(like, opened, LIKE_OPTIONS);
    return await importBundle(opened, files, spec, options.output ?? bundle, { columns, copy: options.copy ?? false });
  } finally {
    await files.close();
  }
}

function specOfTables(tables: readonly object[]): object {
  const [table] = tables as [{ name: string }];
  const layers = [
    { type: 'embedding_bag', name: 'bag', table: table.name },
    { type: 'sum', name: 'out', inputs: ['bag'] },
  ];
  return { terabag: 1, name: 'tables', version: '1', dense: [], tables, nets: [{ name: 'net', layers }], output: 'out' };
}

async function importSpec(checkpoint: string, tables: readonly object[]) {
  const spec = checkImportSpec('spec', specOfTables(tables));
  const files = new OpenFiles();
  try {
    return await importBundle(await openCheckpoint(files, checkpoint), files, spec, bundle);
  } finally {
    await files.close();
  }
}

function request(prefix: string): PredictRequest {
  const { dense, bags } = expected.request;
  return {
    items: ITEMS,
    dense: { dense: Float32Array.from(dense) },
    sparse: Object.fromEntries(bags.map((bag, t) => [`${prefix}${t}`, bag])),
  };
}

async function scoresOf(path: string, prefix: string): Promise<number[]> {
  const predictor = await openLocal(path, { deadlineMs: 10_000 });
  const { scores } = await predictor.predict(request(prefix));
  await predictor.close();
  return [...scores];
}

function expectClose(found: readonly number[], right: readonly number[]): void {
  expect(found.length).toBe(right.length);
  for (const [at, value] of right.entries())
    expect(Math.abs((found[at] as number) - value)).toBeLessThan(1e-5 * Math.max(0.1, Math.abs(value)));
}

const CHECKPOINTS = [
  { path: 'dlrm.pt', like: 'dlrm', how: 'in place' },
  { path: 'dlrm-itself.pt', like: 'dlrm', how: 'in place' },
  { path: 'torchrec-dlrm.pt', like: 'torchrec-dlrm', how: 'in place' },
  { path: 'torchrec-dcn.pt', like: 'torchrec-dcn', how: 'in place' },
  { path: 'torchrec-dlrm.safetensors', like: 'torchrec-dlrm', how: 'in place' },
  { path: 'hugging-face', like: 'torchrec-dlrm', how: 'in place' },
  { path: 'hugging-face/model.safetensors.index.json', like: 'torchrec-dlrm', how: 'in place' },
  { path: 'dcp', like: 'torchrec-dlrm', how: 'copied' },
  { path: 'dcp-2-ranks', like: 'torchrec-dlrm', how: 'copied' },
  { path: 'dcp-safetensors', like: 'torchrec-dlrm', how: 'in place' },
  { path: 'dcp-safetensors-2-ranks', like: 'torchrec-dlrm', how: 'copied' },
  { path: 'torchsnapshot', like: 'torchrec-dlrm', how: 'in place' },
] as const;

test.each(CHECKPOINTS)('$path imports as $like, its rows $how, and gives the scores of PyTorch', async ({ path, like, how }) => {
  const checkpoint = join(dir, 'checkpoint');
  // Beside the bundle, since links do not reach other filesystems; they would also keep the fixture's file.
  await cp(join(FIXTURES, path.split('/')[0] as string), checkpoint, { recursive: true });
  const [, inside = ''] = path.split('/');
  const report = await importLike(join(checkpoint, inside), like);
  expect(report.tables.map((table) => table.how)).toEqual([how, how, how]);
  expect(await verifyBundle(bundle)).toEqual([]);
  const right = expected.scores[like === 'dlrm' ? path.replace('.pt', '') : like] as number[];
  expectClose(await scoresOf(bundle, like === 'dlrm' ? 'emb_l.' : 'cat_'), right);
});

test('a .pt is linked, not copied, and its own checksums find damage to rows and to the directory, and no damage elsewhere', async () => {
  const checkpoint = join(dir, 'model.pt');
  await cp(join(FIXTURES, 'dlrm.pt'), checkpoint);
  const report = await importLike(checkpoint, 'dlrm');
  expect(report.placed).toEqual([{ file: 'checkpoint/model.pt', how: expect.stringMatching(/linked|cloned/), checksums: 'of the file' }]);
  const placed = join(bundle, 'checkpoint/model.pt');
  if (report.placed[0]?.how === 'linked') expect((await stat(placed)).ino).toBe((await stat(checkpoint)).ino);
  const spec = await readModelSpec(bundle);
  const [first] = spec.tables;
  expect(first).toMatchObject({ file: 'checkpoint/model.pt', byteOffset: expect.any(Number) });
  expect((first?.byteOffset as number) % 64).toBe(0);
  const original = await readFile(placed);
  const damaged = async (at: number): Promise<string[]> => {
    const file = await open(placed, 'r+');
    await file.write(Uint8Array.of((original[at] as number) ^ 4), 0, 1, at);
    const problems = await verifyBundle(bundle);
    await file.write(original, at, 1, at);
    await file.close();
    return problems;
  };
  expect(await damaged((first?.byteOffset as number) + 17)).toEqual([expect.stringMatching(/^file is damaged/)]);
  expect(await damaged(original.length - 30)).toEqual([expect.stringMatching(/^file is damaged/)]);
  const unused = original.indexOf('opt_state_dict');
  expect(await damaged(unused)).toEqual([]);
  await expect(openBundle(bundle)).resolves.toMatchObject({ hash: modelHash(spec) });
});

test('an imported bundle is published row by row, packed, and copied, and each gives the same scores', async () => {
  const checkpoint = join(dir, 'model.pt');
  await cp(join(FIXTURES, 'torchrec-dlrm.pt'), checkpoint);
  await importLike(checkpoint, 'torchrec-dlrm');
  const spec = await readModelSpec(bundle);
  const scores = await scoresOf(bundle, 'cat_');
  const plan = capacityPlan(spec, 2);
  const names = plan.shards.map(({ name }) => name);
  const split = { ...plan, tables: plan.tables.map(({ table }, t) => ({ table, parts: t === 0 ? names : [names[t % 2] as string] })) };
  const published = join(dir, 'published');
  await publish(split, bundle, published);
  expect(await verifyPublished(published, bundle)).toEqual([]);
  for (const shard of await bundlesIn(published)) expect((await readModelSpec(shard)).published?.source).toBe(modelHash(spec));
  const packed = join(dir, 'packed');
  await packBundle(bundle, packed, { format: 'int8', tables: ['t_cat_1'] });
  expect(await verifyBundle(packed)).toEqual([]);
  expect((await readModelSpec(packed)).tables.map(({ format, byteOffset }) => [format, byteOffset])).toEqual([
    ['fp32', undefined],
    ['int8', undefined],
    ['fp32', undefined],
  ]);
  for (const [at, score] of (await scoresOf(packed, 'cat_')).entries()) expect(Math.abs(score - (scores[at] as number))).toBeLessThan(0.02);
  const copied = join(dir, 'copied');
  const report = await importLike(checkpoint, 'torchrec-dlrm', { copy: true, output: copied });
  expect(report.tables.map(({ how }) => how)).toEqual(['copied', 'copied', 'copied']);
  expect(await readdir(copied)).not.toContain('checkpoint');
  expect(await scoresOf(copied, 'cat_')).toEqual(scores);
});

/** Rows of the bundle's tables as the engine pools them: a bag of one id each. */
async function rowsOf(rows: number): Promise<number[][]> {
  const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
  const offsets = Array.from({ length: rows + 1 }, (_, n) => n);
  const { scores } = await predictor.predict({ items: rows, dense: {}, sparse: { bag: { indices: offsets.slice(0, rows), offsets } } });
  await predictor.close();
  const dim = scores.length / rows;
  return Array.from({ length: rows }, (_, row) => [...scores.subarray(row * dim, (row + 1) * dim)]);
}

test.each([
  ['rows', 'in place', 'fp32'],
  ['columns', 'copied', 'fp32'],
  ['every_second', 'copied', 'fp32'],
  ['transposed', 'copied', 'fp32'],
  ['repeated', 'copied', 'fp32'],
  ['double', 'converted', 'fp32'],
  ['half', 'in place', 'fp16'],
  ['brain', 'in place', 'bf16'],
] as const)('a tensor of views.pt, %s, is %s and holds the values of PyTorch', async (name, how, format) => {
  const checkpoint = join(dir, 'views.pt');
  await cp(join(FIXTURES, 'views.pt'), checkpoint);
  const report = await importSpec(checkpoint, [{ name: 'table', tensor: name }]);
  const right = expected.views[name] as number[][];
  expect(report.tables).toMatchObject([{ how, format, rows: right.length, dim: right[0]?.length }]);
  expect(await rowsOf(right.length)).toEqual(right);
  expect(report.skipped).toEqual([
    { tensor: 'model.sparse', why: 'a sparse tensor' },
    { tensor: 'model.complex', why: 'its values are torch.ComplexFloatStorage' },
  ]);
});

test('a table is packed on its way when the spec says so', async () => {
  const report = await importSpec(join(FIXTURES, 'views.pt'), [{ name: 'table', tensor: 'model.parameter', format: 'int8' }]);
  expect(report.tables).toMatchObject([{ how: 'converted', format: 'int8' }]);
  const rows = await rowsOf(6);
  for (const [row, values] of (expected.views['whole'] as number[][]).entries())
    for (const [column, value] of values.entries()) expect(Math.abs((rows[row]?.[column] as number) - value)).toBeLessThan(0.002);
});

test('a file whose zip has no checksums gets computed ones', async () => {
  const checkpoint = join(dir, 'model.pt');
  await cp(join(FIXTURES, 'no-checksums.pt'), checkpoint);
  const report = await importSpec(checkpoint, [{ name: 'table', tensor: 'rows' }]);
  expect(report.placed).toMatchObject([{ checksums: 'computed' }]);
  expect(await verifyBundle(bundle)).toEqual([]);
  expect(await rowsOf(6)).toEqual(expected.views['whole']);
});

test("FBGEMM's quantized rows, scale and bias in front, keep their values; fused rows are served in place", async () => {
  const checkpoint = join(dir, 'quantized.pt');
  await cp(join(FIXTURES, 'quantized.pt'), checkpoint);
  const front = 'embedding_bag_collection.embedding_bags.t_cat_0.weight';
  const report = await importSpec(checkpoint, [{ name: 'table', tensor: front, format: 'int8_fp16', dim: 8, scaleAndBias: 'front' }]);
  expect(report.tables).toMatchObject([{ how: 'converted', format: 'int8_fp16', rows: 20, dim: 8 }]);
  const rows = await rowsOf(20);
  for (const [row, values] of expected.quantized.front.entries())
    for (const [column, value] of values.entries()) expect(rows[row]?.[column]).toBeCloseTo(value, 6);
  await rm(bundle, { recursive: true });
  const behind = await importSpec(checkpoint, [{ name: 'table', tensor: 'behind', format: 'int8' }]);
  expect(behind.tables).toMatchObject([{ how: 'in place', format: 'int8', dim: 8 }]);
  expect(await verifyBundle(bundle)).toEqual([]);
  const packed = await readSafetensorsHeader(join(bundle, 'dense.safetensors'));
  expect(packed.tensors.size).toBe(0);
});

test.each([
  ['arrays.npz', 'plain', 'values', /in place|copied/],
  ['arrays.npz', 'fortran', 'values', /copied/],
  ['arrays.npz', 'double', 'values', /converted/],
  ['torcheasyrec', 'plain', 'values', /copied/],
  ['torcheasyrec', 'dynamic.values', 'values', /copied/],
  ['torcheasyrec', 'quantized', 'quantized', /copied/],
  ['hugectr', '0_sparse_1000.model.emb_vector', 'values', /in place/],
  ['hugectr/0_sparse_1000.model', '0_sparse_1000.model.emb_vector', 'values', /in place/],
] as const)('%s: the rows of %s are those of the layout', async (path, tensor, right, how) => {
  const checkpoint = join(dir, 'checkpoint');
  await cp(join(FIXTURES, path), path.includes('/') ? join(checkpoint, '0_sparse_1000.model') : checkpoint, { recursive: true });
  const report = await importSpec(path.includes('/') ? join(checkpoint, '0_sparse_1000.model') : checkpoint, [{ name: 'table', tensor }]);
  expect(report.tables[0]).toMatchObject({ rows: 9, dim: 8, how: expect.stringMatching(how) });
  expect(report.tables[0]?.format).toBe(right === 'quantized' ? 'int8_fp16' : 'fp32');
  const rows = await rowsOf(9);
  for (const [row, values] of expected.layouts[right].entries())
    for (const [column, value] of values.entries()) expect(rows[row]?.[column]).toBeCloseTo(value, 6);
  expect(await verifyBundle(bundle)).toEqual([]);
});

test('rows of two checkpoints make one model', async () => {
  const files = new OpenFiles();
  const checkpoint = await openCheckpoints(files, [join(FIXTURES, 'hugectr'), join(FIXTURES, 'torchrec-dlrm.pt')]);
  await files.close();
  expect([...checkpoint.tensors.keys()]).toEqual(expect.arrayContaining(['0_sparse_1000.model.emb_vector', 'over_arch.model.1.bias']));
  const again = openCheckpoints(files, [join(FIXTURES, 'hugectr'), join(FIXTURES, 'hugectr')]);
  await expect(again).rejects.toThrow('tensor stands in two checkpoints: 0_sparse_1000.model.key');
  await files.close();
});

test('what is missing is named, with near names; nothing is left behind', async () => {
  await expect(importSpec(join(FIXTURES, 'views.pt'), [{ name: 'table', tensor: 'model.row' }])).rejects.toMatchObject({
    code: 'bad_checkpoint',
    message: expect.stringContaining('tables[0].tensor: no such tensor: model.row; near are model.rows'),
  });
  await expect(importSpec(join(FIXTURES, 'views.pt'), [{ name: 'table', tensor: 'sparse' }])).rejects.toThrow('sparse, a sparse tensor');
  await expect(importSpec(join(FIXTURES, 'views.pt'), [{ name: 'table', tensor: 'rows', dim: 7 }])).rejects.toThrow(
    'tables[0].dim: is 7, tensor model.rows is 3x8',
  );
  await expect(stat(bundle)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a damaged record is not copied into a sound bundle', async () => {
  const checkpoint = join(dir, 'model.pt');
  const bytes = await readFile(join(FIXTURES, 'torchrec-dlrm.pt'));
  await writeFile(checkpoint, bytes);
  await importLike(checkpoint, 'torchrec-dlrm');
  const [table] = (await readModelSpec(bundle)).tables;
  await rm(bundle, { recursive: true });
  bytes[(table?.byteOffset as number) + 3] = (bytes[(table?.byteOffset as number) + 3] as number) ^ 1;
  await writeFile(checkpoint, bytes);
  await expect(importLike(checkpoint, 'torchrec-dlrm', { copy: true })).rejects.toMatchObject({ code: 'checksum_mismatch' });
  await expect(stat(bundle)).rejects.toMatchObject({ code: 'ENOENT' });
});

/** A table of zeros that takes a while to copy, and no room. */
async function writeSparseTable(path: string): Promise<void> {
  const [rows, dim] = [2 ** 20, 64];
  const header = JSON.stringify({ table: { dtype: 'F32', shape: [rows, dim], data_offsets: [0, rows * dim * 4] } }).padEnd(128);
  const file = await open(path, 'w');
  await file.write(Buffer.from(BigUint64Array.of(BigInt(header.length)).buffer));
  await file.write(header);
  await file.truncate(8 + header.length + rows * dim * 4);
  await file.close();
}

/** Ends the command while it copies a table. */
async function endWhileCopying(args: readonly string[], signal: NodeJS.Signals): Promise<NodeJS.Signals | null> {
  const running = spawn(process.execPath, args, { stdio: 'ignore' });
  const ended = once(running, 'exit');
  const begun = async (): Promise<boolean> => (await readdir(join(bundle, 'tables')).catch(() => [])).length > 0;
  while (running.exitCode === null && !(await begun())) await sleep(1);
  running.kill(signal);
  await ended;
  return running.signalCode;
}

test('an import that is interrupted leaves nothing; of one that was killed the next says what to do', async () => {
  const [checkpoint, spec] = [join(dir, 'model.safetensors'), join(dir, 'spec.json')];
  await writeSparseTable(checkpoint);
  await writeFile(spec, JSON.stringify(specOfTables([{ name: 'table', tensor: 'table' }])));
  const args = [main, 'import', checkpoint, '--spec', spec, '-o', bundle, '--copy'];
  const run = () => spawnSync(process.execPath, args, { encoding: 'utf8' });
  await endWhileCopying(args, 'SIGTERM');
  await expect(stat(bundle)).rejects.toMatchObject({ code: 'ENOENT' });
  expect(await endWhileCopying(args, 'SIGKILL')).toBe('SIGKILL');
  await expect(readModelSpec(bundle)).rejects.toMatchObject({ code: 'bad_model', details: { reason: 'ENOENT' } });
  expect(run().stderr).toMatch(
    /holds \d+ files, and no model\.json; when a command that was killed left them, remove .* \(invalid_argument\)\n$/,
  );
  await rm(bundle, { recursive: true });
  expect(run().status).toBe(0);
  expect(run().stderr).toMatch(/holds 3 files, which are a bundle; name another directory \(invalid_argument\)\n$/);
});

test('the command imports, says what it did, and writes its spec; the spec alone gives the same model', async () => {
  const checkpoint = join(dir, 'model.pt');
  await link(join(FIXTURES, 'dlrm.pt'), checkpoint).catch(() => cp(join(FIXTURES, 'dlrm.pt'), checkpoint));
  const terabag = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' });
  const spec = join(dir, 'spec.json');
  const dry = terabag('import', checkpoint, '--like', 'dlrm', '--dry-run', '--write-spec', spec);
  expect(dry.stderr).toBe('');
  expect(dry.stdout).toContain('3 tables, 1.2 KiB, and 8 dense weights of torch.save would be imported');
  const imported = terabag('import', checkpoint, '--spec', spec, '-o', bundle, '--json');
  expect(imported.stderr).toBe('');
  const report = JSON.parse(imported.stdout) as { unused: { tensor: string }[] };
  expect(report).toMatchObject({ kind: 'torch.save', dryRun: false, tables: [{ how: 'in place' }, {}, {}] });
  expect(report.unused.map(({ tensor }) => tensor)).toContain('opt_state_dict.state.0.sum');
  expectClose(await scoresOf(bundle, 'emb_l.'), expected.scores['dlrm'] as number[]);
  const none = terabag('import', checkpoint, '--dry-run');
  expect([none.status, none.stderr]).toEqual([
    1,
    expect.stringContaining('either --spec or --like is needed; the checkpoint has state_dict.emb_l.0.weight'),
  ]);
});
