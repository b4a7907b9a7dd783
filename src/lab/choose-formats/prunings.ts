import type { OpenTable } from '../../model/bundle.js';
import { dtypeOf, rowBytes } from '../../model/formats.js';
import type { ModelSpec, TableSpec } from '../../model/spec.js';
import type { UnseenSpec } from '../../model/unseen.js';
import { KeptRows, MOST_READS } from '../../pack/kept-rows.js';
import { type Pruning, readersOf, rowsOfPolicies } from '../../pack/prune-table.js';
import { openToRead, readBlocks, rowsInBlock } from '../../tables/blocks.js';
import { type FloatDtype, toFloat32 } from '../../tables/float-tensors.js';
import { BUCKET_BYTES, homesOf, MAX_KEYS } from '../../tables/key-index.js';

/** Rows that are read less often are left out. */
export const TRIED_READS: readonly number[] = [1, 2, 4, 8, 16];

/** Of keys that all lie in their homes. */
export const keyBytes = (keys: number): number => homesOf(keys) * BUCKET_BYTES;

/** Whether what a table, or a layer that reads it, says of ids it does not have can stay as it is when rows are left out. */
export function prunable(spec: ModelSpec, tables: readonly TableSpec[]): boolean {
  const [first] = tables;
  return tables.every((table) => {
    const readers = readersOf(spec, table.name);
    // Who says so wants to be told of ids without a row.
    if (readers.some(({ unseen }) => unseen?.policy === 'reject')) return false;
    const sameKeys = table.keys?.file === first?.keys?.file && table.keys?.tensor === first?.keys?.tensor;
    return sameKeys && rowsOfPolicies(spec, table).buckets < table.rows;
  });
}

const says = ({ unseen }: { readonly unseen?: UnseenSpec | undefined }): boolean => unseen !== undefined && unseen.policy !== 'reject';

/** Tables for whose ids nobody says what becomes of those without a row. */
const freeTables = (spec: ModelSpec, tables: readonly TableSpec[]): TableSpec[] =>
  tables.filter((table) => !says(table) && readersOf(spec, table.name).some((reader) => !says(reader)));

/** Of a sum a row of zeros is as good as none. */
function skipDiffers(spec: ModelSpec, tables: readonly TableSpec[]): boolean {
  const readers = tables.flatMap(({ name }) => readersOf(spec, name)).filter((reader) => !says(reader));
  return readers.some((reader) => reader.type !== 'embedding_bag' || reader.pooling !== 'sum');
}

/** A table that says itself what becomes of ids without a row keeps to that. */
export const pruningOf = (table: TableSpec, { kept, unseen }: Pruning): Pruning => ({ kept, unseen: says(table) ? null : unseen });

/** Rows that are named by policies count as read often; of a table that is never read one row is kept. */
export function keepNamed(spec: ModelSpec, tables: readonly TableSpec[], reads: Uint8Array): void {
  for (const table of tables) {
    const { buckets, others } = rowsOfPolicies(spec, table);
    reads.fill(MOST_READS, 0, buckets);
    for (const row of others) reads[row] = MOST_READS;
  }
  if (reads.every((count) => count === 0)) reads[0] = MOST_READS;
}

export interface PruneOptions {
  readonly reads: Uint8Array;
  /** Ascending. */
  readonly thresholds: readonly number[];
}

/** The ways to prune tables of one tensor that make it smaller as it is, threshold by threshold. */
export async function prunings(
  spec: ModelSpec,
  tables: readonly TableSpec[],
  stored: OpenTable,
  { reads, thresholds }: PruneOptions,
): Promise<Pruning[]> {
  const { rows, dim, format } = stored.spec;
  const width = rowBytes(format, dim);
  const before = rows * width + (stored.index?.bytes ?? 0);
  const tried: KeptRows[] = [];
  for (const atLeast of thresholds) {
    const kept = new KeptRows(reads, atLeast);
    if (kept.count === 0 || kept.count > MAX_KEYS || kept.count === tried.at(-1)?.count) continue;
    if (kept.count < rows && kept.count * width + keyBytes(kept.count) < before) tried.push(kept);
  }
  const free = freeTables(spec, tables);
  if (free.length === 0) return tried.map((kept) => ({ kept, unseen: null }));
  const means = await meansOfDropped(stored, reads, tried);
  const skips: UnseenSpec[] = skipDiffers(spec, free) ? [{ policy: 'skip' }] : [];
  return tried.flatMap((kept, at): Pruning[] =>
    [{ policy: 'zero' } as const, ...skips, { policy: 'default', vector: means[at] as number[] } as const].map((unseen) => ({
      kept,
      unseen,
    })),
  );
}

/** Sums over rows, and what they are divided by. */
interface Sums {
  readonly values: Float64Array;
  rows: number;
  /** The same with each row as often as it was read. */
  readonly readValues: Float64Array;
  reads: number;
}

/** Of the rows that are left out, for each threshold: their mean weighted by how often they were read, or, where none was, their mean. */
async function meansOfDropped(stored: OpenTable, reads: Uint8Array, tried: readonly KeptRows[]): Promise<number[][]> {
  const { rows, dim, format } = stored.spec;
  const sums = tried.map((): Sums => ({ values: new Float64Array(dim), rows: 0, readValues: new Float64Array(dim), reads: 0 }));
  const most = tried.at(-1)?.atLeast ?? 0;
  const file = await openToRead(stored.path);
  try {
    const width = stored.rowBytes;
    const blocks = readBlocks(file, stored.path, { from: stored.byteOffset, bytes: rows * width }, rowsInBlock(width) * width);
    let row = 0;
    for await (const { memory, bytes } of blocks) {
      const values = toFloat32(dtypeOf(format) as FloatDtype, memory.slice(0, bytes));
      for (let at = 0; at < values.length; at += dim, row++) {
        const count = reads[row] as number;
        // In the sums of the first threshold that it is under; those of the others follow.
        if (count < most) addRow(sums[tried.findIndex(({ atLeast }) => count < atLeast)] as Sums, values.subarray(at, at + dim), count);
      }
    }
  } finally {
    await file.close();
  }
  const [values, readValues] = [new Float64Array(dim), new Float64Array(dim)];
  let [numRows, numReads] = [0, 0];
  return sums.map((sum) => {
    for (let d = 0; d < dim; d++) {
      values[d] = (values[d] as number) + (sum.values[d] as number);
      readValues[d] = (readValues[d] as number) + (sum.readValues[d] as number);
    }
    numRows += sum.rows;
    numReads += sum.reads;
    return numReads === 0 ? meanOf(values, numRows) : meanOf(readValues, numReads);
  });
}

function addRow(sum: Sums, row: Float32Array, reads: number): void {
  for (const [d, value] of row.entries()) {
    sum.values[d] = (sum.values[d] as number) + value;
    sum.readValues[d] = (sum.readValues[d] as number) + reads * value;
  }
  sum.rows++;
  sum.reads += reads;
}

/** In float32: model.json says what the row has. */
const meanOf = (sums: Float64Array, count: number): number[] => Array.from(sums, (sum) => Math.fround(sum / count));
