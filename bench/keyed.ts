import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeKeyIndex } from '../src/engine/key-index.js';
import { type NativeKeyIndex, native } from '../src/engine/native.js';
import { rowBytes } from '../src/model/formats.js';
import { bytesOf } from '../src/predictor/scratch.js';
import { readSafetensorsHeader } from '../src/tables/safetensors.js';
import { binary, startPeer } from './peers/process.js';
import { type Batch, makeBatches, many, one, openEngine, type PoolCase, startPeers, writeRows } from './pool.js';
import { type Absent, type Contender, type Line, measure, type Suite, type SuiteOptions } from './suite.js';

const CASES: readonly PoolCase[] = [one('fp32', 64), one('int8', 64), many(8)];

const QUICK_ROWS = 200_000;
const KEYS_AT_ONCE = 2 ** 19;

export const keyedSuite: Suite = {
  name: 'keyed',
  description:
    'embedding bags of keyed tables on one core: random 64-bit keys, against the same rows asked by number; building the indexes',
  async *run(options) {
    for (const each of CASES.filter(({ name }) => options.wanted.test(name)))
      yield* runCase(options.quick ? { ...each, rows: Math.floor(QUICK_ROWS / each.tables) } : each, options);
  },
};

/** A table's keys: random, and different, since an odd number times numbers that differ is. */
function keysOf(table: number, rows: number): BigInt64Array {
  const keys = new BigInt64Array(rows);
  const step = 0x9e3779b97f4a7c15n;
  let key = BigInt(table) << 40n;
  for (let row = 0; row < rows; row++) {
    key += step;
    keys[row] = key ^ (BigInt.asUintN(64, key) >> 29n);
  }
  return keys;
}

function* inBlocks(keys: BigInt64Array): Generator<BigInt64Array> {
  for (let at = 0; at < keys.length; at += KEYS_AT_ONCE) yield keys.subarray(at, at + KEYS_AT_ONCE);
}

interface Built {
  readonly index: NativeKeyIndex;
  readonly bytes: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
}

async function build(path: string, keys: BigInt64Array): Promise<Built> {
  const cpuBefore = process.cpuUsage();
  const startedAt = performance.now();
  const { tensor, buckets, seed } = await writeKeyIndex(path, { rows: keys.length, keys: inBlocks(keys) });
  const seconds = (performance.now() - startedAt) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  const { byteOffset = 0, bytes = 0 } = (await readSafetensorsHeader(path)).tensors.get(tensor) ?? {};
  return { index: { path, byteOffset, buckets, keys: keys.length, seed }, bytes, seconds, cpuSeconds: (user + system) / 1e6 };
}

async function* runCase(of: PoolCase, { peers, rounds, dir, quick }: SuiteOptions): AsyncGenerator<Line> {
  const { name, format, dim, tables, rows } = of;
  const file = join(dir, 'rows.bin');
  await writeRows(file, of);
  const keys = Array.from({ length: tables }, (_, table) => keysOf(table, rows));
  const built: Built[] = [];
  for (const [table, own] of keys.entries()) built.push(await build(join(dir, `keys-${table}.safetensors`), own));
  const params = { format, dim, tables, rows, bagsPerTable: of.bagsPerTable, poolingFactor: of.poolingFactor };
  yield* buildLines(name, params, built);
  const plainBatches = makeBatches(of);
  const batches = plainBatches.map((batch) => keyedBatch(batch, of, keys));
  const ours = await openEngine(
    of,
    file,
    'populate',
    built.map(({ index }) => index),
  );
  const plain = await openEngine(of, file, 'populate');
  const [expected, found] = [plain.pooled(plainBatches[0] as Batch), ours.pooled(batches[0] as Batch)];
  if (Buffer.compare(bytesOf(expected), bytesOf(found)) !== 0) throw new Error(`keys give other bits than rows: ${name}`);
  const contenders: (Contender | Absent)[] = [
    ours.contender(batches),
    { ...plain.contender(plainBatches), peer: 'plain-rows', params: { ids: 'rows' }, residency: 'populate' },
  ];
  if (peers) contenders.push(...(await startKeyedPeers(of, { file, dir, keys, batches, plainBatches, ours: found })));
  const { huge, prefetch } = await ours.residency();
  const described = {
    ...{ suite: 'keyed', name, metric: 'time per lookup', unit: 'ns', roundMs: quick ? 30 : 250 },
    params: { ...params, rowBytes: rowBytes(format, dim), hugePages: huge, prefetch },
  };
  yield* await measure({ ...described, fromNs: (ns) => ns }, contenders, rounds);
  await rm(file);
  for (const { index } of built) await rm(index.path);
}

