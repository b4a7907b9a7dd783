import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { NativeTable } from '../../src/engine/native.js';
import { segmentFlags } from '../../src/engine/sparse-batch.js';
import { POOLING_NAMES, type Pooling } from '../../src/model/pooling.js';
import { availableKernels, bytesOf, type PoolJob, randomFrom, runJobs } from './jobs.js';

const directory = mkdtempSync(join(tmpdir(), 'terabag-kernels-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const FORMATS = ['fp32', 'fp16', 'bf16', 'int8', 'int8_fp16', 'int4'] as const;
type Format = (typeof FORMATS)[number];
const QUANTIZED_VALUES: Partial<Record<Format, number>> = { int8: 256, int8_fp16: 256, int4: 16 };

/** Value of a 16-bit row element, by the definition of the format. */
function decode(format: string, raw: number): number {
  if (format === 'bf16') {
    const view = new DataView(new ArrayBuffer(4));
    view.setUint32(0, raw * 65536);
    return view.getFloat32(0);
  }
  const sign = raw & 0x8000 ? -1 : 1;
  const exponent = (raw >> 10) & 31;
  const fraction = raw & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}

interface Table extends NativeTable {
  /** Value at row, d of this part. */
  readonly at: (row: number, d: number) => number;
}

/** Bytes of the values of a row, and of the scale and the bias behind them. */
function layout(format: Format, dim: number): { values: number; rowBytes: number } {
  const values = { fp32: dim * 4, fp16: dim * 2, bf16: dim * 2, int8: dim, int8_fp16: dim, int4: Math.ceil(dim / 2) }[format];
  return { values, rowBytes: values + { fp32: 0, fp16: 0, bf16: 0, int8: 8, int8_fp16: 4, int4: 4 }[format] };
}

/** Random bits of a finite number of the format below 1; of a quantized row's scale or bias without a sign, so that they never cancel. */
function randomBits(format: 'fp16' | 'bf16', random: () => number, signed: boolean): number {
  const magnitude = format === 'fp16' ? Math.floor(random() * 0x3c00) : 0x3c00 + Math.floor(random() * 0x380);
  return (signed && random() < 0.5 ? 0x8000 : 0) | magnitude;
}

function fillRow(row: DataView, format: Format, dim: number, random: () => number, special: boolean): void {
  const { values } = layout(format, dim);
  if (format in QUANTIZED_VALUES) {
    for (let i = 0; i < values; ++i) row.setUint8(i, Math.floor(random() * 256));
    for (const part of [0, 1]) {
      if (format === 'int8') row.setFloat32(values + part * 4, special && random() < 0.3 ? [NaN, Infinity, -0][part]! : random(), true);
      else row.setUint16(values + part * 2, special ? Math.floor(random() * 65536) : randomBits('fp16', random, false), true);
    }
    return;
  }
  for (let d = 0; d < dim; ++d) {
    if (format === 'fp32') row.setFloat32(d * 4, special && d % 17 === 0 ? [NaN, Infinity, -0][d % 3]! : random() * 2 - 1, true);
    else row.setUint16(d * 2, special ? Math.floor(random() * 65536) : randomBits(format as 'fp16' | 'bf16', random, true), true);
  }
}

/** Value d of a row, by the definition of the format. */
function valueAt(row: DataView, format: Format, dim: number, d: number): number {
  if (format === 'fp32') return row.getFloat32(d * 4, true);
  if (format === 'fp16' || format === 'bf16') return decode(format, row.getUint16(d * 2, true));
  const { values } = layout(format, dim);
  const q = format === 'int4' ? (row.getUint8(d >> 1) >> (d % 2 === 0 ? 0 : 4)) & 15 : row.getUint8(d);
  const [scale, bias] =
    format === 'int8'
      ? [row.getFloat32(values, true), row.getFloat32(values + 4, true)]
      : [decode('fp16', row.getUint16(values, true)), decode('fp16', row.getUint16(values + 2, true))];
  return scale * q + bias;
}

let files = 0;
function makeTable(
  id: number,
  random: () => number,
  options: { dim: number; rows: number; format: Format; part?: number; parts?: number; special?: boolean; fileBytes?: number },
): Table {
  const { dim, rows, format, part = 0, parts = 1, special = false, fileBytes } = options;
  const fileRows = rows * parts;
  const { rowBytes } = layout(format, dim);
  const content = new Uint8Array(fileRows * rowBytes);
  const rowAt = (row: number): DataView => new DataView(content.buffer, row * rowBytes, rowBytes);
  for (let row = 0; row < fileRows; ++row) fillRow(rowAt(row), format, dim, random, special);
  const byteOffset = fileBytes === undefined ? Math.floor(random() * 40) : fileBytes - content.length;
  const path = join(directory, `table-${files++}.bin`);
  const file = openSync(path, 'w');
  ftruncateSync(file, byteOffset + content.length);
  writeSync(file, content, 0, content.length, byteOffset);
  closeSync(file);
  const at = (row: number, d: number): number => valueAt(rowAt(part + row * parts), format, dim, d);
  return { table: id, part, parts, path, byteOffset, rows, dim, format, firstRow: part, rowStep: parts, at };
}

interface Segment {
  readonly table: Table;
  readonly bags: bigint[][];
  readonly pooling: Pooling;
  /** Whether what a bag is divided by is answered, and not divided by. */
  readonly divisor?: boolean;
  readonly weights: number[] | null;
}
const PLAIN = { pooling: 'sum', weights: null } as const;
const floatsOf = ({ table, divisor }: Segment): number => table.dim + (divisor ? 1 : 0);

function makeJob(segments: Segment[], indexBytes: number): PoolJob {
  const header = segments.flatMap(({ table, bags, pooling, divisor = false, weights }) => [
    table.table,
    table.part,
    table.parts,
    bags.length,
    segmentFlags(pooling, { weighted: weights !== null, divisor, rule: 0 }),
  ]);
  const ids = segments.flatMap(({ bags }) => bags.flat());
  const offsets = [0];
  for (const { bags } of segments) for (const bag of bags) offsets.push(offsets.at(-1)! + bag.length);
  const weighted = segments.flatMap(({ weights }) => weights ?? []);
  return {
    segments: bytesOf(new Uint32Array(header)),
    indexBytes,
    indices: bytesOf(indexBytes === 4 ? Int32Array.from(ids, Number) : BigInt64Array.from(ids)),
    offsets: bytesOf(new Uint32Array(offsets)),
    weights: weighted.length === 0 ? null : bytesOf(new Float32Array(weighted)),
    outLength: segments.reduce((sum, segment) => sum + segment.bags.length * floatsOf(segment), 0),
  };
}

const plain = ({ at: _, ...table }: Table): NativeTable => table;
const bitsOf = (array: Float32Array): string => Buffer.from(bytesOf(array)).toString('hex');

/** What is right in float64 and, as the scale of what rounding may cost, the sums of magnitudes. */
function reference(segments: Segment[]): { wanted: number[]; scales: number[] } {
  const wanted: number[] = [];
  const scales: number[] = [];
  for (const { table, bags, pooling, divisor = false, weights } of segments) {
    let position = 0;
    for (const bag of bags) {
      const own = bag.map((_, i) => (weights === null ? 1 : Math.fround(weights[position + i]!)));
      const total = own.reduce((sum, weight) => sum + weight, 0);
      const magnitude = own.reduce((sum, weight) => sum + Math.abs(weight), 0);
      const by = pooling === 'weighted_mean' ? total : bag.length;
      const divided = !divisor && by !== 0 && (pooling === 'mean' || pooling === 'weighted_mean');
      for (let d = 0; d < table.dim; ++d) {
        const terms = bag.map((id, i) => table.at(Number(id), d) * own[i]!);
        const value = terms.length === 0 ? 0 : pooling === 'max' ? Math.max(...terms) : terms.reduce((sum, term) => sum + term, 0);
        const scale = terms.reduce((sum, term) => sum + Math.abs(term), 0);
        wanted.push(divided ? value / by : value);
        // Weights that cancel make their sum inexact.
        scales.push(divided ? (scale / Math.abs(by)) * (pooling === 'weighted_mean' ? 1 + magnitude / Math.abs(by) : 1) : scale);
      }
      if (divisor) {
        wanted.push(by);
        scales.push(pooling === 'weighted_mean' ? magnitude : 0);
      }
      position += bag.length;
    }
  }
  return { wanted, scales };
}

function expectClose(out: Float32Array | undefined, { wanted, scales }: { wanted: number[]; scales: number[] }, terms: number): void {
  expect(out?.length).toBe(wanted.length);
  for (let i = 0; i < wanted.length; ++i) {
    const got = out![i]!;
    const want = wanted[i]!;
    // Each of n additions rounds by at most 2^-24 of a partial sum.
    // Beyond float32 it depends on the order whether a partial sum overflows.
    if (scales[i]! * terms > 3.4e38 && !Number.isFinite(got)) continue;
    const ok = Number.isFinite(want) ? Math.abs(got - want) <= (terms + 2) * 2 ** -24 * scales[i]! + 1e-44 : Object.is(got, want);
    if (!ok) expect.fail(`at ${i}: ${got}, want ${want}`);
  }
}

function randomSegment(table: Table, random: () => number, maxBag: number): Segment {
  const bags = Array.from({ length: Math.floor(random() * 6) }, () =>
    Array.from({ length: random() < 0.3 ? 0 : Math.floor(random() * maxBag) }, () => BigInt(Math.floor(random() * table.rows))),
  );
  const count = bags.flat().length;
  const pooling = POOLING_NAMES[Math.floor(random() * POOLING_NAMES.length)]!;
  return {
    table,
    bags,
    pooling,
    divisor: random() < 0.3,
    weights: random() < 0.5 ? Array.from({ length: count }, () => random() * 4 - 2) : null,
  };
}

describe.each(availableKernels)('embedding bags with %s kernels', (isa) => {
  it('equal the float64 reference for random dims, formats, parts, weights and bags', () => {
    const random = randomFrom(1);
    const tables = Array.from({ length: 60 }, (_, id) =>
      makeTable(id, random, {
        dim: id < 40 ? id + 1 : 1 + Math.floor(random() * 300),
        rows: 1 + Math.floor(random() * 50),
        format: FORMATS[id % FORMATS.length]!,
        parts: 1 + (id % 4),
        part: id % (1 + (id % 4)),
        special: id % 10 === 9,
      }),
    );
    const jobs = Array.from({ length: 120 }, () =>
      Array.from({ length: Math.floor(random() * 6) }, () => randomSegment(tables[Math.floor(random() * tables.length)]!, random, 40)),
    );
    const answer = runJobs(isa, {
      tables: tables.map(({ at: _, ...table }) => table),
      pools: jobs.map((segments, n) => makeJob(segments, n % 3 === 0 ? 4 : 8)),
    });
    expect(answer.isa).toBe(isa);
    jobs.forEach((segments, n) => {
      expect(answer.pools[n]?.error).toBeUndefined();
      expectClose(answer.pools[n]?.out, reference(segments), 41);
    });
  });

  it('give a bag the same bits alone and in a batch', () => {
    const random = randomFrom(2);
    const table = makeTable(0, random, { dim: 77, rows: 300, format: 'fp16' });
    const bags = Array.from({ length: 30 }, () =>
      Array.from({ length: Math.floor(random() * 90) }, () => BigInt(Math.floor(random() * 300))),
    );
    const pools = [
      makeJob([{ table, bags, pooling: 'mean', weights: null }], 8),
      ...bags.map((bag) => makeJob([{ table, bags: [bag], pooling: 'mean', weights: null }], 4)),
    ];
    const { at: _, ...plain } = table;
    const answer = runJobs(isa, { tables: [plain], pools });
    const together = answer.pools[0]!.out!;
    bags.forEach((_bag, b) =>
      expect(Buffer.compare(bytesOf(answer.pools[b + 1]!.out!), bytesOf(together.slice(b * 77, (b + 1) * 77)))).toBe(0),
    );
  });

  it('equal the float64 reference in every corner: dims around register widths, formats, index widths, weights, poolings, empty bags', () => {
    const random = randomFrom(6);
    const dims = [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 85, 127, 128, 129, 163, 256, 257, 300];
    const tables = dims.flatMap((dim, d) =>
      FORMATS.map((format, f) => makeTable(d * FORMATS.length + f, random, { dim, rows: 11, format })),
    );
    const lengths = [0, 1, 5, 0, 0, 23, 2, 0];
    const cases = tables.flatMap((table) =>
      [4, 8].map((indexBytes) => ({
        indexBytes,
        segments: POOLING_NAMES.flatMap((pooling) =>
          [false, true].map((weighted): Segment => {
            const bags = lengths.map((length) => Array.from({ length }, () => BigInt(Math.floor(random() * table.rows))));
            return {
              table,
              bags,
              pooling,
              divisor: table.table % 2 === 0,
              weights: weighted ? Array.from({ length: bags.flat().length }, () => random() * 4 - 2) : null,
            };
          }),
        ),
      })),
    );
    const answer = runJobs(isa, {
      tables: tables.map(plain),
      pools: cases.map(({ segments, indexBytes }) => makeJob(segments, indexBytes)),
    });
    cases.forEach(({ segments }, n) => {
      expect(answer.pools[n]?.error).toBeUndefined();
      expectClose(answer.pools[n]?.out, reference(segments), 24);
    });
  });

  it('give the same bits whether segments come one by one or hundreds at once', () => {
    const random = randomFrom(7);
    const tables = Array.from({ length: 45 }, (_, id) =>
      makeTable(id, random, {
        dim: 1 + Math.floor(random() * (id % 5 === 0 ? 400 : 80)),
        rows: 1 + id,
        format: FORMATS[id % FORMATS.length]!,
      }),
    );
    const segments = Array.from({ length: 500 }, () => randomSegment(tables[Math.floor(random() * tables.length)]!, random, 4));
    const answer = runJobs(isa, {
      tables: tables.map(plain),
      pools: [makeJob(segments, 8), ...segments.map((segment, n) => makeJob([segment], n % 2 === 0 ? 4 : 8))],
    });
    const [together, ...alone] = answer.pools.map(({ out, error }) => out ?? expect.fail(JSON.stringify(error)));
    expectClose(together, reference(segments), 5);
    expect(bitsOf(together!)).toBe(alone.map(bitsOf).join(''));
  });

  it('read no byte past the last row of a table that ends with its mapping', () => {
    const random = randomFrom(8);
    const dims = [1, 2, 3, 5, 7, 8, 9, 15, 17, 31, 33, 63, 65, 85, 127, 129, 163, 300];
    // From 2 MiB on, files are mapped at aligned addresses with nothing mapped behind them.
    const tables = dims.flatMap((dim, d) =>
      FORMATS.map((format, f) => makeTable(d * FORMATS.length + f, random, { dim, rows: 3, format, fileBytes: 2 ** 21 })),
    );
    const cases = tables.map((table): Segment[] => [{ table, bags: [[0n], [2n, 1n], [2n]], ...PLAIN }]);
    const answer = runJobs(isa, { tables: tables.map(plain), pools: cases.map((segments) => makeJob(segments, 8)) });
    cases.forEach((segments, n) => expectClose(answer.pools[n]?.out, reference(segments), 3));
  });

  it('give the same bits, and the same bad id, on one thread and on several', () => {
    const random = randomFrom(10);
    const tables = Array.from({ length: 7 }, (_, id) =>
      makeTable(id, random, { dim: 1 + Math.floor(random() * 200), rows: 200, format: FORMATS[id % FORMATS.length]! }),
    );
    const segmentOf = (table: Table, numBags: number, maxBag: number): Segment => {
      const bags = Array.from({ length: numBags }, () =>
        Array.from({ length: Math.floor(random() * maxBag) }, () => BigInt(Math.floor(random() * 200))),
      );
      const pooling = POOLING_NAMES[Math.floor(random() * POOLING_NAMES.length)]!;
      return { table, bags, pooling, divisor: random() < 0.5, weights: random() < 0.5 ? bags.flat().map(() => random()) : null };
    };
    // One large table; one long bag; many tables, some without bags. Each is worth several threads.
    const requests = [
      [segmentOf(tables[3]!, 3000, 30)],
      [segmentOf(tables[0]!, 1, 2), segmentOf(tables[1]!, 1, 200_000), segmentOf(tables[2]!, 500, 10)],
      Array.from({ length: 60 }, (_, s) => segmentOf(tables[s % 7]!, s % 4 === 0 ? 0 : 60, 40)),
    ];
    const withBad = requests.flatMap((segments) =>
      [0.1, 0.5, 0.999].map((where) => {
        const ids = segments.reduce((sum, { bags }) => sum + bags.flat().length, 0);
        let at = Math.floor(ids * where);
        const spoiled = segments.map(({ bags, ...rest }) => ({
          ...rest,
          // All ids from there on are bad, so that every thread finds one: the first has to be told.
          bags: bags.map((bag) => bag.map((id) => (at-- > 0 ? id : 200n))),
        }));
        return spoiled;
      }),
    );
    // A child pools every other job on the calling thread.
    const pools = [...requests, ...withBad].flatMap((segments) => [makeJob(segments, 8), makeJob(segments, 8)]);
    const answers = runJobs(isa, { tables: tables.map(plain), pools }, 4).pools;
    for (let n = 0; n < pools.length; n += 2) {
      const [one, several] = [answers[n]!, answers[n + 1]!];
      expect(several.error).toEqual(one.error);
      expect(one.error === undefined).toBe(n / 2 < requests.length);
      if (one.out !== undefined) expect(bitsOf(several.out!)).toBe(bitsOf(one.out));
    }
  });

  it('name the first bad id of many segments', () => {
    const random = randomFrom(9);
    const tables = [5, 64, 300].map((dim, id) => makeTable(id, random, { dim, rows: 10, format: FORMATS[id]! }));
    const bags = [[1n, 9n], [], [3n, 4n, 5n]];
    const cases = Array.from({ length: 30 }, (_, bad) =>
      Array.from({ length: 30 }, (_, s): Segment => {
        const given = s < bad ? bags : [[1n, 9n], [], [3n, s === bad ? 10n : 2n ** 40n, -1n]];
        return { table: tables[s % 3]!, bags: given, ...PLAIN };
      }),
    );
    runJobs(isa, { tables: tables.map(plain), pools: cases.map((segments) => makeJob(segments, 8)) }).pools.forEach(({ error }, n) =>
      expect(error).toMatchObject({ status: 'index_out_of_range', segment: n, bag: 2, position: 3, value: '10', limit: '10' }),
    );
  });

  it('pool one bag of 10^6 ids', () => {
    const random = randomFrom(3);
    const table = makeTable(0, random, { dim: 3, rows: 1000, format: 'fp32' });
    const segments: Segment[] = [
      { table, bags: [Array.from({ length: 1_000_000 }, () => BigInt(Math.floor(random() * 1000)))], pooling: 'mean', weights: null },
    ];
    const { at: _, ...plain } = table;
    expectClose(runJobs(isa, { tables: [plain], pools: [makeJob(segments, 8)] }).pools[0]!.out, reference(segments), 1_000_000);
  });

  it('give the same bits at every prefetch distance, with more rows ahead than are kept, long and empty bags, and rows of 1 to 70 lines', () => {
    const random = randomFrom(11);
    // Rows of int4 and int8 take one line: at the longest distances thousands of them are to be fetched ahead.
    const tables = [1, 9, 17, 33, 65, 129, 257, 1121].map((dim, id) =>
      makeTable(id, random, { dim, rows: 500, format: (['int4', 'int8', 'fp32', 'fp16'] as const)[id % 4]! }),
    );
    const lengths = [3000, 0, 1, 0, 2, 1500, 7];
    const segments = Array.from({ length: 24 }, (_, s): Segment => {
      const table = tables[(s * 3) % tables.length]!;
      const longest = table.dim > 64 ? 60 : 3000;
      const bags =
        s % 5 === 4
          ? [[], []]
          : lengths.map((length) => Array.from({ length: Math.min(length, longest) }, () => BigInt(Math.floor(random() * 500))));
      return { table, bags, pooling: POOLING_NAMES[s % 4]!, weights: s % 3 === 0 ? bags.flat().map(() => random()) : null };
    });
    const spoiled = segments.map((segment, s) => ({
      ...segment,
      bags: segment.bags.map((bag) => bag.map((id) => (s < 20 ? id : 500n + id))),
    }));
    const jobs = { tables: tables.map(plain), pools: [segments, spoiled].map((given) => makeJob(given, 8)) };
    const answers = [0, 1, 128, 2000, 65536].map((lines) => runJobs(isa, { ...jobs, prefetch: { lines, toL2: lines !== 2000 } }).pools);
    expectClose(answers[0]![0]!.out, reference(segments), 3001);
    for (const [whole, bad] of answers) {
      expect(bitsOf(whole!.out!)).toBe(bitsOf(answers[0]![0]!.out!));
      expect(bad!.error).toMatchObject({
        status: 'index_out_of_range',
        segment: 20,
        bag: 0,
        position: 0,
        value: String(spoiled[20]!.bags[0]![0]),
      });
    }
  });

  it('answer every bad id, offset, segment and length with a status, and never crash', () => {
    const random = randomFrom(4);
    const table = makeTable(0, random, { dim: 19, rows: 13, format: 'bf16' });
    const other = makeTable(1, random, { dim: 5, rows: 900, format: 'fp32' });
    const { at: _a, ...first } = table;
    const { at: _b, ...second } = other;
    const good = (): Segment[] => [
      randomSegment(table, random, 20),
      randomSegment(other, random, 20),
      { table, bags: [[1n, 2n], [], [3n]], pooling: 'sum', weights: [1, 2, 3] },
    ];
    const pools: PoolJob[] = [];
    const expected: (string | undefined)[] = [];
    const refused: (bigint | undefined)[] = [];
    for (let n = 0; n < 400; ++n) {
      const segments = good();
      const job = makeJob(segments, 8);
      const last = job.indices.length / 8 - 1;
      const numOffsets = job.offsets.length / 4;
      const ids = new BigInt64Array(job.indices.buffer);
      const offsets = new Uint32Array(job.offsets.buffer);
      const header = new Uint32Array(job.segments.buffer);
      let status: string | undefined;
      let value: bigint | undefined;
      let changed = job;
      switch (n % 11) {
        case 0:
          value = ids[last - 1] = -1n;
          status = 'index_out_of_range';
          break;
        case 1:
          value = ids[last] = 13n;
          status = 'index_out_of_range';
          break;
        case 2:
          value = ids[last] = 2n ** 63n - 1n;
          status = 'index_out_of_range';
          break;
        case 3:
          value = ids[last - 2] = -(2n ** 63n);
          status = 'index_out_of_range';
          break;
        case 4:
          offsets[numOffsets - 2] = 2 ** 32 - 1;
          status = 'bad_offsets';
          break;
        case 5:
          changed = { ...job, offsets: job.offsets.subarray(0, job.offsets.length - 4) };
          status = 'bad_offsets';
          break;
        case 6:
          changed = { ...job, indices: job.indices.subarray(0, job.indices.length - 1 - Math.floor(random() * 20)) };
          break;
        case 7:
          changed = { ...job, outLength: Math.max(0, job.outLength + (random() < 0.5 ? 1 : -1)) };
          status = 'bad_output';
          break;
        case 8:
          header[Math.floor(random() * header.length)] = Math.floor(random() * 2 ** 32);
          break;
        case 9:
          changed = { ...job, weights: null };
          status = 'bad_weights';
          break;
        default:
          changed = { ...job, segments: job.segments.subarray(0, Math.floor(random() * job.segments.length)) };
          break;
      }
      pools.push(changed);
      expected.push(status);
      refused.push(value);
    }
    const answer = runJobs(isa, { tables: [first, second], pools });
    answer.pools.forEach(({ error, out }, n) => {
      if (expected[n] === undefined && n % 11 === 8 && out !== undefined) return; // A random field may happen to be right.
      expect(error?.status, `case ${n % 11}`).toMatch(/^(index_out_of_range|bad_offsets|bad_segments|bad_weights|bad_output)$/);
      if (expected[n] !== undefined) expect(error?.status, `case ${n % 11}`).toBe(expected[n]);
      if (refused[n] === undefined) return;
      expect(error).toMatchObject({ segment: 2, value: String(refused[n]), limit: '13' });
      expect(error?.position).toBe([1, 2, 2, 0][n % 11]);
      expect(error?.bag).toBe([0, 2, 2, 0][n % 11]);
    });
  });
});

describe('loading', () => {
  it('refuses kernels that do not run here and lists the ones that do', () => {
    const others = ['scalar', 'avx2', 'avx512', 'neon'].filter((name) => !availableKernels.includes(name));
    for (const name of ['sse9', 'AVX2', 'scalar ', ...others]) {
      expect(() => runJobs(name, { tables: [] }), name).toThrow(
        new RegExp(`TERABAG_ISA names kernels that do not run here.*have: ${availableKernels.join(', ')}`, 's'),
      );
    }
  });

  it.each([0, 257, -1, 1.5, Number.NaN])('refuses %s threads, and says how many there can be', (threads) => {
    expect(() => runJobs(null, { tables: [] }, threads)).toThrow(`TERABAG_THREADS has to be an integer between 1 and 256: ${threads}`);
  });

  it('takes the best kernels that run here unless told otherwise', () => {
    expect(runJobs(null, { tables: [] }).isa).toBe(availableKernels.at(-1));
    expect(runJobs('', { tables: [] }).isa).toBe(availableKernels.at(-1));
    expect(availableKernels[0]).toBe('scalar');
  });

  it('refuses tables that do not lie in their file', () => {
    const random = randomFrom(5);
    const { at: _, ...table } = makeTable(0, random, { dim: 8, rows: 10, format: 'fp32' });
    for (const lie of [
      { rows: 11 },
      { rows: 2 ** 53 - 1 },
      { dim: 9 },
      { byteOffset: 41 },
      { firstRow: 1 },
      { rowStep: 2 ** 53 - 1 },
      { rows: 0 },
      { rowStep: 0 },
      { byteOffset: 2 ** 53 - 1 },
      { path: join(directory, 'none') },
    ]) {
      expect(() => runJobs(null, { tables: [{ ...table, ...lie }] }), JSON.stringify(lie)).toThrow(/table|rows|dim/);
    }
  });
});
