import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type NativeTable, native } from '../../src/engine/native.js';
import { segmentFlags } from '../../src/engine/sparse-batch.js';
import { ROW_FORMATS, type RowFormat, rowBytes } from '../../src/model/formats.js';
import { type IdRule, REJECT } from '../../src/model/id-rules.js';
import { POOLING_NAMES, type Pooling } from '../../src/model/pooling.js';
import { found, isCounted } from '../reference/unseen-ids.js';
import { availableKernels, bytesOf, type PoolJob, randomFrom, runJobs } from './jobs.js';

const directory = mkdtempSync(join(tmpdir(), 'terabag-unseen-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const ROWS = 23;
/** Less than a vector, some vectors, rows that are pooled in parts, and odd ones. */
const DIMS = [1, 7, 16, 33, 64, 300];

const random = randomFrom(1);
const below = (limit: number): number => Math.floor(random() * limit);

interface Held {
  readonly format: RowFormat;
  readonly dim: number;
  readonly path: string;
  readonly rules: readonly IdRule[];
  /** Rows behind the others that only rules name. */
  readonly fallbackRows: number;
}

const rulesOf = (dim: number): IdRule[] => [
  REJECT,
  { ...REJECT, policy: 'zero' },
  { ...REJECT, policy: 'skip' },
  { ...REJECT, policy: 'default', row: 5 },
  { ...REJECT, policy: 'default', vector: Float32Array.from({ length: dim }, (_, d) => vectorValue(d)) },
  { ...REJECT, policy: 'hash', buckets: ROWS },
  { ...REJECT, policy: 'hash', buckets: 3 },
  // Rows behind those of the table: those of zeros and of the vector.
  { ...REJECT, policy: 'default', row: ROWS + 1 },
  { ...REJECT, policy: 'hash', row: ROWS, buckets: 2 },
  { ...REJECT, policy: 'hash', row: ROWS - 2, buckets: 4, paddingId: 1n },
  // Padding that the table has, and that it does not have, of every sign and size.
  { ...REJECT, paddingId: 4n },
  { ...REJECT, policy: 'zero', paddingId: 0n },
  { ...REJECT, policy: 'hash', buckets: ROWS, paddingId: -1n },
  { ...REJECT, policy: 'skip', paddingId: 2n ** 62n },
  { ...REJECT, policy: 'default', row: 0, paddingId: BigInt(ROWS) },
];
const vectorValue = (d: number): number => Math.fround(Math.sin(d + 1));

/** A file of ROWS random rows, one of zeros, and one of the vector. */
async function held(format: RowFormat, dim: number): Promise<Held> {
  const values = Float32Array.from({ length: (ROWS + 2) * dim }, (_, at) => {
    const row = Math.floor(at / dim);
    return row < ROWS ? random() * 2 - 1 : row === ROWS ? 0 : vectorValue(at % dim);
  });
  const packed = new Uint8Array((ROWS + 2) * rowBytes(format, dim));
  await native.packRows(bytesOf(values), 'fp32', dim, format, packed);
  const path = join(directory, `${format}-${dim}.bin`);
  writeFileSync(path, packed);
  return { format, dim, path, rules: rulesOf(dim), fallbackRows: 2 };
}

/** Numbered as in `tables`: with rules, and with the rows of zeros and of the vector in place of them. */
const tablesOf = (all: readonly Held[]): NativeTable[] =>
  all.flatMap(({ format, dim, path, rules, fallbackRows }, t) => {
    const table = { part: 0, parts: 1, path, byteOffset: 0, dim, format, firstRow: 0, rowStep: 1 };
    return [
      { ...table, table: 2 * t, rows: ROWS, fallbackRows, rules },
      { ...table, table: 2 * t + 1, rows: ROWS + 2 },
    ];
  });

interface Case {
  readonly table: number;
  readonly dim: number;
  readonly rule: IdRule;
  readonly number: number;
  readonly pooling: Pooling;
  readonly bags: readonly (readonly bigint[])[];
  readonly weights: readonly (readonly number[])[] | null;
  readonly indexBytes: 4 | 8;
  readonly divisor: boolean;
}

function jobOf({ table, dim, number, pooling, bags, weights, indexBytes, divisor }: Case): PoolJob {
  const flags = segmentFlags(pooling, { weighted: weights !== null, divisor, rule: number });
  const ids = bags.flat();
  const offsets = [0];
  for (const bag of bags) offsets.push((offsets.at(-1) as number) + bag.length);
  return {
    segments: bytesOf(Uint32Array.of(table, 0, 1, bags.length, flags)),
    indexBytes,
    indices: bytesOf(indexBytes === 4 ? Int32Array.from(ids, Number) : BigInt64Array.from(ids)),
    offsets: bytesOf(Uint32Array.from(offsets)),
    weights: weights === null ? null : bytesOf(Float32Array.from(weights.flat())),
    outLength: bags.length * (dim + (divisor ? 1 : 0)),
  };
}

/** The same bags without rules: each id is the row that it gets, and what is left out is not there. */
function plainly(given: Case): Case {
  const kept = given.bags.map((bag) =>
    bag.map((id) => {
      const row = found(given.rule, id, ROWS);
      return row === 'zeros' ? ROWS : row === 'vector' ? ROWS + 1 : row;
    }),
  );
  const isKept = (bag: number, at: number): boolean => typeof kept[bag]?.[at] === 'number';
  return {
    ...given,
    table: given.table + 1,
    number: 0,
    bags: kept.map((bag, b) => bag.filter((_, at) => isKept(b, at)).map((row) => BigInt(row))),
    weights: given.weights?.map((weights, b) => weights.filter((_, at) => isKept(b, at))) ?? null,
  };
}

const UNSEEN = [23n, 24n, 1000n, -1n, -5n, 2n ** 31n - 1n, -(2n ** 31n)];
const WIDE = [2n ** 31n, 2n ** 53n + 1n, 2n ** 62n, 2n ** 63n - 1n, -(2n ** 63n)];

function randomCase({ dim, rules }: Held, t: number, bagLengths: readonly number[], mayRefuse: boolean): Case {
  const number = below(rules.length);
  const rule = rules[number] as IdRule;
  const indexBytes = random() < 0.5 ? 4 : 8;
  const unseen = indexBytes === 4 ? UNSEEN : [...UNSEEN, ...WIDE];
  const share = random() * 0.7;
  const id = (): bigint => {
    if (random() < 0.1 && rule.paddingId !== null && (indexBytes === 8 || rule.paddingId < 2n ** 31n)) return rule.paddingId;
    const passes = rule.policy !== 'reject' || mayRefuse;
    return passes && random() < share ? (unseen[below(unseen.length)] as bigint) : BigInt(below(ROWS));
  };
  const bags = bagLengths.map((length) => Array.from({ length }, id));
  const weights = random() < 0.5 ? bags.map((bag) => bag.map(() => random() * 4 - 2)) : null;
  const pooling = POOLING_NAMES[below(POOLING_NAMES.length)] as Pooling;
  return { table: 2 * t, dim, rule, number, pooling, bags, weights, indexBytes, divisor: random() < 0.3 };
}

const bits = (array: Float32Array | undefined): string => Buffer.from(bytesOf(array ?? new Float32Array(0))).toString('hex');

describe.each(availableKernels)('ids that a table does not have, with %s kernels', (isa) => {
  let all: Held[];
  beforeAll(async () => {
    all = [];
    for (const format of ROW_FORMATS) for (const dim of DIMS) all.push(await held(format, dim));
  });

  function check(cases: readonly Case[], prefetch?: { lines: number; toL2: boolean }): void {
    const pools = cases.flatMap((given) => [jobOf(given), jobOf(plainly(given))]);
    const answer = runJobs(isa, { tables: tablesOf(all), pools, ...(prefetch && { prefetch }) }, 2);
    const counts = new Map<number, number>();
    cases.forEach((given, n) => {
      const [ruled, plain] = [answer.pools[2 * n], answer.pools[2 * n + 1]];
      expect(ruled?.error ?? plain?.error, JSON.stringify(ruled?.error)).toBeUndefined();
      expect(bits(ruled?.out), `${given.rule.policy}, padding ${given.rule.paddingId}, ${given.pooling}`).toBe(bits(plain?.out));
      const unseen = given.bags.flat().filter((id) => isCounted(given.rule, id, ROWS)).length;
      counts.set(given.table, (counts.get(given.table) ?? 0) + unseen);
    });
    for (const [table, count] of counts) if (count === 0) counts.delete(table);
    expect(new Map(answer.unseen.map(({ table, count }) => [table, count]))).toEqual(counts);
  }

  it('give the bits of the rows that their rule names, and are counted once, in every format, pooling, length of rows and width of ids', () => {
    check(all.flatMap((table, t) => Array.from({ length: 16 }, () => randomCase(table, t, [3, 0, 1, 9, 2], false))));
  });

  it('do so in bags of thousands, of which rows are fetched one by one, on several threads, and at any prefetch distance', () => {
    const some = all.map((table, t) => ({ table, t })).filter(({ table }) => table.dim <= 64);
    for (const lines of [0, 128, 5000])
      check(
        some.map(({ table, t }) => randomCase(table, t, [3000, 0, 1500], false)),
        { lines, toL2: lines !== 5000 },
      );
  });

  it('are refused where their rule says so, with the place of the first, whatever others of the request get', () => {
    const cases = all.flatMap((table, t) =>
      Array.from({ length: 4 }, () => randomCase({ ...table, rules: [table.rules[0] as IdRule] }, t, [4, 0, 6], true)),
    );
    const answer = runJobs(isa, { tables: tablesOf(all), pools: cases.map(jobOf) });
    cases.forEach(({ bags, rule }, n) => {
      const ids = bags.flat();
      const position = ids.findIndex((id) => found(rule, id, ROWS) === 'error');
      const { error, out } = answer.pools[n] as (typeof answer.pools)[number];
      if (position === -1) expect(out).toBeDefined();
      else expect(error).toMatchObject({ status: 'index_out_of_range', position, value: String(ids[position]), limit: String(ROWS) });
    });
    expect(answer.unseen).toEqual([]);
  });

  it('are not pooled by a rule that the table does not have', () => {
    const given = randomCase(all[0] as Held, 0, [2, 1], false);
    const numbers = [(all[0] as Held).rules.length, 1000, 65535];
    const pools = numbers.map((number) => jobOf({ ...given, number }));
    // The table without rules has the one that rejects.
    pools.push(jobOf({ ...given, table: 1, number: 1 }));
    for (const { error } of runJobs(isa, { tables: tablesOf(all), pools }).pools) expect(error).toMatchObject({ status: 'bad_segments' });
  });
});

describe('rules of a table', () => {
  const refused = async (rule: Partial<IdRule>, format: RowFormat = 'fp32', dim = 4): Promise<unknown> =>
    refusedOf({ ...(await held(format, dim)), rules: [{ ...REJECT, ...rule }], fallbackRows: 0 });
  const refusedOf = (of: Held): unknown => {
    const [table] = tablesOf([of]) as [NativeTable];
    try {
      new native.SparseEngine([table], 'map').close();
      return null;
    } catch (error) {
      return error;
    }
  };

  it('are refused when they do not fit it', async () => {
    expect(await refused({ policy: 'default', row: ROWS - 1 })).toBeNull();
    expect(await refused({ policy: 'default', row: ROWS })).toMatchObject({
      status: 'bad_rule',
      message: expect.stringContaining('row 23, rows 23'),
    });
    expect(await refused({ policy: 'hash', buckets: 0 })).toMatchObject({ status: 'bad_rule' });
    expect(await refused({ policy: 'hash', buckets: ROWS + 1 })).toMatchObject({ status: 'bad_rule' });
    expect(await refused({ policy: 'default', vector: new Float32Array(3) })).toMatchObject({ status: 'bad_rule' });
    expect(await refused({ paddingId: 2n ** 63n })).toBeInstanceOf(TypeError);
    expect(await refused({ policy: 'nothing' as 'skip' })).toBeInstanceOf(TypeError);
    expect(await refused({ policy: 'default' })).toBeInstanceOf(TypeError);
  });

  it('may name rows behind those of the table, as far as the table says and its file goes', async () => {
    const with2 = async (rule: Partial<IdRule>, fallbackRows = 2): Promise<unknown> =>
      refusedOf({ ...(await held('fp32', 4)), rules: [{ ...REJECT, ...rule }], fallbackRows });
    expect(await with2({ policy: 'default', row: ROWS + 1 })).toBeNull();
    expect(await with2({ policy: 'default', row: ROWS + 2 })).toMatchObject({ status: 'bad_rule' });
    expect(await with2({ policy: 'hash', row: ROWS, buckets: 2 })).toBeNull();
    for (const [row, buckets] of [
      [ROWS, 3],
      [ROWS + 2, 1],
      [2 ** 53 - 1, 2 ** 53 - 1],
      [0, ROWS + 3],
    ] as const)
      expect(await with2({ policy: 'hash', row, buckets })).toMatchObject({ status: 'bad_rule' });
    expect(await with2({}, 3)).toMatchObject({ status: 'unreadable' });
    expect(await with2({}, 2 ** 53 - 1)).toMatchObject({ status: 'unreadable' });
    expect(await with2({}, 2 ** 53)).toBeInstanceOf(TypeError);
    expect(await with2({}, -1)).toBeInstanceOf(TypeError);
  });

  it.each([
    ['fp16', [70000, 0, 0, 0]],
    ['bf16', [3.4e38, 0, 0, 0]],
    ['int8', [3e38, -3e38, 0, 0]],
    ['int8_fp16', [-70000, 0, 0, 0]],
    ['int4', [0, 1e6, 0, 0]],
  ] as const)('are refused when %s cannot hold the vector', async (format, vector) => {
    expect(await refused({ policy: 'default', vector: Float32Array.from(vector) }, format)).toMatchObject({
      status: 'bad_rule',
      message: expect.stringContaining(`cannot be stored as ${format}`),
    });
    expect(await refused({ policy: 'default', vector: Float32Array.of(1, 2, 3, 4) }, format)).toBeNull();
  });
});
