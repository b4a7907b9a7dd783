import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openLocal, type PredictRequest, packBundle } from '../../src/index.js';
import { AccuracyMeter } from '../../src/lab/evaluate/accuracy.js';
import { scoreRequests } from '../../src/lab/evaluate/evaluate-requests.js';
import { writeRequests } from '../../src/lab/requests/request-file.js';
import { readModelSpec, verifyBundle, writeModelJson } from '../../src/model/bundle.js';
import { type RowFormat, rowBytes } from '../../src/model/formats.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';
import { DIM, ROWS, random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let model: SmallModel;
let dir: string;
const terabag = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8' });

beforeAll(async () => {
  model = await writeSmallModel(61);
  dir = await mkdtemp(join(tmpdir(), 'terabag-auto-'));
  const next = random(9);
  const requests = Array.from({ length: 60 }, (): PredictRequest => smallRequest(next, 4));
  await writeRequests(join(dir, 'requests.safetensors'), requests);
  const predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
  const lines: string[] = [];
  for (const request of requests) {
    const { scores } = await predictor.predict(request);
    lines.push(JSON.stringify(Array.from(scores, (score) => (next() < score ? 1 : 0))));
  }
  await predictor.close();
  await writeFile(join(dir, 'labels.jsonl'), `${lines.join('\n')}\n`);
});
afterAll(() => Promise.all([model.dir, dir].map((path) => rm(path, { recursive: true }))));

/** Measured from the outside, on a bundle. */
async function neOf(bundle: string): Promise<number> {
  const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
  const files = { requests: join(dir, 'requests.safetensors'), labels: join(dir, 'labels.jsonl') };
  const items = await scoreRequests(predictor, { ...files, deadlineMs: 10_000, concurrency: 4 }).finally(() => predictor.close());
  return new AccuracyMeter(items).accuracy().ne;
}

interface Auto {
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly auto: {
    readonly formats: Record<string, RowFormat>;
    readonly choices: readonly {
      readonly tables: string[];
      readonly format: RowFormat;
      readonly bytes: number;
      readonly loss: number | null;
      readonly chosen: boolean;
    }[];
    readonly neBefore: number;
    readonly neAfter: number;
    readonly loss: number;
    readonly lossInterval: { readonly low: number; readonly high: number };
  };
}

function pack(output: string, keep: string, ...more: string[]): Auto {
  const files = ['--requests', 'requests.safetensors', '--labels', 'labels.jsonl'];
  const { status, stdout, stderr } = terabag(
    'pack',
    model.dir,
    '-o',
    output,
    '--format',
    'auto',
    '--keep',
    keep,
    ...files,
    '--json',
    ...more,
  );
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout) as Auto;
}

test('every choice costs what the bundle that is packed so costs', async () => {
  const { auto } = pack('measured', 'ne=100%');
  const before = await neOf(model.dir);
  expect(auto.neBefore).toBeCloseTo(before, 12);
  expect(auto.choices.map(({ tables, format }) => `${tables} ${format}`)).toEqual(
    ['t0', 't1', 't2'].flatMap((table) => ['fp32', 'fp16', 'int8', 'int8_fp16', 'int4'].map((format) => `${table} ${format}`)),
  );
  for (const { tables, format, loss, bytes } of auto.choices) {
    const table = Number(tables[0]?.slice(1));
    expect(bytes).toBe((ROWS[table] as number) * rowBytes(format, DIM));
    if (format === 'fp32') {
      expect(loss).toBe(0);
      continue;
    }
    const packed = join(dir, `${tables}-${format}`);
    await packBundle(model.dir, packed, { format, tables });
    expect(loss).toBeCloseTo((await neOf(packed)) / before - 1, 9);
  }
});

