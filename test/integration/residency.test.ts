import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, open, readFile, rm, statfs, truncate } from 'node:fs/promises';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { holdsHugePages, RESIDENCIES } from '../../src/engine/residency.js';
import { type EngineTable, SparseEngine } from '../../src/engine/sparse-engine.js';
import { connect, launchCluster, openLocal } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { capacityPlan } from '../reference/plans.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const onLinux = process.platform === 'linux';
let model: SmallModel;
beforeAll(async () => {
  model = await writeSmallModel(5);
});
afterAll(() => rm(model.dir, { recursive: true }));

const DIM = 64;
const ROW_BYTES = DIM * 4;
/** A file of nothing but the rows of one table, row r filled with r. Written in pieces of the given size. */
async function writeRows(path: string, rows: number, pieceBytes: number): Promise<void> {
  const file = await open(path, 'w');
  const rowsOfPiece = pieceBytes / ROW_BYTES;
  for (let row = 0; row < rows; row += rowsOfPiece) {
    const piece = Float32Array.from({ length: Math.min(rowsOfPiece, rows - row) * DIM }, (_, i) => row + Math.floor(i / DIM));
    await file.write(new Uint8Array(piece.buffer));
  }
  await file.sync();
  await file.close();
}
const tableOf = (path: string, rows: number, part = 0, parts = 1): EngineTable => ({
  name: 'rows',
  table: 0,
  part,
  parts,
  path,
  byteOffset: 0,
  rows: Math.ceil((rows - part) / parts),
  dim: DIM,
  format: 'fp32',
  firstRow: part,
  rowStep: parts,
});
const bytesOf = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
/** Value of a row, as the engine pools it. */
async function rowOf(engine: SparseEngine, row: number, part = 0, parts = 1): Promise<number> {
  const out = new Float32Array(DIM);
  const batch = { segments: bytesOf(Uint32Array.of(0, part, parts, 1, 0)), indexBytes: 4 as const, indices: bytesOf(Int32Array.of(row)) };
  await engine.pool({ ...batch, offsets: bytesOf(Uint32Array.of(0, 1)), weights: null }, out);
  return out[DIM - 1] as number;
}

test.each(RESIDENCIES)('%s gives the same bits, local and on shards, whole tables and parts', async (residency) => {
  const spec = await readModelSpec(model.dir);
  const plan = capacityPlan(spec, 2);
  const names = plan.shards.map(({ name }) => name);
  const split = { ...plan, tables: plan.tables.map(({ table }, t) => ({ table, parts: t === 0 ? names.slice(0, 1) : names })) };
  const mapped = await openLocal(model.dir, { deadlineMs: 10_000, residency: 'map' });
  const local = await openLocal(model.dir, { deadlineMs: 10_000, residency });
  const clusters = await Promise.all(
    [plan, split].map((placed) => launchCluster(placed, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error', residency })),
  );
  const [sharded, parts] = await Promise.all([
    connect(clusters[0]!.plan, { deadlineMs: 10_000, bundle: model.dir }),
    connect(clusters[1]!.plan, { deadlineMs: 10_000, bundle: model.dir }),
  ]);
  const next = random(3);
  for (let n = 0; n < 20; n++) {
    const request = smallRequest(next, 1 + (n % 5));
    const { scores } = await mapped.predict(request);
    expect((await local.predict(request)).scores).toEqual(scores);
    expect((await sharded.predict(request)).scores).toEqual(scores);
    (await parts.predict(request)).scores.forEach((score, item) => expect(score).toBeCloseTo(scores[item]!, 5));
  }
  if (onLinux) {
    const { tableBytes, residentBytes, lockedBytes } = local.stats();
    expect(tableBytes).toBe(spec.tables.reduce((sum, { rows, dim }) => sum + rows * dim * 4, 0));
    expect(residentBytes).toBe(tableBytes);
    expect(lockedBytes).toBe(residency === 'lock' ? tableBytes : 0);
    for (const { stats } of await sharded.shardStats()) expect(stats!.residentBytes).toBe(stats!.tableBytes);
  }
  await Promise.all([mapped, local, sharded, parts].map((predictor) => predictor.close()));
  await Promise.all(clusters.map((cluster) => cluster.stop()));
});

test.runIf(onLinux)('tables too large to lock or to copy are refused with the sizes, before memory is taken', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-residency-'));
  const path = join(dir, 'rows.bin');
  const rows = 2 ** 30;
  await (await open(path, 'w')).close();
  await truncate(path, rows * ROW_BYTES);
  for (const residency of ['lock', 'hugepages'] as const) {
    const before = process.memoryUsage.rss();
    await expect(SparseEngine.open([tableOf(path, rows)], { residency })).rejects.toMatchObject({
      code: 'does_not_fit',
      message: expect.stringMatching(/needed 274877906944 bytes, (available|may be locked) \d+ bytes/),
    });
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 * 2 ** 20);
  }
  // A part of a split table needs its own rows only; a 2^20th of this one fits.
  const part = await SparseEngine.open([tableOf(path, rows, 7, 2 ** 20)], { residency: 'hugepages' });
  expect(await rowOf(part, 9, 7, 2 ** 20)).toBe(0);
  part.close();
  await rm(dir, { recursive: true });
});

