import type { ResolvedBag } from '../../src/model/graph.js';
import { REJECTS } from '../../src/model/id-rules.js';

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
  rule: REJECTS,
  net: 0,
} as const satisfies ResolvedBag;
