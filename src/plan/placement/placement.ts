import type { ModelSpec } from '../../model/spec.js';
import { MAIN_SHARD, type Plan } from '../file/plan.js';
import { heldByShards } from './bytes.js';

/** Where the tables of a model lie: what a plan says, with what each table takes. */
export interface Placement {
  readonly tables: readonly PlacedTable[];
  /** In the plan's order; main before them when it holds any. */
  readonly shards: readonly PlacedShard[];
}

export interface PlacedTable {
  readonly name: string;
  readonly rows: number;
  readonly dim: number;
  readonly format: string;
  /** Names of the bags and sequence layers that read it. */
  readonly bags: readonly string[];
}

export interface PlacedShard {
  readonly name: string;
  readonly held: readonly HeldPart[];
}

/** A table, or of one that is split by rows a part. */
export interface HeldPart {
  /** Position of the table. */
  readonly table: number;
  readonly part: number;
  readonly parts: number;
  readonly bytes: number;
}

/** Without a plan main holds everything. */
export function placementOf(spec: ModelSpec, plan: Pick<Plan, 'shards' | 'tables'> | null): Placement {
  const { shards, tables } = plan ?? { shards: [], tables: spec.tables.map(({ name }) => ({ table: name, parts: [MAIN_SHARD] })) };
  const position = new Map(spec.tables.map(({ name }, table) => [name, table]));
  const bags = spec.tables.map((): string[] => []);
  for (const layer of spec.nets.flatMap(({ layers }) => layers))
    if ('table' in layer) bags[position.get(layer.table) ?? -1]?.push(layer.name);
  const held = heldByShards({ shards, tables }, spec);
  const main = held.get(MAIN_SHARD)?.length ? [MAIN_SHARD] : [];
  return {
    tables: spec.tables.map(({ name, rows, dim, format }, table) => ({ name, rows, dim, format, bags: bags[table] as string[] })),
    shards: [...main, ...shards.map(({ name }) => name)].map((name) => ({
      name,
      held: (held.get(name) ?? []).map(({ table, part, bytes }) => ({ table: position.get(table.name) as number, ...part, bytes })),
    })),
  };
}
