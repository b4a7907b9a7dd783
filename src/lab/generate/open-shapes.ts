import { type ModelShape, type TableShape, tableName } from './model-shape.js';

/**
 * Rows and ids per bag of the tables of MLPerf's DLRM-DCNv2, the Criteo 1 TB click logs with ids hashed to at most 40 million: --multi_hot_sizes and
 * --num_embeddings_per_feature of github.com/mlcommons/training, recommendation_v2/torchrec_dlrm.
 */
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

/** A table of DeepRecSys's models: one id a bag. */
const oneIdTable = (rows: number, dim: number, side: 'user' | 'item', table: number): TableShape => ({
  ...OPEN_TABLE,
  ...{ name: tableName(table), rows, dim, side, poolingFactor: 1, reuse: { type: 'trace', year: 2021 } },
});

/**
 * Neural collaborative filtering (He et al., WWW 2017) as NeuMF, with the sizes of DeepRecSys (models/configs/ncf.json). Assumed: that the two larger
 * tables are the user's, and the two smaller ones the items', as in MovieLens 20M; how ids recur.
 */
export function ncfShape(): ModelShape {
  const [users, items, dim] = [140_000, 28_000, 64];
  return {
    name: 'ncf',
    description: '2 tables of users and 2 of items, dim 64: a product of two vectors beside an MLP over two others',
    seed: 20_171,
    denseDim: 0,
    nets: [
      {
        name: 'ncf',
        bottomMlp: [],
        interaction: { type: 'neumf' },
        topMlp: [256, 256, 128, 64],
        tables: [0, 1, 2, 3].map((table) => oneIdTable(table % 2 === 0 ? users : items, dim, table % 2 === 0 ? 'user' : 'item', table)),
      },
    ],
  };
}

/** Of DeepRecSys's networks of interest: the table of a sequence, which has all its positions. */
const sequenceTable = (rows: number, dim: number, positions: number, table: number): TableShape => ({
  ...oneIdTable(rows, dim, 'user', table),
  ...{ poolingFactor: positions, maxLength: positions },
});

/**
 * Deep interest network (Zhou et al., KDD 2018) with the sizes of DeepRecSys (models/configs/din.json), whose tables are the user's, the behaviours',
 * the candidate's and the context's. Recalled: the layers of the attention. Assumed: the behaviours as one sequence of the user over one table; how
 * ids recur.
 */
export function dinShape(): ModelShape {
  const [dim, behaviours, ids] = [32, 250, 3];
  const [user, items, candidates, context] = [1_000_000, 100_000, 10_000_000, 10_000_000];
  const bag = (rows: number, side: 'user' | 'item', table: number): TableShape => ({
    ...oneIdTable(rows, dim, side, table),
    poolingFactor: ids,
  });
  return {
    name: 'din',
    description: `4 tables, dim ${dim}, ${ids} ids a bag: a candidate attends to ${behaviours} behaviours of the user`,
    seed: 20_181,
    denseDim: 0,
    nets: [
      {
        name: 'din',
        bottomMlp: [],
        interaction: { type: 'din', attention: [80, 40, 1] },
        topMlp: [200, 80, 2],
        tables: [bag(user, 'user', 0), sequenceTable(items, dim, behaviours, 1), bag(candidates, 'item', 2), bag(context, 'item', 3)],
      },
    ],
  };
}

/**
 * Deep interest evolution network (Zhou et al., AAAI 2019) with the sizes of DeepRecSys (models/configs/dien.json), in which 40 of 43 tables are the
 * behaviours'. Assumed: as of din; that the MLP reads the dense features.
 */
export function dienShape(): ModelShape {
  const [dim, behaviours, hidden] = [32, 40, 64];
  const [user, items, candidates, context] = [500_000, 500_000, 5_000_000, 5_000_000];
  return {
    name: 'dien',
    description: `4 tables, dim ${dim}: a GRU and an AUGRU of ${hidden} over ${behaviours} behaviours of the user, beside ${WIDE_DENSE_DIM} dense features`,
    seed: 20_193,
    denseDim: WIDE_DENSE_DIM,
    nets: [
      {
        name: 'dien',
        bottomMlp: [],
        interaction: { type: 'dien', hidden },
        topMlp: [200, 80, 2],
        tables: [
          oneIdTable(user, dim, 'user', 0),
          sequenceTable(items, dim, behaviours, 1),
          oneIdTable(candidates, dim, 'item', 2),
          oneIdTable(context, dim, 'item', 3),
        ],
      },
    ],
  };
}

const WIDE_DENSE_DIM = 512;
const WIDE_DIM = 32;

/**
 * Wide & Deep (Cheng et al., 2016) as DeepRecSys has it (models/configs/wide_and_deep.json): dense features and bags of one id side by side are what
 * the MLP reads. Assumed: that one table of three is the user's; how ids recur.
 */
export function wideAndDeepShape(): ModelShape {
  const tables = 27;
  return {
    name: 'wide-and-deep',
    description: `${tables} tables of a million rows, dim ${WIDE_DIM}, one id a bag, beside ${WIDE_DENSE_DIM} dense features`,
    seed: 20_161,
    denseDim: WIDE_DENSE_DIM,
    nets: [
      {
        name: 'wide_and_deep',
        bottomMlp: [],
        interaction: { type: 'concat' },
        topMlp: [1024, 512, 256, 1],
        tables: wideTables(new Array(tables).fill(1_000_000)),
      },
    ],
  };
}

/**
 * Wide & Deep of several tasks as DeepRecSys has it (models/configs/mtwnd.json): a shared MLP, and one each task. Assumed: three tasks, whose MLPs
 * end in one score more than the published layers; the user's tables; how ids recur.
 */
export function multiTaskShape(): ModelShape {
  const rows = [...new Array(41).fill(500_000), 5_000_000, 5_000_000];
  return {
    name: 'multi-task-wide-and-deep',
    description: `${rows.length} tables, dim ${WIDE_DIM}, one id a bag, beside ${WIDE_DENSE_DIM} dense features; three tasks over one MLP`,
    seed: 20_192,
    denseDim: WIDE_DENSE_DIM,
    nets: [
      {
        name: 'wide_and_deep',
        bottomMlp: [],
        interaction: { type: 'concat' },
        topMlp: [1024, 512],
        tasks: [0, 1, 2].map((task) => ({ name: `task_${task}`, mlp: [256, 128, 1] })),
        tables: wideTables(rows),
      },
    ],
  };
}

const wideTables = (rows: readonly number[]): TableShape[] =>
  rows.map((count, table) => oneIdTable(count, WIDE_DIM, table % 3 === 0 ? 'user' : 'item', table));
