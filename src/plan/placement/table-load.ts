import { TerabagError } from '../../errors.js';
import type { ModelSpec } from '../../model/spec.js';
import { partRows } from '../../tables/rows.js';
import type { Profile } from '../profile/profile.js';
import { copiedBytes, heldRowBytes } from './bytes.js';

/** What a table asks of the shard that holds it. */
export interface TableLoad {
  readonly name: string;
  readonly rows: number;
  /** With the bytes of its key. */
  readonly rowBytes: number;
  readonly bytes: number;
  /** What each part holds beside its own rows where the table is split. */
  readonly copiedBytes: number;
  /** Ids per request. */
  readonly lookups: number;
}

/** The numbers of the shards that hold the parts of each table, part 0 first. */
export type Placement = Map<TableLoad, readonly number[]>;

/** Loads of the spec's tables, in its order, which is the profile's too. */
export function tableLoads(spec: ModelSpec, profile: Profile): TableLoad[] {
  const copied = copiedBytes(spec);
  return spec.tables.map((of, table) => {
    const { name, rows } = of;
    const bytes = heldRowBytes(of);
    const lookups = profile.tables[table]?.lookups ?? 0;
    return { name, rows, rowBytes: bytes, bytes: rows * bytes, copiedBytes: copied[table] as number, lookups };
  });
}

export const totalBytes = (tables: readonly TableLoad[]): number => tables.reduce((sum, { bytes }) => sum + bytes, 0);

const copiesIn = ({ copiedBytes: bytes }: TableLoad, parts: number): number => (parts === 1 ? 0 : bytes);

/** Of the rows that are the part's own. */
export const ownBytes = ({ rows, rowBytes }: TableLoad, parts: number, part: number): number => partRows(rows, { part, parts }) * rowBytes;

export const partBytes = (table: TableLoad, parts: number, part: number): number => ownBytes(table, parts, part) + copiesIn(table, parts);

/** Own rows that so many parts of at most so many bytes each have room for. */
export function roomInParts(table: TableLoad, parts: number, bytes: number): number {
  return parts * Math.floor(Math.max(0, bytes - copiesIn(table, parts)) / table.rowBytes) * table.rowBytes;
}

/** The fewest parts of at most so many bytes each; infinite when not even a row fits. */
export function fewestParts(table: TableLoad, bytes: number): number {
  if (table.bytes <= bytes) return 1;
  return Math.ceil(table.rows / Math.floor(Math.max(0, bytes - table.copiedBytes) / table.rowBytes));
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
