import { open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type NativeKeyIndex, native } from '../src/engine/native.js';
import { reportResidency } from '../src/engine/residency.js';
import { SeededNumbers } from '../src/lab/generate/synthetic-values.js';
import { type RowFormat, rowBytes } from '../src/model/formats.js';
import { type IdRule, REJECT } from '../src/model/id-rules.js';
import { bytesOf } from '../src/predictor/scratch.js';
import { BlockWriter } from '../src/tables/block-writer.js';
import { binary, fbgemmEnvironment, python, startPeer } from './peers/process.js';
import { type Absent, type Contender, type Line, measure, nanosecondsPerCall, type Peer, type Suite, type SuiteOptions } from './suite.js';

export interface PoolCase {
  readonly name: string;
  readonly format: RowFormat;
  readonly dim: number;
  readonly tables: number;
  readonly rows: number;
  readonly bagsPerTable: number;
  /** Ids of a bag: 0 to twice as many; 1 is exactly one. */
  readonly poolingFactor: number;
  /** Exponent of the Zipf distribution over shuffled rows; 0 is uniform. */
  readonly skew: number;
}

export const one = (format: RowFormat, dim: number, skew = 0): PoolCase => {
  const name = `${format}-d${dim}-${skew === 0 ? 'uniform' : 'zipf'}`;
  return { name, format, dim, tables: 1, rows: 10_000_000, bagsPerTable: 4096, poolingFactor: 32, skew };
};
export const many = (batch: number): PoolCase => ({
  name: `tables26-p1-b${batch}`,
  format: 'fp32',
  dim: 64,
  tables: 26,
  rows: 400_000,
  bagsPerTable: batch,
  poolingFactor: 1,
  skew: 0,
});
const ZIPF = 1.05;
const CASES: readonly PoolCase[] = [
  one('fp32', 16),
  one('fp32', 32),
  one('fp32', 64),
  one('fp32', 64, ZIPF),
  one('fp32', 128),
  one('fp16', 64),
  one('fp16', 64, ZIPF),
  one('bf16', 64),
  one('int8', 64),
  one('int8', 64, ZIPF),
  one('int8', 128),
  one('int8_fp16', 64),
  one('int4', 64),
  one('int4', 128),
  many(1),
  many(8),
  many(128),
];

/** Where ids that their tables do not have are let pass, too; there are none. */
const UNSEEN_CASES: ReadonlySet<string> = new Set(['fp32-d64-uniform', 'int8-d64-uniform', 'tables26-p1-b8']);

/** Most bytes of a table file; larger ones have fewer rows. */
const MAX_BYTES = 2.6e9;
const QUICK_BYTES = 64e6;
/** Ids of a call differ from those of the calls before, so that it finds none of their rows in the caches: 2^21 of them, at least 16 calls. */
const IDS = 2 ** 21;
const BLOCK_BYTES = 32 * 2 ** 20;

export const poolSuite: Suite = {
  name: 'pool',
  description: 'embedding bags on one core: random ids over tables larger than the caches, mapped from a file; time per id',
  async *run(options) {
    for (const each of CASES.filter(({ name }) => options.wanted.test(name))) {
      const limit = options.quick ? QUICK_BYTES : MAX_BYTES;
      const rows = Math.min(each.rows, Math.floor(limit / each.tables / rowBytes(each.format, each.dim)));
      yield* runCase({ ...each, rows }, options);
    }
  },
};

async function* runCase(of: PoolCase, { peers, rounds, dir, quick }: SuiteOptions): AsyncGenerator<Line> {
  const { name, format, dim, tables, rows } = of;
  const file = join(dir, 'rows.bin');
  await writeRows(file, of);
  const batches = makeBatches(of);
  const ours = await openEngine(of, file, 'populate');
  const contenders: (Contender | Absent)[] = [ours.contender(batches)];
  const bytes = rowBytes(format, dim);
  if (name === 'fp32-d64-uniform') {
    const copied = await openEngine(of, file, 'hugepages');
    contenders.push({ ...copied.contender(batches), peer: 'anonymous-hugepages', residency: 'hugepages' });
  }
  if (UNSEEN_CASES.has(name)) {
    const passing = await openEngine(of, file, 'populate', [], { ...REJECT, policy: 'zero' });
    contenders.push({ ...passing.contender(batches), peer: 'unseen-policy' });
  }
  if (tables === 1) {
    for (const what of ['sequential', 'random'])
      contenders.push(await startPeer('limit', binary('limits'), { what, bytes: rows * bytes, rowBytes: bytes }));
  }
  if (peers) contenders.push(...(await startPeers(of, file, batches, ours.pooled(batches[0] as Batch), dir)));
  const { huge, prefetch } = await ours.residency();
  const params = {
    format,
    dim,
    tables,
    rows,
    rowBytes: bytes,
    bagsPerTable: of.bagsPerTable,
    poolingFactor: of.poolingFactor,
    skew: of.skew,
  };
  const roundMs = quick ? 30 : 250;
  const described = {
    suite: 'pool',
    name,
    params: { ...params, hugePages: huge, prefetch },
    metric: 'time per lookup',
    unit: 'ns',
    roundMs,
  };
  yield* await measure({ ...described, fromNs: (ns) => ns }, contenders, rounds);
  await rm(file);
}