function buildLines(name: string, params: Line['params'], built: readonly Built[]): Line[] {
  const sum = (of: (each: Built) => number): number => built.reduce((total, each) => total + of(each), 0);
  const keys = sum(({ index }) => index.keys);
  const common = {
    suite: 'keyed',
    case: `${name}-build`,
    params,
    peer: null,
    ratio: null,
    spread: null,
    isa: native.isa,
    threads: 1,
    residency: 'none',
  };
  return [
    { ...common, metric: 'keys per second of CPU', unit: 'M/s', value: keys / sum(({ cpuSeconds }) => cpuSeconds) / 1e6 },
    { ...common, metric: 'keys per second', unit: 'M/s', value: keys / sum(({ seconds }) => seconds) / 1e6 },
    { ...common, metric: 'index bytes per key', unit: 'bytes', value: sum(({ bytes }) => bytes) / keys },
  ];
}

/** The same bags, asked by key. */
function keyedBatch({ indices, offsets }: Batch, { tables, bagsPerTable }: PoolCase, keys: readonly BigInt64Array[]): Batch {
  const given = new BigInt64Array(indices.length);
  for (let table = 0; table < tables; table++) {
    const [from, to] = [offsets[table * bagsPerTable] as number, offsets[(table + 1) * bagsPerTable] as number];
    for (let at = from; at < to; at++) given[at] = (keys[table] as BigInt64Array)[Number(indices[at])] as bigint;
  }
  return { indices: given, offsets };
}

interface PeerInput {
  readonly file: string;
  readonly dir: string;
  readonly keys: readonly BigInt64Array[];
  readonly batches: readonly Batch[];
  readonly plainBatches: readonly Batch[];
  readonly ours: Float32Array;
}

/**
 * absl::flat_hash_map from keys to rows, and FBGEMM on these rows. They are measured one after another, and their times added, in favour of the
 * two: each finds the caches to itself, and the ids between them cost nothing.
 */
async function startKeyedPeers(of: PoolCase, { file, dir, keys, batches, plainBatches, ours }: PeerInput): Promise<(Contender | Absent)[]> {
  const paths = { keys: join(dir, 'keys.bin'), ids: join(dir, 'ids.bin'), out: join(dir, 'found.bin') };
  await writeFile(paths.keys, Buffer.concat(keys.map(bytesOf)));
  // A map for each table: ids with the number of their table before them.
  const some = batches.slice(0, 256);
  await writeFile(
    paths.ids,
    Buffer.concat(
      some.flatMap(({ indices, offsets }) =>
        keys.map((_, table) => {
          const [from, to] = [offsets[table * of.bagsPerTable], offsets[(table + 1) * of.bagsPerTable]] as [number, number];
          const header = BigInt64Array.of(BigInt(table), BigInt(to - from));
          return Buffer.concat([bytesOf(header), bytesOf(indices.subarray(from, to))]);
        }),
      ),
    ),
  );
  const map = await startPeer('absl', binary('flat_hash_map'), { ...paths, tables: of.tables, rows: of.rows });
  if ('note' in map) return [map];
  const wanted = (some[0] as Batch).indices.length;
  const rows = new BigInt64Array(new Uint8Array((await readFile(paths.out)).subarray(0, 8 * wanted)).buffer);
  const expected = (plainBatches[0] as Batch).indices;
  if (rows.some((row, at) => row !== expected[at])) throw new Error('absl::flat_hash_map finds other rows than these keys have');
  const fbgemm = await startPeers(of, file, plainBatches, ours, dir, ['fbgemm']);
  return [
    map,
    ...fbgemm.map((each): Contender | Absent => {
      if ('note' in each) return { ...each, peer: 'absl+fbgemm' };
      const close = (): void => void each.close?.();
      return {
        ...{ peer: 'absl+fbgemm', params: { ...each.params, sum: 'of two runs' }, close },
        round: async (ms) => (await map.round(ms)) + (await each.round(ms)),
      };
    }),
  ];
}
