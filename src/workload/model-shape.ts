import { type PlainFormat, rowBytes } from '../model/row-format.js';

/** A DLRM to measure with, as data: sizes only, the values follow from the seed. */
export interface ModelShape {
  readonly name: string;
  readonly description: string;
  readonly seed: number;
  /** Numbers of the one dense feature, given per item. */
  readonly denseDim: number;
  /** Outputs of the bottom MLP's layers; the last has to be the tables' dim. */
  readonly bottomMlp: readonly number[];
  /** Outputs of the top MLP's layers; the last is the number of scores per item. */
  readonly topMlp: readonly number[];
  /** Low-rank cross layers over the concatenated vectors (DCNv2) in place of the dot interaction. */
  readonly cross?: { readonly layers: number; readonly rank: number };
  readonly tables: readonly TableShape[];
}

/** A table with the one embedding bag that reads it. */
export interface TableShape {
  readonly name: string;
  /** Below 2^31: ids of synthetic requests are int32. */
  readonly rows: number;
  readonly dim: number;
  readonly format: PlainFormat;
  /** user: one bag per request; item: one per candidate item. */
  readonly side: 'user' | 'item';
  readonly pooling: 'sum' | 'mean';
  readonly weighted: boolean;
  /** Mean number of ids per bag. 1 gives exactly one id; more gives 0 to twice as many, all equally likely. */
  readonly poolingFactor: number;
  /** Exponent of the Zipf distribution of ids; 0 is uniform. */
  readonly skew: number;
}

/** Bytes of all tables of a shape. */
export const shapeBytes = (shape: ModelShape): number =>
  shape.tables.reduce((sum, { rows, dim, format }) => sum + rows * rowBytes(format, dim), 0);

const DEMO_DIM = 64;
const DEMO_TABLES = 26;
/** Each table is smaller than the one before by this factor: a long tail of sizes, as production models have it. */
const DEMO_TAIL = 0.82;
const DEMO_MIN_ROWS = 100;

/** The model of the demo and of the predict bench: 26 tables of dim 64 with a long tail of sizes, together close to the given bytes. */
export function demoShape(tableBytes: number): ModelShape {
  const shares = Array.from({ length: DEMO_TABLES }, (_, table) => DEMO_TAIL ** table);
  const total = shares.reduce((sum, share) => sum + share, 0);
  return {
    name: 'demo',
    description: `${DEMO_TABLES} tables of dim ${DEMO_DIM} with a long tail of sizes; two thirds of the bags are of the user`,
    seed: 20_211,
    denseDim: 13,
    bottomMlp: [256, DEMO_DIM],
    topMlp: [512, 256, 1],
    tables: shares.map((share, table) => ({
      name: `table_${String(table).padStart(2, '0')}`,
      rows: Math.max(DEMO_MIN_ROWS, Math.round((share / total) * (tableBytes / rowBytes('fp32', DEMO_DIM)))),
      dim: DEMO_DIM,
      format: 'fp32',
      side: table % 3 === 2 ? 'item' : 'user',
      pooling: table % 6 === 4 ? 'mean' : 'sum',
      weighted: table % 6 === 3,
      poolingFactor: table % 3 === 2 ? 1 : 10 + 3 * (table % 5),
      skew: 0.8,
    })),
  };
}

/** Rows of the tables of MLPerf's DLRM-DCNv2, the Criteo 1 TB click logs with ids hashed to at most 40 million. */
const CRITEO_ROWS = [
  40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938, 155, 4, 976, 14,
  40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36,
];
const CRITEO_POOLING_FACTORS = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1];

/** The model of MLPerf Inference's DLRM-DCNv2 benchmark, with tables of at most so many rows. */
export function dcnShape(maxRows: number): ModelShape {
  const dim = 128;
  return {
    name: 'dlrm-dcnv2',
    description: '26 tables of dim 128, three cross layers of rank 512 over 27 vectors; the shape of the MLPerf benchmark',
    seed: 20_231,
    denseDim: 13,
    bottomMlp: [512, 256, dim],
    cross: { layers: 3, rank: 512 },
    topMlp: [1024, 1024, 512, 256, 1],
    tables: CRITEO_ROWS.map((rows, table) => ({
      name: `table_${String(table).padStart(2, '0')}`,
      rows: Math.min(rows, maxRows),
      dim,
      format: 'fp32',
      side: 'item',
      pooling: 'sum',
      weighted: false,
      poolingFactor: CRITEO_POOLING_FACTORS[table] ?? 1,
      skew: 0.8,
    })),
  };
}
