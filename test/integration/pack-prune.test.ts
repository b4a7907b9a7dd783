import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KeptRows, openLocal, type PredictRequest, type Pruning, packBundle } from '../../src/index.js';
import { AccuracyMeter } from '../../src/lab/evaluate/accuracy.js';
import { scoreRequests } from '../../src/lab/evaluate/evaluate-requests.js';
import { writeRequests } from '../../src/lab/requests/request-file.js';
import { openBundle, readModelSpec, verifyBundle, writeModelJson } from '../../src/model/bundle.js';
import { type RowFormat, rowBytes } from '../../src/model/formats.js';
import type { UnseenSpec } from '../../src/model/unseen.js';
import { DIM, ROWS, random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
/** Of t0, t1 and t2. */
const BAGS = ['sum', 'mean', 'weighted'];
let model: SmallModel;
let dir: string;
let counting: PredictRequest[];
const terabag = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8' });

/** Low ids are read more often, as the product of two random numbers is. */
function skewed(next: () => number, request: PredictRequest): PredictRequest {
  const sparse = Object.entries(request.sparse).map(([bag, input]) => {
    const rows = ROWS[BAGS.indexOf(bag)] as number;
    return [bag, { ...input, indices: Array.from(input.indices, () => Math.floor(next() * next() * rows)) }];
  });
  return { ...request, sparse: Object.fromEntries(sparse) };
}

beforeAll(async () => {
  model = await writeSmallModel(62);
  dir = await mkdtemp(join(tmpdir(), 'terabag-pack-prune-'));
  const next = random(10);
  const some = (count: number): PredictRequest[] => Array.from({ length: count }, () => skewed(next, smallRequest(next, 4)));
  counting = some(40);
  const scored = some(60);
  await writeRequests(join(dir, 'counting.jsonl'), counting);
  await writeRequests(join(dir, 'requests.safetensors'), scored);
  const predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
  const lines: string[] = [];
  for (const request of scored) {
    const { scores } = await predictor.predict(request);
    lines.push(JSON.stringify(Array.from(scores, (score) => (next() < score ? 1 : 0))));
  }
  await predictor.close();
  await writeFile(join(dir, 'labels.jsonl'), `${lines.join('\n')}\n`);
});
afterAll(() => Promise.all([model.dir, dir].map((path) => rm(path, { recursive: true }))));

/** How often the counting requests read each row of a table. */
function readsOf(table: number): number[] {
  const reads = new Array<number>(ROWS[table] as number).fill(0);
  for (const { sparse } of counting)
    for (const id of Array.from(sparse[BAGS[table] as string]?.indices ?? [], Number)) reads[id] = (reads[id] as number) + 1;
  return reads;
}

async function neOf(bundle: string): Promise<number> {
  const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
  const files = { requests: join(dir, 'requests.safetensors'), labels: join(dir, 'labels.jsonl') };
  const items = await scoreRequests(predictor, { ...files, deadlineMs: 10_000, concurrency: 4 }).finally(() => predictor.close());
  return new AccuracyMeter(items).accuracy().ne;
}

interface MeasuredChoice {
  readonly tables: readonly string[];
  readonly format: RowFormat;
  readonly rows: number;
  readonly atLeast: number | null;
  readonly unseen: string | null;
  readonly bytes: number;
  readonly loss: number;
  readonly chosen: boolean;
}

interface Auto {
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly auto: {
    readonly formats: Record<string, RowFormat>;
    readonly prunings: Record<string, { readonly rows: number; readonly atLeast: number; readonly unseen: UnseenSpec | null }>;
    readonly choices: readonly MeasuredChoice[];
    readonly loss: number;
  };
}

const FILES = ['--requests', 'requests.safetensors', '--labels', 'labels.jsonl'];

function pack(source: string, output: string, keep: string, ...more: string[]): Auto {
  const args = ['pack', source, '-o', output, '--format', 'auto', '--keep', keep, ...FILES, '--prune', 'counting.jsonl', '--json', ...more];
  const { status, stdout, stderr } = terabag(...args);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout) as Auto;
}

