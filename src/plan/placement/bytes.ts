import { rowBytes } from '../../model/formats.js';
import { countNamed, idRules, namedRows } from '../../model/id-rules.js';
import type { ModelSpec, TableSpec } from '../../model/spec.js';
import { partRows, type RowPart } from '../../tables/rows.js';
import { MAIN_SHARD, type Plan } from '../file/plan.js';
import type { Profile } from '../profile/profile.js';

/** What the index of a keyed table takes for a key, a little less. */
const KEY_BYTES = 16;

/** What a row takes, with its key where the table has them. */
export const heldRowBytes = ({ format, dim, keys }: TableSpec): number => rowBytes(format, dim) + (keys === undefined ? 0 : KEY_BYTES);

export const tableBytes = (table: TableSpec): number => table.rows * heldRowBytes(table);

/** What each part of a split table holds beside its own rows, published, by table: of a keyed one, copies of the rows that its rules name. */
export function copiedBytes(spec: ModelSpec): number[] {
  const { ofTables } = idRules(spec);
  return spec.tables.map(({ keys, format, dim }, t) =>
    keys === undefined ? 0 : countNamed(namedRows(ofTables[t] ?? [])) * rowBytes(format, dim),
  );
}

/** The tables, and parts of row-wise ones, that each shard of a plan holds, published; main after the last. */
export function heldByShards(
  plan: Pick<Plan, 'shards' | 'tables'>,
  spec: ModelSpec,
): Map<string, { readonly table: TableSpec; readonly part: RowPart; readonly bytes: number }[]> {
  const copied = copiedBytes(spec);
  const tables = new Map(spec.tables.map((table, t) => [table.name, { table, copied: copied[t] as number }]));
  const held: ReturnType<typeof heldByShards> = new Map([...plan.shards.map(({ name }) => name), MAIN_SHARD].map((name) => [name, []]));
  for (const { table: name, parts } of plan.tables) {
    const found = tables.get(name);
    if (found === undefined) continue;
    const { table, copied } = found;
    const copies = parts.length === 1 ? 0 : copied;
    for (const [at, shard] of parts.entries()) {
      const part = { part: at, parts: parts.length };
      held.get(shard)?.push({ table, part, bytes: partRows(table.rows, part) * heldRowBytes(table) + copies });
    }
  }
  return held;
}

/** Bytes of what each shard holds, published; of main, with its dense part. */
export function heldBytes(plan: Plan, spec: ModelSpec): Record<string, number> {
  const tableFiles = new Set(spec.tables.flatMap(({ file, keys }) => [file, ...(keys === undefined ? [] : [keys.file])]));
  const dense = Object.entries(spec.files).reduce((sum, [path, { bytes }]) => sum + (tableFiles.has(path) ? 0 : bytes), 0);
  return Object.fromEntries(
    [...heldByShards(plan, spec)].map(([shard, held]) => [
      shard,
      held.reduce((sum, { bytes }) => sum + bytes, shard === MAIN_SHARD ? dense : 0),
    ]),
  );
}

/** What a shard holds, and what a request asks of it. */
export interface ShardSummary {
  readonly shard: string;
  /** Of its replicas; none for main. */
  readonly endpoints: readonly string[];
  /** Tables that it holds whole or a part of. */
  readonly tables: number;
  /** Those among them that are parts of row-wise tables. */
  readonly parts: number;
  readonly bytes: number;
  /** Rows looked up per request; null without a profile. */
  readonly rows: number | null;
}

/** What each shard of a plan holds, main after the last when it holds anything; a part of a row-wise table counts its own rows. */
export function planSummary(plan: Plan, spec: ModelSpec, profile?: Profile): ShardSummary[] {
  const lookups = new Map(spec.tables.map(({ name }, at) => [name, profile?.tables[at]?.lookups ?? 0]));
  const endpoints = new Map(plan.shards.map((shard) => [shard.name, shard.endpoints]));
  return [...heldByShards(plan, spec)].flatMap(([shard, held]): ShardSummary[] => {
    if (shard === MAIN_SHARD && held.length === 0) return [];
    const sum = { bytes: 0, rows: 0 };
    for (const { table, part, bytes } of held) {
      sum.bytes += bytes;
      sum.rows += ((lookups.get(table.name) ?? 0) * partRows(table.rows, part)) / table.rows;
    }
    return [
      {
        ...{ shard, endpoints: endpoints.get(shard) ?? [], tables: held.length, parts: held.filter(({ part }) => part.parts > 1).length },
        ...{ bytes: sum.bytes, rows: profile === undefined ? null : sum.rows },
      },
    ];
  });
}
