import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { writeKeyIndex } from '../../src/engine/key-index.js';
import type { NativeKeyIndex, NativeTable } from '../../src/engine/native.js';
import { segmentFlags } from '../../src/engine/sparse-batch.js';
import { rowBytes } from '../../src/model/formats.js';
import { type IdRule, REJECT } from '../../src/model/id-rules.js';
import { POOLING_NAMES, type Pooling } from '../../src/model/pooling.js';
import { parseKeyIndex } from '../../src/tables/key-index.js';
import { readSafetensorsHeader } from '../../src/tables/safetensors.js';
import { mix64, unmix64 } from '../reference/key-index.js';
import { availableKernels, bytesOf, type PoolJob, randomFrom, runJobs } from './jobs.js';

const directory = mkdtempSync(join(tmpdir(), 'terabag-keyed-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
let files = 0;

/** A table whose ids are keys beside the same table whose ids are rows. */
interface Pair {
  readonly keyed: NativeTable;
  readonly plain: NativeTable;
  readonly keys: readonly bigint[];
  readonly rows: ReadonlyMap<bigint, number>;
}

async function indexOf(keys: readonly bigint[]): Promise<NativeKeyIndex> {
  const path = join(directory, `index-${files++}.safetensors`);
  await writeKeyIndex(path, { rows: keys.length, keys: [BigUint64Array.from(keys, (key) => BigInt.asUintN(64, key))] });
  const header = await readSafetensorsHeader(path);
  const { byteOffset, shape } = header.tensors.get('keys') as { byteOffset: number; shape: readonly number[] };
  const { keys: count, seed } = parseKeyIndex(header.metadata['keys.key_index']) as { keys: number; seed: number };
  return { path, byteOffset, buckets: shape[0] as number, keys: count, seed };
}

async function makePair(number: number, format: NativeTable['format'], dim: number, given: readonly bigint[]): Promise<Pair> {
  const keys = [...new Set(given.map((key) => BigInt.asIntN(64, key)))];
  const random = randomFrom(number + 1);
  const length = rowBytes(format, dim);
  const rows = Buffer.alloc(keys.length * length);
  for (let at = 0; at < rows.length; at++) rows[at] = Math.floor(random() * 256);
  // Small finite values: exponents of plain formats, scales of quantized ones.
  for (let row = 0; row < keys.length; row++) {
    const at = row * length;
    if (format === 'fp32') for (let d = 0; d < dim; d++) rows.writeFloatLE(random() - 0.5, at + d * 4);
    else if (format === 'fp16' || format === 'bf16') for (let d = 0; d < dim; d++) rows[at + d * 2 + 1] = 0x3a;
    else if (format === 'int8') for (const part of [0, 4]) rows.writeFloatLE(random(), at + dim + part);
    else for (const part of [1, 3]) rows[at + length - 4 + part] = 0x2a;
  }
  const path = join(directory, `rows-${files++}.bin`);
  const file = openSync(path, 'w');
  writeSync(file, rows);
  closeSync(file);
  const plain = { table: 2 * number, part: 0, parts: 1, path, byteOffset: 0, rows: keys.length, dim, format, firstRow: 0, rowStep: 1 };
  const keyed = { ...plain, table: 2 * number + 1, keys: await indexOf(keys) };
  return { keyed, plain, keys, rows: new Map(keys.map((key, row) => [key, row])) };
}

interface Asked {
  readonly pair: Pair;
  /** Rows of each bag. */
  readonly bags: readonly (readonly number[])[];
  readonly mean: boolean;
  readonly weights: readonly number[] | null;
}

const job = (asked: readonly Asked[], keyed: boolean, narrow = false): PoolJob => {
  const offsets = [0];
  for (const { bags } of asked) for (const bag of bags) offsets.push((offsets.at(-1) as number) + bag.length);
  const ids = asked.flatMap(({ pair, bags }) => bags.flat().map((row) => (keyed ? (pair.keys[row] as bigint) : BigInt(row))));
  const weights = asked.flatMap(({ weights: given }) => given ?? []);
  return {
    segments: bytesOf(
      Uint32Array.from(
        asked.flatMap(({ pair, bags, mean, weights: given }) => [
          ...[(keyed ? pair.keyed : pair.plain).table, 0, 1, bags.length, (mean ? 1 : 0) | (given === null ? 0 : 2)],
        ]),
      ),
    ),
    indexBytes: narrow ? 4 : 8,
    indices: bytesOf(narrow ? Int32Array.from(ids, Number) : BigInt64Array.from(ids)),
    offsets: bytesOf(Uint32Array.from(offsets)),
    weights: weights.length === 0 ? null : bytesOf(Float32Array.from(weights)),
    outLength: asked.reduce((sum, { pair, bags }) => sum + bags.length * pair.plain.dim, 0),
  };
};

/** Bags of one pair under one rule; of a row, or of no row. */
interface Ruled {
  readonly pair: Pair;
  readonly bags: readonly (readonly (number | null)[])[];
  readonly pooling: Pooling;
  readonly divisor: boolean;
  readonly rule: number;
  readonly weights: readonly number[] | null;
}
const PADDING = 3;
const rulesOf = (padding: bigint): IdRule[] => [
  { ...REJECT, policy: 'zero' },
  { ...REJECT, policy: 'skip' },
  { ...REJECT, policy: 'default', row: 5 },
  { ...REJECT, policy: 'zero', paddingId: padding },
  { ...REJECT, policy: 'skip', paddingId: padding },
];
const withRules = ({ keyed, plain, keys }: Pair): NativeTable[] => [
  { ...keyed, rules: rulesOf(keys[PADDING] as bigint) },
  { ...plain, rules: rulesOf(BigInt(PADDING)) },
];

const ruledJob = ({ pair, bags, pooling, divisor, rule, weights }: Ruled, keyed: boolean): PoolJob => {
  // A row's number is none of the keys that are mixed.
  const absent = keyed ? mix64(2n ** 51n) : BigInt(pair.keys.length);
  const ids = bags.flat().map((row) => (row === null ? absent : keyed ? (pair.keys[row] as bigint) : BigInt(row)));
  const offsets = [0];
  for (const bag of bags) offsets.push((offsets.at(-1) as number) + bag.length);
  const flags = segmentFlags(pooling, { weighted: weights !== null, divisor, rule });
  return {
    segments: bytesOf(Uint32Array.of((keyed ? pair.keyed : pair.plain).table, 0, 1, bags.length, flags)),
    indexBytes: 8,
    indices: bytesOf(BigInt64Array.from(ids)),
    offsets: bytesOf(Uint32Array.from(offsets)),
    weights: weights === null ? null : bytesOf(Float32Array.from(weights)),
    outLength: bags.length * (pair.plain.dim + (divisor ? 1 : 0)),
  };
};

const hex = (out: Float32Array | undefined): string => Buffer.from(bytesOf(out as Float32Array)).toString('hex');

const FORMATS = ['fp32', 'fp16', 'bf16', 'int8', 'int8_fp16', 'int4'] as const;
const CORNERS = [0n, -1n, 1n, 2n ** 63n - 1n, -(2n ** 63n), 42n];
const random = randomFrom(99);
const randomKeys = (count: number): bigint[] => [
  ...CORNERS,
  ...Array.from({ length: count }, () => mix64(BigInt(Math.floor(random() * 2 ** 50)))),
];

let pairs: Pair[];
beforeAll(async () => {
  const made: Promise<Pair>[] = [];
  for (const [f, format] of FORMATS.entries())
    for (const [d, dim] of [1, 17, 64, 130, 300].entries()) made.push(makePair(f * 5 + d, format, dim, randomKeys(20 + 150 * f)));
  // Ids that follow one another, keys of one home, and a table whose index is no longer in the caches.
  made.push(
    makePair(
      30,
      'fp32',
      8,
      Array.from({ length: 3000 }, (_, i) => BigInt(i) - 1500n),
    ),
  );
  made.push(
    makePair(
      31,
      'int8',
      64,
      Array.from({ length: 2000 }, (_, i) => (i < 900 ? unmix64(BigInt(i)) : BigInt(i))),
    ),
  );
  made.push(makePair(32, 'int4', 16, randomKeys(300_000)));
  pairs = await Promise.all(made);
});

const ask = (pair: Pair, lengths: readonly number[], pick: () => number): Asked => {
  const bags = lengths.map((length) => Array.from({ length }, () => Math.floor(pick() * pair.keys.length)));
  const weights = pick() < 0.4 ? bags.flat().map(() => pick() * 2 - 1) : null;
  return { pair, bags, mean: pick() < 0.3, weights };
};

describe.each(availableKernels)('bags of keyed tables with %s kernels', (isa) => {
  const tables = (): NativeTable[] => pairs.flatMap(({ keyed, plain }) => [plain, keyed]);

  it('have the bits of the same rows asked by number: formats, long rows, weights, means, many tables at once', () => {
    const pick = randomFrom(3);
    const requests = [
      // Each alone, with a bag that is longer than what is fetched ahead.
      ...pairs.map((pair) => [ask(pair, [0, 1, 5, 700, 0, 3], pick)]),
      // Enough ids for rows one by one.
      ...pairs.map((pair) => [
        ask(
          pair,
          Array.from({ length: 80 }, () => Math.floor(pick() * 40)),
          pick,
        ),
      ]),
      // Few ids of many tables, keyed and plain in turns further below.
      ...Array.from({ length: 30 }, () =>
        Array.from({ length: 40 }, () => ask(pairs[Math.floor(pick() * pairs.length)] as Pair, [1, 0, 2, 1], pick)),
      ),
    ];
    for (const prefetch of [undefined, { lines: 0, toL2: false }, { lines: 65_536, toL2: true }, { lines: 3, toL2: false }]) {
      const pools = requests.flatMap((asked) => [job(asked, false), job(asked, true)]);
      const answer = runJobs(isa, { tables: tables(), pools, ...(prefetch && { prefetch }) });
      for (let r = 0; r < requests.length; r++) {
        expect(answer.pools[2 * r + 1]?.error).toBeUndefined();
        expect(hex(answer.pools[2 * r + 1]?.out)).toBe(hex(answer.pools[2 * r]?.out));
      }
    }
  });

  it('have the same bits in one request with plain tables, and on several threads', () => {
    const pick = randomFrom(4);
    const asked = Array.from({ length: 60 }, () => ask(pairs[Math.floor(pick() * pairs.length)] as Pair, [9, 0, 300, 1, 40], pick));
    const mixed = asked.map((each, n) =>
      n % 3 === 0 ? { ...each, pair: { ...each.pair, keyed: each.pair.plain, keys: each.pair.keys.map((_, row) => BigInt(row)) } } : each,
    );
    const answer = runJobs(isa, { tables: tables(), pools: [job(asked, false), job(asked, true), job(mixed, true), job(mixed, true)] }, 3);
    const [plain, ...others] = answer.pools.map(({ out, error }) => hex(out ?? expect.fail(JSON.stringify(error))));
    for (const other of others) expect(other).toBe(plain);
  });

  it('let keys pass that they do not have as ids that are no rows, in every pooling', () => {
    const pick = randomFrom(7);
    const some = [1, 6, 11, 16, 21, 26, 30, 31].map((number) => pairs[number] as Pair);
    const asked = some.flatMap((pair) =>
      POOLING_NAMES.flatMap((pooling) =>
        rulesOf(0n).map((_, rule): Ruled => {
          const row = (): number | null => (pick() < 0.3 ? null : pick() < 0.2 ? PADDING : Math.floor(pick() * pair.keys.length));
          const bags = [3, 0, 1, 40, pick() < 0.2 ? 1500 : 2].map((length) => Array.from({ length }, row));
          const weights = pick() < 0.7 ? bags.flat().map(() => pick() * 4 - 2) : null;
          return { pair, bags, pooling, divisor: pick() < 0.3, rule, weights };
        }),
      ),
    );
    const pools = asked.flatMap((each) => [ruledJob(each, false), ruledJob(each, true)]);
    const answer = runJobs(isa, { tables: some.flatMap(withRules), pools });
    asked.forEach(({ pooling, rule, pair }, n) => {
      const [plain, keyed] = [answer.pools[2 * n], answer.pools[2 * n + 1]];
      expect(keyed?.error ?? plain?.error).toBeUndefined();
      expect(hex(keyed?.out), `${pooling}, rule ${rule}, ${pair.plain.format}`).toBe(hex(plain?.out));
    });
    const counts = new Map(answer.unseen.map(({ table, count }) => [table, count]));
    for (const { keyed, plain } of some) expect(counts.get(keyed.table)).toBe(counts.get(plain.table));
  });

  it('take 32-bit ids with their sign', () => {
    const pair = pairs[30] as Pair;
    const asked = [ask(pair, [3, 200, 0, 9], randomFrom(5))];
    const answer = runJobs(isa, { tables: tables(), pools: [job(asked, true), job(asked, true, true)] });
    expect(hex(answer.pools[1]?.out)).toBe(hex(answer.pools[0]?.out));
  });

  it('refuse the first key that is not there, as a Map would', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 32 }),
        fc.array(fc.tuple(fc.nat(), fc.option(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { freq: 40 })), {
          minLength: 1,
          maxLength: 1500,
        }),
        (number, ids) => {
          const pair = pairs[number] as Pair;
          const keys = ids.map(([nat, other]) => other ?? (pair.keys[nat % pair.keys.length] as bigint));
          const missing = keys.findIndex((key) => !pair.rows.has(key));
          const asked = job([{ pair, bags: [keys.map(() => 0)], mean: false, weights: null }], true);
          const answer = runJobs(isa, { tables: tables(), pools: [{ ...asked, indices: bytesOf(BigInt64Array.from(keys)) }] });
          if (missing === -1) expect(answer.pools[0]?.error).toBeUndefined();
          else
            expect(answer.pools[0]?.error).toMatchObject({
              ...{ status: 'index_out_of_range', segment: 0, bag: 0, position: missing, value: String(keys[missing]) },
            });
        },
      ),
      { numRuns: 12 },
    );
  });

  it('read nothing that they should not of an index whose bytes are any', () => {
    const { keyed, plain, keys } = pairs[31] as Pair;
    const index = keyed.keys as NativeKeyIndex;
    const bytes = readFileSync(index.path);
    const pick = randomFrom(6);
    const damaged = Array.from({ length: 12 }, (_, n): NativeTable => {
      const copy = Buffer.from(bytes);
      for (let at = index.byteOffset; at < copy.length; at++)
        if (n > 8 || pick() < 0.02 * (n + 1)) copy[at] = n === 11 ? 0xff : Math.floor(pick() * 256);
      const path = join(directory, `damaged-${files++}.safetensors`);
      writeFileSync(path, copy);
      return { ...keyed, table: n, keys: { ...index, path } };
    });
    const one = {
      pair: { keyed, plain, keys, rows: new Map<bigint, number>() },
      bags: keys.slice(0, 400).map((_, row) => [row]),
      mean: false,
      weights: null,
    };
    const whole = job([one], true);
    const pools = damaged.map(({ table }): PoolJob => {
      const segments = Uint32Array.from([table, 0, 1, 400, 0]);
      return { ...whole, segments: bytesOf(segments) };
    });
    // Each is answered, with rows of the table or an error; a read elsewhere would end the child.
    for (const { out, error } of runJobs(isa, { tables: damaged, pools }).pools)
      expect(out !== undefined || error?.status === 'index_out_of_range').toBe(true);
  });
});

it('an index that does not fit its file, or its number of keys, is refused when it is opened', () => {
  const { keyed } = pairs[31] as Pair;
  const index = keyed.keys as NativeKeyIndex;
  for (const wrong of [
    { byteOffset: index.byteOffset + 64 },
    { byteOffset: 2 ** 53 - 1 },
    { buckets: index.buckets + 1000 },
    { buckets: 1 },
    { keys: 2 ** 32 },
    { keys: 0 },
    { path: join(directory, 'none') },
  ])
    expect(() => runJobs(null, { tables: [{ ...keyed, keys: { ...index, ...wrong } }] })).toThrow();
});
