import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, launchCluster, openLocal, packBundle, type TerabagError } from '../../src/index.js';
import { readModelSpec, verifyBundle, writeModelJson } from '../../src/model/bundle.js';
import { ROW_FORMATS, type RowFormat, rowBytes } from '../../src/model/formats.js';
import { packFile } from '../../src/pack/pack-file.js';
import { tableBytes } from '../../src/plan/placement/bytes.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../src/tables/safetensors.js';
import { capacityPlan } from '../reference/plans.js';
import { DIM, ROWS, random, referenceLogits, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let model: SmallModel;
let dir: string;
beforeAll(async () => {
  model = await writeSmallModel(8, { activation: 'none' });
  dir = await mkdtemp(join(tmpdir(), 'terabag-pack-'));
});
afterAll(() => Promise.all([model.dir, dir].map((path) => rm(path, { recursive: true }))));
const terabag = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' });

/** Values of a packed table, by the layout of its rows. */
async function dequantized(bundle: string, table: number, format: 'int8' | 'int8_fp16' | 'int4'): Promise<Float32Array> {
  const header = await readSafetensorsHeader(join(bundle, `tables/t${table}.safetensors`));
  const tensor = header.tensors.get('weight')!;
  expect(tensor.byteOffset % 4096).toBe(0);
  const rows = await readTensor(header, tensor);
  const width = rowBytes(format, DIM);
  expect(tensor).toMatchObject({ dtype: 'U8', shape: [ROWS[table], width] });
  const view = new DataView(rows.buffer);
  const half = (at: number): number => {
    const bits = view.getUint16(at, true);
    const exponent = (bits >> 10) & 31;
    const magnitude = exponent === 0 ? (bits & 1023) * 2 ** -24 : (1024 + (bits & 1023)) * 2 ** (exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
  };
  return Float32Array.from({ length: ROWS[table]! * DIM }, (_, i) => {
    const [start, d] = [Math.floor(i / DIM) * width, i % DIM];
    const values = start + (format === 'int4' ? DIM / 2 : DIM);
    const q = format === 'int4' ? (view.getUint8(start + (d >> 1)) >> (d % 2 === 0 ? 0 : 4)) & 15 : view.getUint8(start + d);
    const [scale, bias] =
      format === 'int8' ? [view.getFloat32(values, true), view.getFloat32(values + 4, true)] : [half(values), half(values + 2)];
    return scale * q + bias;
  });
}

test.each(['int8', 'int8_fp16', 'int4'] as const)(
  'a bundle packed as %s gives the scores of its packed rows, local and on shards',
  async (format) => {
    const packed = join(dir, format);
    const results = await packBundle(model.dir, packed, { format });
    const spec = await readModelSpec(packed);
    expect(spec.tables.map((table) => table.format)).toEqual([format, format, format]);
    expect(await verifyBundle(packed)).toEqual([]);
    const tables = await Promise.all(ROWS.map((_, t) => dequantized(packed, t, format)));
    for (const [t, result] of results.entries()) {
      expect(result).toMatchObject({ table: `t${t}`, rows: ROWS[t], dim: DIM, from: 'fp32', to: format });
      expect([result.bytesBefore, result.bytesAfter]).toEqual([ROWS[t]! * DIM * 4, tableBytes(spec.tables[t]!)]);
      const errors = tables[t]!.map((value, i) => value - model.tables[t]![i]!);
      expect(result.maxError).toBeCloseTo(Math.max(...errors.map(Math.abs)), 6);
      expect(result.rmsError).toBeCloseTo(Math.sqrt(errors.reduce((sum, error) => sum + error * error, 0) / errors.length), 6);
      // Values lie in (-0.5, 0.5): half a step, and what rounding scale and bias adds.
      expect(result.maxError).toBeLessThan(format === 'int4' ? 0.04 : 0.003);
      expect(result.relativeError).toBeGreaterThan(0);
    }
    const plan = capacityPlan(spec, 2);
    const names = plan.shards.map(({ name }) => name);
    const split = { ...plan, tables: plan.tables.map(({ table }, t) => ({ table, parts: t === 0 ? names.slice(0, 1) : names })) };
    const local = await openLocal(packed, { deadlineMs: 10_000 });
    const clusters = await Promise.all(
      [plan, split].map((placed) => launchCluster(placed, { bundle: packed, ephemeralPorts: true, logLevel: 'error' })),
    );
    const [whole, parts] = await Promise.all(clusters.map((cluster) => connect(cluster.plan, { deadlineMs: 10_000, bundle: packed })));
    const next = random(9);
    for (let n = 0; n < 40; n++) {
      const items = 1 + (n % 6);
      const request = smallRequest(next, items);
      const { logits, scales } = referenceLogits({ ...model, tables }, request, items);
      const { scores } = await local.predict(request);
      expect((await whole!.predict(request)).scores).toEqual(scores);
      for (const found of [scores, (await parts!.predict(request)).scores]) {
        logits.forEach((logit, item) => expect(Math.abs(found[item]! - logit)).toBeLessThanOrEqual(1e-5 * scales[item]!));
      }
    }
    await Promise.all([local, whole!, parts!].map((predictor) => predictor.close()));
    await Promise.all(clusters.map((cluster) => cluster.stop()));
  },
);

test('the command packs some tables, links the rest, and prints sizes and errors', async () => {
  const output = join(dir, 'some');
  const { status, stdout, stderr } = terabag('pack', model.dir, '-o', output, '--format', 'int4', '--tables', 't0,t2', '--json');
  expect([status, stderr]).toEqual([0, '']);
  const report = JSON.parse(stdout) as { bytesBefore: number; bytesAfter: number; tables: { table: string }[] };
  expect(report.tables.map(({ table }) => table)).toEqual(['t0', 't2']);
  expect(report.bytesBefore / report.bytesAfter).toBeCloseTo((DIM * 4) / rowBytes('int4', DIM), 9);
  expect((await readModelSpec(output)).tables.map(({ format }) => format)).toEqual(['int4', 'fp32', 'int4']);
  expect((await stat(join(output, 'tables/t1.safetensors'))).ino).toBe((await stat(join(model.dir, 'tables/t1.safetensors'))).ino);
  expect(terabag('verify', output).status).toBe(0);
  expect(terabag('inspect', output).stdout).toMatch(/t0.*int4/);
  const people = terabag('pack', model.dir, '-o', join(dir, 'people'), '--format', 'bf16').stdout;
  expect(people).toMatch(/2\.00 times smaller/);
  expect(people).toMatch(/max error/);
});

test('files that are symbolic links are packed as what they lead to', async () => {
  const [linked, packed] = [join(dir, 'linked'), join(dir, 'deep/of-links')];
  await mkdir(join(linked, 'tables'), { recursive: true });
  await copyFile(join(model.dir, 'model.json'), join(linked, 'model.json'));
  for (const file of Object.keys((await readModelSpec(model.dir)).files))
    await symlink(relative(join(linked, file, '..'), join(model.dir, file)), join(linked, file));
  await packBundle(linked, packed, { format: 'int8', tables: ['t0'] });
  expect(await verifyBundle(packed)).toEqual([]);
});

test('a directory that is there is packed into when it is empty, as --help says', async () => {
  const output = join(dir, 'empty');
  await mkdir(output);
  expect(terabag('pack', '--help').stdout.replaceAll(/\s+/g, ' ')).toContain('the new directory, which must be empty or not there');
  expect(terabag('pack', model.dir, '-o', output, '--format', 'fp16').status).toBe(0);
  expect(await verifyBundle(output)).toEqual([]);
});

test('one file is packed with its other tensors left alone, and is a sound safetensors file', async () => {
  const source = join(dir, 'plain.safetensors');
  const values = Float32Array.from({ length: 3000 * 16 }, (_, i) => Math.sin(i));
  const bytes = new Uint8Array(values.buffer);
  await writeSafetensors(source, [
    { name: 'note', dtype: 'U8', shape: [5], data: Uint8Array.of(1, 2, 3, 4, 5) },
    { name: 'a', dtype: 'F32', shape: [3000, 16], data: bytes },
    { name: 'flat', dtype: 'F32', shape: [48_000], data: bytes },
  ]);
  const output = join(dir, 'packed.safetensors');
  const { status, stdout } = terabag('pack', source, '-o', output, '--format', 'int8', '--json');
  expect(status).toBe(0);
  expect((JSON.parse(stdout) as { tables: unknown[] }).tables.length).toBe(1);
  const header = await readSafetensorsHeader(output);
  expect(header.tensors.get('a')).toMatchObject({ dtype: 'U8', shape: [3000, 24] });
  expect(header.metadata['a.row_format']).toBe('int8 dim 16');
  expect([...(await readTensor(header, header.tensors.get('note')!))]).toEqual([1, 2, 3, 4, 5]);
  expect(Buffer.from(await readTensor(header, header.tensors.get('flat')!)).equals(Buffer.from(bytes))).toBe(true);
  expect(terabag('pack', source, '-o', output, '--format', 'int8')).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('is there already'),
  });
  expect(terabag('pack', output, '-o', join(dir, 'twice'), '--format', 'int4', '--tables', 'a')).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('only F32, F16 and BF16'),
  });
});