/** The mean of the rows that are left out, each as often as it was read, or all alike when none was. */
function meanOfDropped(table: number, atLeast: number): number[] {
  const reads = readsOf(table);
  const dropped = [...reads.keys()].filter((row) => (reads[row] as number) < atLeast);
  const unread = dropped.every((row) => reads[row] === 0);
  const weights = dropped.map((row) => (unread ? 1 : (reads[row] as number)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return Array.from({ length: DIM }, (_, d) =>
    Math.fround(
      dropped.reduce((sum, row, at) => sum + (weights[at] as number) * (model.tables[table]?.[row * DIM + d] as number), 0) / total,
    ),
  );
}

test('every pruning costs what the bundle that is pruned so costs', async () => {
  const { auto } = pack(model.dir, 'measured', 'ne=100%', '--prune-below', '1,2,4');
  const before = await neOf(model.dir);
  const measured = auto.choices.filter(({ atLeast }) => atLeast !== null);
  // An index takes more than is saved in t0 and t1.
  expect(new Set(measured.map(({ tables, unseen }) => `${tables} ${unseen}`))).toEqual(new Set(['t2 zero', 't2 default']));
  expect(measured.filter(({ tables }) => tables[0] === 't2').length).toBe(6);
  for (const [at, { tables, rows, atLeast, unseen, loss, bytes, format }] of measured.entries()) {
    const [name = ''] = tables;
    const table = Number(name.slice(1));
    const reads = readsOf(table);
    const least = atLeast as number;
    expect(rows).toBe(reads.filter((count) => count >= least).length);
    expect(format).toBe('fp32');
    const policy: UnseenSpec = unseen === 'zero' ? { policy: 'zero' } : { policy: 'default', vector: meanOfDropped(table, least) };
    const prune = new Map<string, Pruning>([[name, { kept: new KeptRows(Uint8Array.from(reads), least), unseen: policy }]]);
    const pruned = join(dir, `pruned-${at}`);
    const [packed] = await packBundle(model.dir, pruned, { format: new Map(), prune });
    expect(bytes).toBe(rows * DIM * 4 + (packed?.keyBytes as number));
    expect(loss).toBeCloseTo((await neOf(pruned)) / before - 1, 9);
  }
});

test('skipping is another choice for means', async () => {
  const means = join(dir, 'means');
  await packBundle(model.dir, means, { format: new Map() });
  const spec = await readModelSpec(means);
  const nets = spec.nets.map(({ layers, ...net }) => ({
    ...net,
    layers: layers.map((layer) =>
      layer.type === 'embedding_bag' && layer.name === 'weighted' ? { ...layer, pooling: 'mean' as const } : layer,
    ),
  }));
  await writeModelJson(means, { ...spec, nets });
  const { auto } = pack(means, 'of-means', 'ne=100%', '--prune-below', '2', '--tables', 't2', '--formats', 'int8');
  expect(auto.choices.map(({ unseen }) => unseen)).toEqual([null, null, 'zero', 'skip', 'default']);
});

test('the bundle has the least bytes that formats and prunings allow, and is within the bound', async () => {
  const before = await neOf(model.dir);
  let last = Number.POSITIVE_INFINITY;
  for (const [at, keep] of ['ne=0.0001%', 'ne=0.1%', 'ne=2%', 'ne=100%'].entries()) {
    const { auto, bytesBefore, bytesAfter } = pack(model.dir, `auto-${at}`, keep);
    const path = join(dir, `auto-${at}`);
    const { spec, tables } = await openBundle(path);
    expect(await verifyBundle(path)).toEqual([]);
    for (const { name, format, rows, unseen, keys } of spec.tables) {
      expect(format).toBe(auto.formats[name] ?? 'fp32');
      const pruned = auto.prunings[name];
      expect(keys === undefined).toBe(pruned === undefined);
      if (pruned !== undefined) expect([rows, unseen]).toEqual([pruned.rows, pruned.unseen]);
    }
    expect(bytesBefore).toBe(ROWS.reduce((sum, rows) => sum + rows * DIM * 4, 0));
    expect(bytesAfter).toBe(tables.reduce((sum, table) => sum + (table?.bytes ?? 0) + (table?.index?.bytes ?? 0), 0));
    const after = await neOf(path);
    expect(after / before - 1).toBeLessThanOrEqual(Number(keep.slice(3, -1)) / 100);
    expect(auto.loss).toBeCloseTo(after / before - 1, 9);
    expect(bytesAfter).toBeLessThanOrEqual(last);
    last = bytesAfter;
  }
  expect(last).toBeLessThan(ROWS.reduce((sum, rows) => sum + rows * rowBytes('int4', DIM), 0));
  expect((await readdir(dir)).filter((name) => name.startsWith('.'))).toEqual([]);
});

test('a table that says what becomes of unseen ids keeps to it, and one whose layer refuses them is not pruned', async () => {
  const said = join(dir, 'said');
  await packBundle(model.dir, said, { format: new Map() });
  const spec = await readModelSpec(said);
  const tables = spec.tables.map((table) => (table.name === 't2' ? { ...table, unseen: { policy: 'default' as const, row: 199 } } : table));
  const nets = spec.nets.map(({ layers, ...net }) => ({
    ...net,
    layers: layers.map((layer) =>
      layer.type === 'embedding_bag' && layer.name === 'sum' ? { ...layer, unseen: { policy: 'reject' as const } } : layer,
    ),
  }));
  await writeModelJson(said, { ...spec, tables, nets });
  const { auto } = pack(said, 'as-said', 'ne=100%', '--prune-below', '3');
  expect(auto.choices.filter(({ atLeast }) => atLeast !== null).map(({ tables, unseen }) => [tables, unseen])).toEqual([
    [['t2'], 'default'],
  ]);
  const t2 = (await readModelSpec(join(dir, 'as-said'))).tables[2];
  // Row 199 is hardly ever read, and the last of those that are kept.
  expect(readsOf(2)[199]).toBeLessThan(3);
  expect(t2?.unseen).toEqual({ policy: 'default', row: (t2?.rows ?? 0) - 1 });
  expect(t2?.rows).toBe(readsOf(2).filter((count, row) => count >= 3 || row === 199).length);
});

test('a pruned bundle is pruned again, by its keys', async () => {
  pack(model.dir, 'once', 'ne=100%', '--prune-below', '1', '--formats', 'fp16', '--tables', 't2');
  const { auto, bytesBefore, bytesAfter } = pack(
    join(dir, 'once'),
    'twice',
    'ne=100%',
    '--prune-below',
    '3',
    '--formats',
    'fp16',
    '--tables',
    't2',
  );
  expect(auto.prunings['t2']?.rows).toBe(readsOf(2).filter((count) => count >= 3).length);
  const [before, after] = await Promise.all(['once', 'twice'].map((name) => openBundle(join(dir, name))));
  const total = (bundle: typeof before): number =>
    (bundle?.tables ?? []).reduce((sum, table) => sum + (table?.bytes ?? 0) + (table?.index?.bytes ?? 0), 0);
  expect([bytesBefore, bytesAfter]).toEqual([total(before), total(after)]);
});

test('people get what each pruning costs', () => {
  const args = ['pack', model.dir, '-o', 'table', '--format', 'auto', '--keep', 'ne=5%', ...FILES, '--prune', 'counting.jsonl'];
  const { status, stdout } = terabag(...args, '--tables', 't2', '--formats', 'int8', '--prune-below', '2');
  expect(status).toBe(0);
  expect(stdout).toMatch(/^table +format +rows +reads +unseen +size, KiB +NE +chosen\n/);
  expect(stdout).toMatch(/t2 +fp32 +\d+ +2 +zero +[\d.]+ +[+-][\d.e-]+ %/);
  expect(stdout).toMatch(/keys, KiB: +1\.0/);
});

test('what cannot be counted is told with its place, and leaves nothing', async () => {
  await writeFile(
    join(dir, 'bad.jsonl'),
    `${JSON.stringify({ ...counting[0], sparse: { ...counting[0]?.sparse, sum: { indices: [50], offsets: [0, 1] } } }, (_, value) => (ArrayBuffer.isView(value) ? Array.from(value as Float32Array) : value))}\n`,
  );
  await writeFile(join(dir, 'empty.jsonl'), '');
  for (const [file, message] of [
    ['bad.jsonl', /line 1: index out of range for table: t0, bag 0, position 0, index 50/],
    ['empty.jsonl', /no requests to count reads of/],
  ] as const) {
    const { status, stderr } = terabag(
      'pack',
      model.dir,
      '-o',
      'refused',
      '--format',
      'auto',
      '--keep',
      'ne=1%',
      ...FILES,
      '--prune',
      file,
    );
    expect(status).toBe(1);
    expect(stderr).toMatch(message);
  }
  expect((await readdir(dir)).filter((name) => name.startsWith('.') || name === 'refused')).toEqual([]);
});

test('two bundles are compared on the same requests', async () => {
  const packed = join(dir, 'compared');
  await packBundle(model.dir, packed, { format: 'int4' });
  const { stdout, status } = terabag(
    'evaluate',
    'requests.safetensors',
    '--labels',
    'labels.jsonl',
    '--bundle',
    packed,
    '--against',
    model.dir,
    '--json',
  );
  expect(status).toBe(0);
  const { against, accuracy } = JSON.parse(stdout) as {
    against: { bundle: string; neRise: { value: number; low: number; high: number } };
    accuracy: { ne: { value: number; low: number; high: number } };
  };
  const rise = (await neOf(packed)) / (await neOf(model.dir)) - 1;
  expect(against.neRise.value).toBeCloseTo(rise, 9);
  expect(against.neRise.low).toBeLessThan(rise);
  expect(against.neRise.high).toBeGreaterThan(rise);
  // Far narrower than the interval of either.
  expect(against.neRise.high - against.neRise.low).toBeLessThan((accuracy.ne.high - accuracy.ne.low) / 4);
  expect(terabag('evaluate', '-', '--labels', 'labels.jsonl', '--bundle', packed, '--against', model.dir)).toMatchObject({
    status: 2,
    stderr: expect.stringMatching(/stdin is read once/),
  });
});