test('a residency that there is not is refused by name', async () => {
  await expect(openLocal(model.dir, { residency: 'swap' as 'map' })).rejects.toMatchObject({
    code: 'invalid_argument',
    message: 'residency has to be one of map, populate, lock, hugepages: swap',
  });
});

test.runIf(onLinux)('nothing stays mapped after close, whether opening ended well or not', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-residency-'));
  const path = join(dir, 'rows.bin');
  await writeRows(path, 40_000, 2 ** 20);
  const mapped = async (): Promise<boolean> => (await readFile('/proc/self/maps', 'utf8')).includes(path);
  for (const residency of RESIDENCIES) {
    const engine = await SparseEngine.open([tableOf(path, 40_000)], { residency });
    expect(await rowOf(engine, 39_999)).toBe(39_999);
    expect(await mapped()).toBe(residency !== 'hugepages');
    const report = await engine.measureResidency();
    expect(report?.residentBytes).toBeLessThanOrEqual(report?.bytes ?? 0);
    if (residency !== 'map') expect(report?.residentBytes).toBe(report?.bytes);
    engine.close();
    await expect.poll(mapped).toBe(false);
  }
  // Shortened between opening and filling: a typed error where a plain read would end the process.
  for (const residency of ['populate', 'lock', 'hugepages'] as const) {
    await writeRows(path, 40_000, 2 ** 20);
    const engine = new SparseEngine([tableOf(path, 40_000)], residency);
    await truncate(path, 4096);
    await expect(engine.fill()).rejects.toMatchObject({ code: 'bad_table', message: expect.stringContaining(path) });
    engine.close();
    await expect.poll(mapped).toBe(false);
  }
  await rm(dir, { recursive: true });
});

test('a file that lies on small pages is found, and read onto huge pages by terabag warm', async (context) => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-residency-'));
  try {
    context.skip(!onLinux || !holdsHugePages((await statfs(dir)).type, release()), 'this filesystem does not hold files on huge pages');
    await mkdir(join(dir, 'tables'));
    const path = join(dir, 'tables/rows.bin');
    const rows = 2 ** 17;
    await writeRows(path, rows, 2 ** 16);
    const cold = new SparseEngine([tableOf(path, rows)], 'map');
    const before = await cold.measureResidency({ mapCached: true });
    expect(before?.residentBytes).toBe(before?.bytes);
    expect(before?.hugePageBytes).toBeLessThan(0.5 * rows * ROW_BYTES);
    await cold.dropCached([path]);
    cold.close();
    const engine = await SparseEngine.open([tableOf(path, rows)]);
    const after = await engine.measureResidency();
    expect(after?.hugePageBytes).toBeGreaterThanOrEqual(0.95 * rows * ROW_BYTES);
    expect(await rowOf(engine, rows - 1)).toBe(rows - 1);
    engine.close();
  } finally {
    await rm(dir, { recursive: true });
  }
});

test('inspect --residency and warm say how much of a bundle is in memory, and on huge pages', () => {
  const run = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' });
  const warm = run('warm', model.dir);
  const inspected = run('inspect', model.dir, '--residency', '--json');
  if (!onLinux) {
    expect(warm.status).toBe(1);
    expect(warm.stderr).toContain(process.platform);
    return;
  }
  expect(warm.stderr).toBe('');
  expect(warm.stdout).toContain('t0.safetensors');
  const report = JSON.parse(inspected.stdout) as { bytes: number; residentBytes: number; files: { path: string; known: boolean }[] };
  expect(report.files.map(({ known }) => known)).toEqual([true, true, true]);
  expect(report.residentBytes).toBe(report.bytes);
  // One unit a column, which its head names.
  const table = run('inspect', model.dir, '--residency').stdout;
  expect(table).toContain('in memory, %');
  expect(table.match(/^tables\/t\d.safetensors +[\d.]+ +100 /gm)).toHaveLength(3);
});