test('what cannot be packed is refused with the reason, and leaves nothing', async () => {
  const refused = async (source: string, options: Parameters<typeof packBundle>[2], code: string, message: RegExp): Promise<void> => {
    const output = join(dir, 'refused');
    await expect(packBundle(source, output, options)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
    expect(existsSync(output)).toBe(false);
  };
  await refused(model.dir, { format: 'int8', tables: ['t0', 't9'] }, 'invalid_argument', /no such table: t9; the model has t0, t1, t2/);
  await refused(model.dir, { format: 'int2' as 'int4' }, 'invalid_argument', /format has to be one of fp32, .*int4: int2/);
  await refused(model.dir, { format: 'fp32' }, 'invalid_argument', /has this row format already: t0 is fp32/);
  const packed = join(dir, 'int8-of-some');
  await packBundle(model.dir, packed, { format: 'int8', tables: ['t1'] });
  await refused(packed, { format: 'int4' }, 'invalid_argument', /packed already.*t1 is int8/);
  await expect(packBundle(model.dir, packed, { format: 'int8' })).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringContaining('has to be empty'),
  });
  expect(await verifyBundle(packed)).toEqual([]);

  const broken = await writeSmallModel(10);
  const path = join(broken.dir, 'tables/t2.safetensors');
  const values = broken.tables[2]!;
  values[150 * DIM + 3] = Number.NaN;
  const spec = await readModelSpec(broken.dir);
  const written = await writeSafetensors(path, [
    { name: 'weight', dtype: 'F32', shape: [ROWS[2]!, DIM], data: new Uint8Array(values.buffer) },
  ]);
  await writeModelJson(broken.dir, { ...spec, files: { ...spec.files, 'tables/t2.safetensors': written } });
  await refused(broken.dir, { format: 'int8' }, 'bad_table', /NaN or infinity.*tensor weight, row 150: .*t2\.safetensors/);
  await packBundle(broken.dir, join(dir, 'bf16'), { format: 'bf16' });

  const damaged = await readFile(path);
  damaged[damaged.length - 9]! ^= 4;
  await writeFile(path, damaged);
  await refused(broken.dir, { format: 'bf16' }, 'checksum_mismatch', /t2\.safetensors/);
  await rm(broken.dir, { recursive: true });
});

