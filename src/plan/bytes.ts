import { rowBytes } from '../model/row-format.js';
import type { ModelSpec, TableSpec } from '../model/spec.js';
import type { Plan } from './plan.js';

export const tableBytes = (table: TableSpec): number => table.rows * rowBytes(table.format, table.dim);

/** What each shard of a plan holds; a part of a row-wise table counts its own rows. */
export function planSummary(plan: Plan, spec: ModelSpec): { shard: string; endpoint: string; tables: number; bytes: number }[] {
  const tables = new Map(spec.tables.map((table) => [table.name, table]));
  return plan.shards.map(({ name, endpoints }) => {
    const held = plan.tables.flatMap(({ table, parts }) => {
      const spec = tables.get(table);
      return spec === undefined
        ? []
        : parts.flatMap((shard, part) =>
            shard === name ? [(tableBytes(spec) / spec.rows) * Math.ceil((spec.rows - part) / parts.length)] : [],
          );
    });
    return { shard: name, endpoint: endpoints[0] ?? '', tables: held.length, bytes: held.reduce((sum, bytes) => sum + bytes, 0) };
  });
}
