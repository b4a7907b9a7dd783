import type { ResolvedBag } from '../../src/model/graph.js';

/** A resolved bag of one table of ten rows, for tests that care about some of its fields. */
export const PLAIN_BAG = {
  name: 'bag',
  table: 0,
  tableName: 'table',
  dim: 1,
  rows: 10,
  pooling: 'sum',
  weighted: false,
  leavesOut: false,
  net: 0,
} as const satisfies ResolvedBag;