test('a bundle whose list of files leads out of it, or names one that is not there, is refused before anything is written', async () => {
  const { dir: source } = await writeSmallModel(11);
  const spec = await readModelSpec(source);
  const pack = async (file: string): Promise<void> => {
    await writeModelJson(source, { ...spec, files: { ...spec.files, [file]: { bytes: 6, crc32: ['00000000'] } } });
    await packBundle(source, join(dir, 'listed/packed'), { format: 'int8' });
  };
  await writeFile(join(source, '../terabag-secret.txt'), 'secret');
  await expect(pack('../terabag-secret.txt')).rejects.toMatchObject({ code: 'bad_model', details: { file: '../terabag-secret.txt' } });
  await expect(pack('notes.txt')).rejects.toMatchObject({ code: 'bad_table', message: expect.stringContaining('is missing (ENOENT)') });
  await writeFile(join(source, 'notes.txt'), 'longer than six');
  await expect(pack('notes.txt')).rejects.toMatchObject({ code: 'bad_table', details: { file: 'notes.txt' } });
  expect(existsSync(join(dir, 'listed'))).toBe(false);
  await writeFile(join(source, 'notes.txt'), 'six by');
  await expect(pack('notes.txt')).rejects.toMatchObject({ code: 'checksum_mismatch', details: { file: 'notes.txt' } });
  await rm(source, { recursive: true });
  await rm(join(source, '../terabag-secret.txt'));
});