/** Random rows of sane values, repeated: what is in them does not matter for the time, and makes results comparable. */
export async function writeRows(path: string, { format, dim, tables, rows }: PoolCase): Promise<void> {
  const width = rowBytes(format, dim);
  const blockRows = Math.min(rows * tables, Math.floor(BLOCK_BYTES / width));
  const block = new Uint8Array(blockRows * width);
  const view = new DataView(block.buffer);
  const numbers = new SeededNumbers(1);
  for (let row = 0; row < blockRows; row++) {
    const start = row * width;
    if (format === 'fp32') for (let d = 0; d < dim; d++) view.setFloat32(start + d * 4, numbers.uniform() - 0.5, true);
    else if (format === 'fp16' || format === 'bf16')
      for (let d = 0; d < dim; d++) view.setUint16(start + d * 2, (numbers.int32() & 0x83ff) | (format === 'fp16' ? 0x3000 : 0x3e00), true);
    else {
      const values = format === 'int4' ? Math.ceil(dim / 2) : dim;
      for (let i = 0; i < values; i++) block[start + i] = numbers.int32() >>> 8;
      // Scale and bias that float16 holds exactly: 1/256 and -1/2.
      if (format === 'int8') [1 / 256, -0.5].forEach((part, at) => view.setFloat32(start + values + at * 4, part, true));
      else [0x1c00, 0xb800].forEach((half, at) => view.setUint16(start + values + at * 2, half, true));
    }
  }
  const file = await open(path, 'w');
  const writer = new BlockWriter(file, rows * tables * width);
  for (let left = rows * tables * width; left > 0; left -= block.length) await writer.put(block.subarray(0, Math.min(left, block.length)));
  await writer.flush();
  await file.sync();
  await file.close();
}

export interface Batch {
  readonly indices: BigInt64Array;
  readonly offsets: Uint32Array;
}

export function makeBatches({ tables, rows, bagsPerTable, poolingFactor, skew }: PoolCase): Batch[] {
  const numbers = new SeededNumbers(2);
  const bags = tables * bagsPerTable;
  const row = (): number => {
    if (skew === 0) return Math.floor(numbers.uniform() * rows);
    // The continuous Zipf law, inverted; a product with a prime spreads the popular rows.
    const rank = Math.min(rows - 1, Math.floor((((rows + 1) ** (1 - skew) - 1) * numbers.uniform() + 1) ** (1 / (1 - skew))) - 1);
    return Number((BigInt(rank) * 2_654_435_761n) % BigInt(rows));
  };
  const count = Math.max(16, Math.ceil(IDS / (bags * poolingFactor)));
  return Array.from({ length: Math.min(count, 4096) }, () => {
    const offsets = new Uint32Array(bags + 1);
    for (let bag = 0; bag < bags; bag++)
      offsets[bag + 1] = (offsets[bag] as number) + (poolingFactor === 1 ? 1 : Math.floor(numbers.uniform() * (2 * poolingFactor + 1)));
    return { offsets, indices: BigInt64Array.from({ length: offsets[bags] as number }, () => BigInt(row())) };
  });
}

