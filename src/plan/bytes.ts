import { rowBytes } from '../model/row-format.js';
import type { ModelSpec, TableSpec } from '../model/spec.js';
import { MAIN_SHARD, type Plan } from './plan.js';
import type { Profile } from './profile.js';
import { partRows } from './table-load.js';

export const tableBytes = (table: TableSpec): number => table.rows * rowBytes(table.format, table.dim);

/** What a shard holds, and what a request asks of it. */
export interface ShardSummary {
  readonly shard: string;
  /** Empty for main. */
  readonly endpoint: string;
  /** Tables that it holds whole or a part of. */
  readonly tables: number;
  /** Of these, parts of row-wise tables. */
  readonly parts: number;
  readonly bytes: number;
  /** Rows looked up per request; null without a profile. */
  readonly rows: number | null;
}

/** What each shard of a plan holds, main after the last when it holds anything; a part of a row-wise table counts its own rows. */
export function planSummary(plan: Plan, spec: ModelSpec, profile?: Profile): ShardSummary[] {
  const loads = new Map(spec.tables.map((table, index) => [table.name, { table, lookups: profile?.tables[index]?.lookups ?? 0 }]));
  const empty = { tables: 0, parts: 0, bytes: 0, rows: 0 };
  const held = new Map([...plan.shards.map(({ name }) => name), MAIN_SHARD].map((name) => [name, { ...empty }]));
  for (const { table, parts } of plan.tables) {
    const load = loads.get(table);
    if (load === undefined) continue;
    const { rows, dim, format } = load.table;
    parts.forEach((name, part) => {
      const sum = held.get(name);
      if (sum === undefined) return;
      const ownRows = partRows(rows, parts.length, part);
      sum.tables++;
      sum.parts += parts.length > 1 ? 1 : 0;
      sum.bytes += ownRows * rowBytes(format, dim);
      sum.rows += (load.lookups * ownRows) / rows;
    });
  }
  const summary = (shard: string, endpoint: string): ShardSummary => {
    const { rows, ...rest } = held.get(shard) ?? empty;
    return { shard, endpoint, ...rest, rows: profile === undefined ? null : rows };
  };
  const shards = plan.shards.map(({ name, endpoints }) => summary(name, endpoints[0] ?? ''));
  const main = summary(MAIN_SHARD, '');
  return main.tables > 0 ? [...shards, main] : shards;
}
