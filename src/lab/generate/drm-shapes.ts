import { rowBytes } from '../../model/formats.js';
import { type ModelShape, type NetShape, type TableShape, tableName } from './model-shape.js';

/**
 * DRM1 to DRM3 of Lui et al., "Understanding Capacity-Driven Scale-Out Neural Recommendation Inference" (ISPASS 2021). Numbers of tables and nets,
 * total and largest bytes, and DRM3's one large table with one id a bag are recalled from the paper; all else is assumed, see docs/workloads.md.
 */
const GB = 1e9;
const DIM = 64;
const ROW_BYTES = rowBytes('fp32', DIM);
/** Golden ratio: multiples of it, modulo 1, spread over [0, 1) in an order that has nothing to do with the tables' sizes. */
const GOLDEN = 0.618_033_988_75;
const LONGEST_BAGS = { user: 60, item: 8 } as const;

/** Sizes that fall by one factor from the largest to the smallest and have the given sum: a long tail. */
function longTail(count: number, total: number, largest: number): number[] {
  let [low, high] = [0, 1];
  const sum = (factor: number): number => (factor === 1 ? count : (1 - factor ** count) / (1 - factor)) * largest;
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (sum(middle) < total) low = middle;
    else high = middle;
  }
  return Array.from({ length: count }, (_, index) => largest * low ** index);
}

/** Two tables of three are the user's. Pooling factors are log-uniform over the tables, from 1 to 60 on the user's side, 8 on the items'. */
function drmTable(bytes: number, table: number): TableShape {
  const side = table % 3 === 2 ? 'item' : 'user';
  return {
    name: tableName(table),
    rows: Math.round(bytes / ROW_BYTES),
    dim: DIM,
    format: 'fp32',
    side,
    pooling: 'sum',
    weighted: false,
    poolingFactor: Math.round(LONGEST_BAGS[side] ** ((table * GOLDEN) % 1)),
    bagSizes: 'spread',
    reuse: { type: 'trace', year: 2021 },
  };
}

/** The nets of a model of two take its tables in turn, so that both have large and small ones; the second reads the first one's vector. */
function nets(names: readonly string[], hidden: readonly number[], tables: readonly TableShape[]): NetShape[] {
  return names.map((name, net) => ({
    name,
    bottomMlp: [256, 128, DIM],
    interaction: { type: 'dot' },
    topMlp: [...hidden, net === names.length - 1 ? 1 : DIM],
    tables: tables.filter((_, table) => table % names.length === net),
  }));
}

const DENSE_DIM = 256;

export const drm1Shape = (): ModelShape => ({
  name: 'drm1',
  description: '257 tables with a long tail of sizes, 194 GB, the largest 3.6 GB; two nets',
  seed: 20_201,
  denseDim: DENSE_DIM,
  nets: nets(['first', 'second'], [256, 128], longTail(257, 194 * GB, 3.6 * GB).map(drmTable)),
});

export const drm2Shape = (): ModelShape => ({
  name: 'drm2',
  description: '133 tables with a long tail of sizes, 138 GB, the largest 6.7 GB; two nets',
  seed: 20_202,
  denseDim: DENSE_DIM,
  nets: nets(['first', 'second'], [512, 256], longTail(133, 138 * GB, 6.7 * GB).map(drmTable)),
});

const DRM3_LARGEST = 178.8 * GB;

export const drm3Shape = (): ModelShape => ({
  name: 'drm3',
  description: '39 tables, 200 GB, of which one table with one id a bag has 178.8 GB; one net',
  seed: 20_203,
  denseDim: DENSE_DIM,
  nets: nets(
    ['dlrm'],
    [512, 256],
    [DRM3_LARGEST, ...longTail(38, 200 * GB - DRM3_LARGEST, 3 * GB)]
      .map(drmTable)
      .map((table, index) => (index === 0 ? { ...table, side: 'user', poolingFactor: 1 } : table)),
  ),
});
