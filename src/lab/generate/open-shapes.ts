import { type ModelShape, type TableShape, tableName } from './model-shape.js';

/** Rows of the tables of MLPerf's DLRM-DCNv2, the Criteo 1 TB click logs with ids hashed to at most 40 million. */
const CRITEO_ROWS = [
  40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938, 155, 4, 976, 14,
  40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36,
];
const CRITEO_POOLING_FACTORS = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1];

/** All that a table of an open benchmark leaves out: every bag belongs to an item, is summed without weights and has a fixed size. */
const OPEN_TABLE = { format: 'fp32', side: 'item', pooling: 'sum', weighted: false, bagSizes: 'fixed' } as const;

/**
 * The model of MLPerf Inference's DLRM-DCNv2 benchmark, with tables of at most so many rows. Published: rows, dim, pooling factors, layers.
 * Assumed: how ids recur.
 */
export function dcnShape(maxRows = 40_000_000): ModelShape {
  const dim = 128;
  const tables = CRITEO_ROWS.map(
    (rows, table): TableShape => ({
      ...OPEN_TABLE,
      name: tableName(table),
      rows: Math.min(rows, maxRows),
      dim,
      poolingFactor: CRITEO_POOLING_FACTORS[table] ?? 1,
      reuse: { type: 'zipf', exponent: 0.8 },
    }),
  );
  return {
    name: 'dlrm-dcnv2',
    description: '26 tables of dim 128, three cross layers of rank 512 over 27 vectors; the shape of the MLPerf benchmark',
    seed: 20_231,
    denseDim: 13,
    nets: [
      {
        name: 'dlrm',
        bottomMlp: [512, 256, dim],
        interaction: { type: 'cross', layers: 3, rank: 512 },
        topMlp: [1024, 1024, 512, 256, 1],
        tables,
      },
    ],
  };
}

/**
 * The three DLRMs of Gupta et al. (HPCA 2020) with the sizes that the authors published in DeepRecSys (models/configs/dlrm_rm1..3.json):
 * tables, rows, dim, ids per bag, layers, and concatenation as the interaction. Assumed: how ids recur.
 */
const RMC = {
  rmc1: {
    what: 'small MLPs, few tables, long bags',
    tables: 8,
    rows: 4_000_000,
    dim: 32,
    ids: 80,
    mlps: [
      [128, 64, 32],
      [256, 64, 1],
    ],
  },
  rmc2: {
    what: 'many tables, longest bags',
    tables: 32,
    rows: 500_000,
    dim: 64,
    ids: 120,
    mlps: [
      [256, 128, 64],
      [128, 64, 1],
    ],
  },
  rmc3: {
    what: 'large MLPs',
    tables: 10,
    rows: 2_000_000,
    dim: 32,
    ids: 20,
    mlps: [
      [2560, 1024, 256, 32],
      [512, 256, 1],
    ],
  },
} as const;

export function rmcShape(name: keyof typeof RMC): ModelShape {
  const { what, tables, rows, dim, ids, mlps } = RMC[name];
  const [[denseDim, ...bottomMlp], topMlp] = mlps;
  return {
    name,
    description: `${tables} tables of ${rows} rows, dim ${dim}, ${ids} ids a bag; ${what}`,
    seed: 20_191,
    denseDim,
    nets: [
      {
        name: 'dlrm',
        bottomMlp,
        interaction: { type: 'concat' },
        topMlp,
        tables: Array.from({ length: tables }, (_, table) => ({
          ...OPEN_TABLE,
          name: tableName(table),
          ...{ rows, dim, poolingFactor: ids, reuse: { type: 'trace', year: 2021 } },
        })),
      },
    ],
  };
}
