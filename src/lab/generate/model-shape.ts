import { type PlainFormat, rowBytes } from '../../model/formats.js';
import type { Reuse } from './row-reuse.js';

/** A model to measure with, as data: sizes only, the values follow from the seed. */
export interface ModelShape {
  readonly name: string;
  readonly description: string;
  readonly seed: number;
  /** Numbers of the one dense feature, given per item; 0: the model has none. */
  readonly denseDim: number;
  /** Run in order; each but the first reads the last vector of the one before it, and the last gives the scores. */
  readonly nets: readonly NetShape[];
}

/** A net: bottom MLP over the dense feature, embedding bags, an interaction of all these vectors, top MLP, and on it an MLP for each task. */
export interface NetShape {
  readonly name: string;
  /** Outputs of the bottom MLP's layers; the last has to be the tables' dim. None: the dense feature itself is concatenated. */
  readonly bottomMlp: readonly number[];
  readonly interaction: Interaction;
  /** Outputs of the top MLP's layers; the last is the number of scores per item, or the tables' dim of the next net, unless there are tasks. */
  readonly topMlp: readonly number[];
  /** Of the last net: an MLP each over what the top MLP gives, whose last layer has the task's name. The first gives the scores. */
  readonly tasks?: readonly TaskShape[];
  readonly tables: readonly TableShape[];
}

export interface TaskShape {
  readonly name: string;
  /** Outputs of its layers; the last is the number of values that it gives. */
  readonly mlp: readonly number[];
}

/**
 * Low-rank cross layers (DCNv2) read the concatenated vectors, as the top MLP does after concat. neumf (He et al., 2017): the first half of the
 * tables is multiplied element by element, the top MLP reads the concatenated other half, and one more layer gives a score of both.
 * din and dien (Zhou et al., 2018 and 2019): concat, with what the candidate, which is the table behind that of the sequence, finds of interest in the
 * sequence in place of the sequence: its positions summed by the scores of an MLP, or the last state of an AUGRU over the states of a GRU.
 */
export type Interaction =
  | { readonly type: 'dot' | 'concat' | 'neumf' }
  | { readonly type: 'cross'; readonly layers: number; readonly rank: number }
  /** Outputs of the MLP's layers; the last is 1. */
  | { readonly type: 'din'; readonly attention: readonly number[] }
  | { readonly type: 'dien'; readonly hidden: number };

/** A table with the one layer that reads it: an embedding bag, or a sequence where it has a maxLength. */
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
  /** Mean number of ids per bag. */
  readonly poolingFactor: number;
  readonly bagSizes: BagSizes;
  readonly reuse: Reuse;
  readonly maxLength?: number;
}

/** fixed: as many ids in each bag; spread: 0 to twice as many, all equally likely, but always one at a pooling factor of 1. */
export type BagSizes = 'fixed' | 'spread';

export const tablesOf = (shape: ModelShape): TableShape[] => shape.nets.flatMap(({ tables }) => tables);

/** Bytes of all tables of a shape. */
export const shapeBytes = (shape: ModelShape): number =>
  tablesOf(shape).reduce((sum, { rows, dim, format }) => sum + rows * rowBytes(format, dim), 0);

export const tableName = (table: number): string => `table_${String(table).padStart(table < 100 ? 2 : 3, '0')}`;

/** The shape with something changed in each table. */
export const mapTables = (shape: ModelShape, change: (table: TableShape) => TableShape): ModelShape => ({
  ...shape,
  nets: shape.nets.map((net) => ({ ...net, tables: net.tables.map(change) })),
});

/** A table keeps this many rows, or all it has, at whatever scale. */
const MIN_ROWS = 100;

/** The shape with `scale` times the rows. Tables, dims and pooling stay. */
export const scaleRows = (shape: ModelShape, scale: number): ModelShape =>
  mapTables(shape, (table) => ({ ...table, rows: Math.max(Math.min(table.rows, MIN_ROWS), Math.round(table.rows * scale)) }));

const DEMO_DIM = 64;
const DEMO_TABLES = 26;
/** Each table is smaller than the one before by this factor: a long tail of sizes, as production models have it. */
const DEMO_TAIL = 0.82;

/** The model of the demo and of the shards bench: 26 tables of dim 64 with a long tail of sizes, together close to the given bytes. */
export function demoShape(tableBytes: number): ModelShape {
  const shares = Array.from({ length: DEMO_TABLES }, (_, table) => DEMO_TAIL ** table);
  const total = shares.reduce((sum, share) => sum + share, 0);
  const tables = shares.map(
    (share, table): TableShape => ({
      name: tableName(table),
      rows: Math.max(MIN_ROWS, Math.round((share / total) * (tableBytes / rowBytes('fp32', DEMO_DIM)))),
      dim: DEMO_DIM,
      format: 'fp32',
      side: table % 3 === 2 ? 'item' : 'user',
      pooling: table % 6 === 4 ? 'mean' : 'sum',
      weighted: table % 6 === 3,
      poolingFactor: table % 3 === 2 ? 1 : 10 + 3 * (table % 5),
      bagSizes: 'spread',
      reuse: { type: 'zipf', exponent: 0.8 },
    }),
  );
  return {
    name: 'demo',
    description: `${DEMO_TABLES} tables of dim ${DEMO_DIM} with a long tail of sizes; two thirds of the bags are of the user`,
    seed: 20_211,
    denseDim: 13,
    nets: [{ name: 'dlrm', bottomMlp: [256, DEMO_DIM], interaction: { type: 'dot' }, topMlp: [512, 256, 1], tables }],
  };
}
