import { TerabagError } from '../../errors.js';
import type { ModelSpec } from '../../model/spec.js';
import { partRows } from '../../tables/rows.js';
import type { Profile } from '../profile/profile.js';
import { heldRowBytes } from './bytes.js';

/** What a table asks of the shard that holds it. */
export interface TableLoad {
  readonly name: string;
  readonly rows: number;
  /** With the bytes of its key. */
  readonly rowBytes: number;
  readonly bytes: number;
  /** Ids per request. */
  readonly lookups: number;
}

/** The numbers of the shards that hold the parts of each table, part 0 first. */
export type Placement = Map<TableLoad, readonly number[]>;

/** Loads of the spec's tables, in its order, which is the profile's too. */
export function tableLoads(spec: ModelSpec, profile: Profile): TableLoad[] {
  return spec.tables.map((of, table) => {
    const { name, rows } = of;
    const bytes = heldRowBytes(of);
    return { name, rows, rowBytes: bytes, bytes: rows * bytes, lookups: profile.tables[table]?.lookups ?? 0 };
  });
}

export const totalBytes = (tables: readonly TableLoad[]): number => tables.reduce((sum, { bytes }) => sum + bytes, 0);

export const partBytes = (table: TableLoad, parts: number, part: number): number => partRows(table.rows, { part, parts }) * table.rowBytes;

/** The fewest parts of at most so many bytes each; infinite when not even a row fits. */
export function fewestParts(table: TableLoad, bytes: number): number {
  return Math.max(1, Math.ceil(table.rows / Math.floor(bytes / table.rowBytes)));
}

/** An order that does not depend on that of the spec. */
export const byName = (a: TableLoad, b: TableLoad): number => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);

/** room: bytes of this table that could be placed. */
export function doesNotFit(table: TableLoad, room: number, where: string): TerabagError {
  const { name, bytes: need } = table;
  return new TerabagError(
    'does_not_fit',
    `table does not fit on ${where}: ${name} needs ${need} bytes, there is room for ${room}, short by ${need - room}`,
    { table: name, need, room },
  );
}