test('the bundle has the least bytes that the bound allows, and is within it', async () => {
  const before = await neOf(model.dir);
  let last = Number.POSITIVE_INFINITY;
  const formats = new Set<string>();
  for (const [at, keep] of ['ne=0.0001%', 'ne=0.02%', 'ne=0.5%', 'ne=50%'].entries()) {
    const { auto, bytesBefore, bytesAfter } = pack(`auto-${at}`, keep);
    const bound = Number(keep.slice(3, -1)) / 100;
    const spec = await readModelSpec(join(dir, `auto-${at}`));
    expect(await verifyBundle(join(dir, `auto-${at}`))).toEqual([]);
    for (const { name, format } of spec.tables) expect(format).toBe(auto.formats[name] ?? 'fp32');
    expect(bytesBefore).toBe(ROWS.reduce((sum, rows) => sum + rows * DIM * 4, 0));
    expect(bytesAfter).toBe(spec.tables.reduce((sum, { rows, dim, format }) => sum + rows * rowBytes(format, dim), 0));
    const after = await neOf(join(dir, `auto-${at}`));
    expect(after / before - 1).toBeLessThanOrEqual(bound);
    expect(auto.loss).toBeCloseTo(after / before - 1, 9);
    expect(auto.neAfter).toBeCloseTo(after, 9);
    expect(auto.lossInterval.low).toBeLessThanOrEqual(auto.lossInterval.high);
    expect(bytesAfter).toBeLessThanOrEqual(last);
    last = bytesAfter;
    formats.add(Object.values(auto.formats).join());
  }
  // int4 throughout in the end, and something else before.
  expect(last).toBe(ROWS.reduce((sum, rows) => sum + rows * rowBytes('int4', DIM), 0));
  expect(formats.size).toBeGreaterThan(1);
  expect((await readdir(dir)).filter((name) => name.startsWith('.'))).toEqual([]);
});

test('tables and formats that are not named stay out of it', async () => {
  const { auto } = pack('some', 'ne=50%', '--tables', 't2', '--formats', 'fp16,int8');
  expect(auto.formats).toEqual({ t2: 'int8' });
  expect(auto.choices.map(({ tables, format }) => `${tables} ${format}`)).toEqual(['t2 fp32', 't2 fp16', 't2 int8']);
  expect((await readModelSpec(join(dir, 'some'))).tables.map(({ format }) => format)).toEqual(['fp32', 'fp32', 'int8']);
});

test('people get what each choice costs', () => {
  const files = ['--requests', 'requests.safetensors', '--labels', 'labels.jsonl'];
  const { status, stdout } = terabag('pack', model.dir, '-o', 'table', '--format', 'auto', '--keep', 'ne=0.02%', ...files);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^table +format +size, KiB +NE +chosen\n/);
  expect(stdout).toMatch(/t2 +int4 +1\.953 +[+-][\d.e-]+ %/);
  expect(stdout).toMatch(/normalized entropy: [\d.]+ before, [\d.]+ after, [+-][\d.e-]+ % \(95 % from /);
  expect(stdout).toMatch(/times smaller\n$/);
});

test.each([
  [['--format', 'auto'], 2, /needs --keep, --requests and, of ne, --labels/],
  [['--format', 'int8', '--keep', 'ne=1%'], 2, /--keep is of --format auto/],
  [['--format', 'auto', '--keep', '1%'], 2, /has to be ne= or kl= and a share/],
  [['--format', 'auto', '--keep', 'ne=1%', '--requests', '-', '--labels', 'l'], 2, /stdin is read once/],
  [['--format', 'auto', '--keep', 'ne=1%', '--formats', 'int3'], 2, /They are of/],
  [['--format', 'auto', '--keep', 'kl=1%', '--requests', 'requests.safetensors', '--labels', 'labels.jsonl'], 2, /kl= takes no --labels/],
  [['--format', 'int8', '--prune', 'requests.safetensors'], 2, /--prune is of --format auto/],
  [['--format', 'auto', '--keep', 'kl=1%', '--requests', 'requests.safetensors', '--prune-below', '2'], 2, /--prune-below is of --prune/],
  [['--format', 'auto', '--keep', 'kl=1%', '--requests', 'r', '--prune', 'p', '--prune-below', '256'], 2, /counted up to 255/],
  [
    ['--format', 'auto', '--keep', 'kl=1%', '--requests', 'requests.safetensors', '--prune', './requests.safetensors'],
    2,
    /--requests and --prune have to be different files/,
  ],
  [
    ['--format', 'auto', '--keep', 'ne=1%', '--requests', 'requests.safetensors', '--labels', 'labels.jsonl', '--tables', 't9'],
    1,
    /no such table: t9/,
  ],
  [['--format', 'auto', '--keep', 'ne=1%', '--requests', 'requests.safetensors', '--labels', 'requests.safetensors'], 1, /line 1/],
])('pack %j is refused, and leaves nothing', async (args, status, message) => {
  const refused = terabag('pack', model.dir, '-o', 'refused', ...args);
  expect(refused.status).toBe(status);
  expect(refused.stderr).toMatch(message);
  expect((await readdir(dir)).filter((name) => name.startsWith('.') || name === 'refused')).toEqual([]);
});