/** keys: the index of each table, when ids are keys. */
export async function openEngine(
  { tables, rows, dim, format, bagsPerTable }: PoolCase,
  path: string,
  residency: 'populate' | 'hugepages',
  keys: readonly NativeKeyIndex[] = [],
  rule: IdRule = REJECT,
) {
  const width = rowBytes(format, dim);
  const views = Array.from({ length: tables }, (_, table) => ({
    ...{ table, part: 0, parts: 1, path, byteOffset: table * rows * width },
    ...{ rows, dim, format, firstRow: 0, rowStep: 1, keys: keys[table] ?? null, rules: [rule] },
  }));
  const engine = new native.SparseEngine(views, residency);
  await engine.fill();
  const tuned = await engine.tunePrefetch();
  const segments = bytesOf(Uint32Array.from(Array.from({ length: tables }, (_, table) => [table, 0, 1, bagsPerTable, 0]).flat()));
  const out = new Float32Array(tables * bagsPerTable * dim);
  const ready = ({ indices, offsets }: Batch) => ({ indices: bytesOf(indices), offsets: bytesOf(offsets) });
  const pool = ({ indices, offsets }: ReturnType<typeof ready>): void => engine.poolSync(segments, 8, indices, offsets, null, out);
  return {
    pooled: (batch: Batch): Float32Array => {
      pool(ready(batch));
      return out.slice();
    },
    contender: (batches: readonly Batch[]): Contender => {
      const all = batches.map(ready);
      const lookups = batches.reduce((sum, { indices }) => sum + indices.length, 0) / batches.length;
      let turn = 0;
      const call = (): void => pool(all[turn++ % all.length] as (typeof all)[number]);
      return { peer: null, residency, round: async (ms) => (await nanosecondsPerCall(call, ms)) / lookups, close: () => engine.close() };
    },
    residency: async (): Promise<{ huge: string; prefetch: string }> => {
      const report = reportResidency(await engine.residency(false));
      const huge = report === null ? 'unknown' : `${((100 * report.hugePageBytes) / report.bytes).toFixed(1)} %`;
      const prefetch = tuned.map(({ lines, toL2 }) => `${lines} lines to ${toL2 ? 'L2' : 'L1'}`).join(', ') || 'default';
      return { huge, prefetch };
    },
  };
}

/** FBGEMM, PyTorch and TorchRec on the same rows and ids, or those of them that are named. */
export async function startPeers(
  of: PoolCase,
  file: string,
  batches: readonly Batch[],
  ours: Float32Array,
  dir: string,
  names: readonly Peer[] = ['fbgemm', 'torch', 'torchrec'],
): Promise<(Contender | Absent)[]> {
  const { format, dim, tables, rows } = of;
  const saved = await Promise.all(
    batches.slice(0, 256).map(async ({ indices, offsets }, n) => {
      const paths = { indices: join(dir, `indices-${n}.bin`), offsets: join(dir, `offsets-${n}.bin`) };
      await writeFile(paths.indices, bytesOf(indices));
      await writeFile(paths.offsets, bytesOf(offsets));
      return paths;
    }),
  );
  const task = { file, byteOffset: 0, format, dim, tables, rows, rowBytes: rowBytes(format, dim), batches: saved };
  const wanted = [
    { peer: 'fbgemm', perTable: true, environment: 'fbgemm' },
    ...(tables > 1 ? [{ peer: 'fbgemm', perTable: false, environment: 'fbgemm' } as const] : []),
    { peer: 'torch', perTable: true, environment: 'torch' },
    ...(format === 'fp32' ? [{ peer: 'torchrec', perTable: false, environment: 'fbgemm' } as const] : []),
  ] as const;
  const started: (Contender | Absent)[] = [];
  for (const { peer, perTable, environment } of wanted.filter((each) => names.includes(each.peer))) {
    const out = join(dir, `${peer}-${perTable}.out`);
    const contender = await startPeer(
      peer,
      python('pool_peer.py', environment),
      { ...task, peer, perTable, out },
      environment === 'fbgemm' ? fbgemmEnvironment() : {},
    );
    const calls = tables > 1 ? { calls: perTable ? 'one a table' : 'one for all tables' } : {};
    if ('note' in contender) started.push({ ...contender, params: calls });
    else started.push(withParams(contender, { ...calls, maxDifference: maxDifference(ours, await readFile(out)) }));
  }
  return started;
}

function withParams(contender: Contender, params: Contender['params']): Contender {
  return {
    peer: contender.peer,
    params: { ...contender.params, ...params },
    round: (ms) => contender.round(ms),
    close: () => contender.close?.(),
  };
}

function maxDifference(ours: Float32Array, raw: Buffer): number {
  const theirs = new Float32Array(raw.buffer, raw.byteOffset, raw.length / 4);
  if (theirs.length !== ours.length) return Number.POSITIVE_INFINITY;
  return ours.reduce((most, value, i) => Math.max(most, Math.abs(value - (theirs[i] as number))), 0);
}
