import { idRules, type NamedRows, namedRows } from '../../../model/id-rules.js';
import type { ModelSpec } from '../../../model/spec.js';
import { rowsInBlock } from '../../../tables/blocks.js';

/** The rows of a keyed table that its rules name, which each of its parts holds too. */
export const namedRowsOf = (spec: ModelSpec, table: number): NamedRows => namedRows(idRules(spec).ofTables[table] ?? []);

/** Rows that follow one another, at most as many as a block has room for. */
export interface RowRun {
  readonly firstRow: number;
  readonly count: number;
}

/** Where they lie in the source, in the order in which parts hold them. */
export function* namedRuns({ buckets, others }: NamedRows, rowBytes: number): Generator<RowRun> {
  const atOnce = rowsInBlock(rowBytes);
  for (let firstRow = 0; firstRow < buckets; firstRow += atOnce) yield { firstRow, count: Math.min(atOnce, buckets - firstRow) };
  for (const firstRow of others) yield { firstRow, count: 1 };
}