test('a format that overflows is told as none for the table, and is not chosen', async () => {
  const large = join(dir, 'large');
  await packBundle(model.dir, large, { format: new Map() });
  const spec = await readModelSpec(large);
  const values = new Float32Array(model.tables[2] as Float32Array);
  // Beyond fp16, and so beyond the scale of int8_fp16 and int4.
  values[5 * DIM] = 1e8;
  const file = 'tables/t2.safetensors';
  await rm(join(large, file));
  const tensor = { name: 'weight', dtype: 'F32', shape: [ROWS[2] as number, DIM], data: new Uint8Array(values.buffer) };
  const written = await writeSafetensors(join(large, file), [tensor]);
  await writeModelJson(large, { ...spec, files: { ...spec.files, [file]: written } });
  const files = ['--requests', 'requests.safetensors', '--labels', 'labels.jsonl'];
  const args = ['pack', large, '-o', 'held', '--format', 'auto', '--keep', 'ne=100%', ...files];
  const { auto } = JSON.parse(terabag(...args, '--json').stdout) as Auto;
  const lost = new Map(auto.choices.filter(({ tables }) => tables[0] === 't2').map(({ format, loss }) => [format, loss]));
  for (const format of ['fp16', 'int8_fp16', 'int4'] as const) expect(lost.get(format)).toBe(null);
  expect(lost.get('int8')).toEqual(expect.any(Number));
  expect(['int8', undefined]).toContain(auto.formats['t2']);
  expect(terabag(...args.map((arg) => (arg === 'held' ? 'shown' : arg))).stdout).toMatch(/t2 +fp16 +[\d.]+ +cannot hold/);
  const alone = terabag('pack', large, '-o', 'overflows', '--format', 'fp16');
  expect(alone.stderr).toMatch(/table cannot be packed as fp16: a value is too large for it; use fp32 or bf16 or int8.*row 5/);
  expect(alone.status).toBe(1);
});

test('without labels, how far the scores move is bounded', async () => {
  const scoresOf = async (bundle: string): Promise<number[]> => {
    const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
    const files = { requests: join(dir, 'requests.safetensors'), labels: null };
    return [...(await scoreRequests(predictor, { ...files, deadlineMs: 10_000, concurrency: 4 }).finally(() => predictor.close())).scores];
  };
  const args = ['--format', 'auto', '--keep', 'kl=0.01%', '--requests', 'requests.safetensors', '--json'];
  const { auto } = JSON.parse(terabag('pack', model.dir, '-o', 'kl', ...args).stdout) as Auto;
  const [before, after] = [await scoresOf(model.dir), await scoresOf(join(dir, 'kl'))];
  let [divergence, entropy] = [0, 0];
  for (const [at, p] of before.entries()) {
    const q = after[at] as number;
    divergence += p * Math.log(p / q) + (1 - p) * Math.log((1 - p) / (1 - q));
    entropy -= p * Math.log(p) + (1 - p) * Math.log(1 - p);
  }
  expect(auto.loss).toBeCloseTo(divergence / entropy, 9);
  expect(auto.loss).toBeGreaterThan(0);
  expect(auto.loss).toBeLessThanOrEqual(1e-4);
  expect(Object.keys(auto.formats).length).toBeGreaterThan(0);
});

test('a table that is packed keeps its format, and the others get theirs', async () => {
  const packed = join(dir, 'half');
  await packBundle(model.dir, packed, { format: 'int4', tables: ['t1'] });
  const files = ['--requests', 'requests.safetensors', '--labels', 'labels.jsonl'];
  const { stdout } = terabag('pack', packed, '-o', 'rest', '--format', 'auto', '--keep', 'ne=50%', ...files, '--json');
  // What is packed stays as it is.
  expect((JSON.parse(stdout) as Auto).auto.formats).toEqual({ t0: 'int4', t2: 'int4' });
  expect((await readModelSpec(join(dir, 'rest'))).tables.map(({ format }) => format)).toEqual(['int4', 'int4', 'int4']);
});
