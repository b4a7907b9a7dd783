import { SEGMENT_FIELDS, type SparseBatch, segmentFlags } from '../../src/engine/sparse-batch.js';

/**
 * Tables without memory: a row is a function of version, table and row, so that tables may have as many rows as ids have values. Values are small
 * integers, whose sums are exact in float32 whatever their order.
 */
export const DIM = 4;
export const SUM = segmentFlags('sum', { weighted: false, divisor: false, rule: 0 });

export function rowValue(version: number, table: number, row: number, d: number): number {
  let mixed = Math.imul(row ^ 0x5bd1e995, 0x85ebca6b) ^ Math.imul(table + 1, 0xc2b2ae35) ^ Math.imul(version + 1, 0x27d4eb2f);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x2c1b3c6d + 2 * d);
  return ((mixed ^ (mixed >>> 13)) & 0x3fff) - 0x2000;
}

/** Bags of one table. */
export interface Asked {
  readonly table: number;
  /** Rows, by bag. */
  readonly bags: readonly (readonly number[])[];
}

/** What is right: the sums of the rows of each bag, of each table, one after another. */
export function vectorsOf(version: number, asked: readonly Asked[]): Float32Array {
  const values: number[] = [];
  for (const { table, bags } of asked)
    for (const rows of bags)
      for (let d = 0; d < DIM; d++) values.push(rows.reduce((sum, row) => sum + rowValue(version, table, row, d), 0));
  return Float32Array.from(values);
}

export const answerBytesOf = (asked: readonly Asked[]): number => asked.reduce((bags, { bags: { length } }) => bags + length, 0) * DIM * 4;

export function batchOf(asked: readonly Asked[]): SparseBatch {
  const segments = new Uint32Array(asked.length * SEGMENT_FIELDS);
  const offsets = [0];
  const ids: number[] = [];
  asked.forEach(({ table, bags }, at) => {
    segments.set([table, 0, 1, bags.length, SUM], at * SEGMENT_FIELDS);
    for (const rows of bags) {
      for (const row of rows) ids.push(row);
      offsets.push(ids.length);
    }
  });
  const bytes = (values: Uint32Array | Int32Array): Uint8Array => new Uint8Array(values.buffer);
  return {
    segments: bytes(segments),
    indexBytes: 4,
    indices: bytes(Int32Array.from(ids)),
    offsets: bytes(Uint32Array.from(offsets)),
    weights: null,
  };
}