test('a disk without room is told as such, and nothing is left', async () => {
  const source = join(dir, 'for-full-disk.safetensors');
  await writeSafetensors(source, [{ name: 'w', dtype: 'F32', shape: [2 ** 14, 64], data: new Uint8Array(2 ** 22) }]);
  // A limit on the size of files stands for a full disk: writes fail with EFBIG where they would with ENOSPC.
  const limited = `trap '' XFSZ; ulimit -f 8; exec "$0" "$@"`;
  const output = join(dir, 'full/packed');
  await mkdir(join(dir, 'full'));
  for (const from of [source, model.dir]) {
    const full = spawnSync('bash', ['-c', limited, process.execPath, main, 'pack', from, '-o', output, '--format', 'fp16'], {
      encoding: 'utf8',
    });
    expect(full).toMatchObject({ status: 1, stderr: expect.stringMatching(/no room left.*EFBIG.*packed.*\(does_not_fit\)/) });
    expect(await readdir(join(dir, 'full'))).toEqual([]);
  }
});

test('files without anything to pack, and outputs that cannot be written, are refused in words of the command', async () => {
  const refused = async (name: string, tensors: Parameters<typeof writeSafetensors>[1], output: string, message: string): Promise<void> => {
    const source = join(dir, name);
    await writeSafetensors(source, tensors);
    expect(terabag('pack', source, '-o', output, '--format', 'int8')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining(message),
    });
    expect(existsSync(output)).toBe(false);
  };
  const ofShape = (rows: number, columns: number) => [
    { name: 'w', dtype: 'F32', shape: [rows, columns], data: new Uint8Array(rows * columns * 4) },
  ];
  const output = join(dir, 'of-odd-files');
  await refused('empty.safetensors', [], output, 'file has no tensors to pack');
  await refused('no-rows.safetensors', ofShape(0, 8), output, 'w is F32 0x8');
  await refused('wide.safetensors', ofShape(1, 65_537), output, 'rows of 1 to 65536 values, can be packed: w is F32 1x65537');
  const nowhere = join(dir, 'not-there', 'rows.safetensors');
  await refused('rows.safetensors', ofShape(3, 1), nowhere, `file cannot be written (ENOENT): ${nowhere} (invalid_argument)`);
});

test('a large table is packed in few blocks at a time, and an interrupted run leaves nothing', async () => {
  const large = await mkdtemp(join(tmpdir(), 'terabag-pack-large-'));
  const [rows, dim] = [2 ** 19, 64];
  const source = join(large, 'large.safetensors');
  const piece = new Uint8Array(Float32Array.from({ length: 2 ** 20 }, (_, i) => Math.cos(i)).buffer);
  const pieces = (rows * dim * 4) / piece.length;
  await writeSafetensors(source, [{ name: 'w', dtype: 'F32', shape: [rows, dim], data: Array.from({ length: pieces }, () => piece) }]);
  const command = ['pack', source, '-o', join(large, 'packed'), '--format', 'int8'];
  const tellMemory = `data:text/javascript,process.on('exit', () => console.error(process.resourceUsage().maxRSS))`;
  const measured = spawnSync(process.execPath, ['--import', tellMemory, main, ...command], { encoding: 'utf8' });
  expect(measured.status).toBe(0);
  // 128 MiB of rows went through; Node alone takes some 60 MiB.
  expect(Number(measured.stderr.trim()) * 1024).toBeLessThan(160 * 2 ** 20);
  await rm(join(large, 'packed'));
  const child = spawn(process.execPath, [main, ...command]);
  const exit = once(child, 'exit') as Promise<[number | null]>;
  await expect.poll(async () => (await readdir(large)).some((name) => name.endsWith('.tmp')), { timeout: 30_000, interval: 1 }).toBe(true);
  child.kill('SIGINT');
  const [code] = await exit;
  // It may have ended just before the signal.
  if (code !== 0) expect(await readdir(large)).toEqual(['large.safetensors']);
  await rm(large, { recursive: true });
});

test('a row that cannot be packed is told wherever it lies, and no rejection of a block in flight is left alone', async () => {
  const large = await mkdtemp(join(tmpdir(), 'terabag-pack-nan-'));
  const [rowsOfBlock, dim, blocks] = [2 ** 14, 64, 10];
  const path = join(large, 'rows.safetensors');
  const block = new Uint8Array(new Float32Array(rowsOfBlock * dim).fill(1).buffer);
  await writeSafetensors(path, [
    { name: 'w', dtype: 'F32', shape: [rowsOfBlock * blocks, dim], data: Array.from({ length: blocks }, () => block) },
  ]);
  const start = (await readSafetensorsHeader(path)).tensors.get('w')!.byteOffset;
  const unhandled: unknown[] = [];
  const listen = (reason: unknown): void => void unhandled.push(reason);
  process.on('unhandledRejection', listen);
  const file = await open(path, 'r+');
  for (const format of ['int4', 'fp16'] as const) {
    for (let bad = 0; bad < blocks; bad++) {
      const row = bad * rowsOfBlock + 5;
      const put = (value: number) => file.write(new Uint8Array(Float32Array.of(value).buffer), 0, 4, start + row * dim * 4);
      await put(1e30);
      await expect(packFile(path, join(large, 'packed'), new Map([['w', format]]))).rejects.toMatchObject({
        code: 'bad_table',
        details: { row },
      });
      await put(1);
    }
  }
  await file.close();
  await new Promise((resolve) => setImmediate(resolve));
  process.off('unhandledRejection', listen);
  expect(unhandled).toEqual([]);
  expect(await readdir(large)).toEqual(['rows.safetensors']);
  await rm(large, { recursive: true });
});

test.each([
  // The largest float32, which rounds up to infinity in bf16.
  ['bf16', [3.4028234e38, 0], /a value is too large for it; use fp32 or int8, which can hold the row/],
  ['bf16', [3.4028234e38, -3.4028234e38], /a value is too large for it; use fp32, which can hold the row/],
  ['fp16', [7e4, 0], /a value is too large for it; use fp32 or bf16 or int8 or int8_fp16 or int4, which can hold the row/],
  ['int8', [3e38, -3e38], /a value is too large for it; use fp32 or bf16, which can hold the row/],
  ['int8', [Number.NaN, 1], /NaN or infinity, which quantized rows cannot; repair the row, or use fp32 or fp16 or bf16, which can/],
  ['int4', [Number.NaN, 7e4], /NaN or infinity, which quantized rows cannot; repair the row, or use fp32 or bf16, which can/],
] as const)('what %s cannot hold is told with the formats that can: %j', async (format, bad, message) => {
  const [source, out] = [join(dir, 'advice.safetensors'), join(dir, 'advised.safetensors')];
  const data = new Uint8Array(Float32Array.of(1, 2, ...bad).buffer);
  await writeSafetensors(source, [{ name: 'weight', dtype: 'F32', shape: [2, 2], data }]);
  const pack = (to: RowFormat) => packFile(source, out, new Map([['weight', to]]));
  const error: TerabagError = await pack(format).then(
    () => expect.fail('packed'),
    (thrown) => thrown,
  );
  expect(error).toMatchObject({ code: 'bad_table', details: { tensor: 'weight', row: 1 } });
  expect(error.message).toMatch(message);
  const advised = /use (.*), which can/.exec(error.message)?.[1]?.split(' or ') ?? [];
  for (const to of ROW_FORMATS)
    await expect(
      pack(to).then(
        () => true,
        () => false,
      ),
    ).resolves.toBe(advised.includes(to));
});

test('packing is interrupted while checksums are checked, too, and leaves nothing', async () => {
  const interrupt = new AbortController();
  const output = join(dir, 'interrupted');
  let seen = 0;
  const packing = packBundle(model.dir, output, {
    format: 'int8',
    signal: interrupt.signal,
    onProgress: (bytes) => {
      seen = bytes;
      interrupt.abort();
    },
  });
  await expect(packing).rejects.toMatchObject({ code: 'aborted' });
  const sizes = Object.values((await readModelSpec(model.dir)).files).map(({ bytes }) => bytes);
  expect(seen).toBeLessThan(sizes.reduce((sum, bytes) => sum + bytes, 0));
  expect(existsSync(output)).toBe(false);
});
