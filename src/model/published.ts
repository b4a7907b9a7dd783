import { TerabagError } from '../errors.js';
import { partRows, type RowPart } from '../tables/rows.js';
import { modelHash } from './hash.js';
import { countNamed, idRules, namedRows } from './id-rules.js';
import type { FileSpec, ModelSpec, TableSpec } from './spec.js';

/** What a bundle holds of a table: all of it, or, when it was published for a shard, that shard's part. */
export interface HeldTable extends RowPart {
  readonly spec: TableSpec;
  /** Rows of the part. */
  readonly rows: number;
  /** Copies behind them of the rows that rules name; none but in parts of keyed tables. */
  readonly fallbackRows: number;
  readonly file: string;
  readonly tensor: string;
  /** As in TableSpec; null where the file's header says where the rows are. */
  readonly byteOffset: number | null;
  /** The index of a keyed table, or of the part; null of others. */
  readonly keys: NonNullable<TableSpec['keys']> | null;
}

/** Aligned with spec.tables; null where a published bundle holds nothing of a table. */
export function heldTables(spec: ModelSpec): (HeldTable | null)[] {
  if (spec.published === undefined)
    return spec.tables.map((table) => {
      const { rows, file, tensor, byteOffset = null, keys = null } = table;
      return { spec: table, part: 0, parts: 1, rows, fallbackRows: 0, file, tensor, byteOffset, keys };
    });
  const parts = new Map(spec.published.parts.map((held) => [held.table, held]));
  return spec.tables.map((table) => {
    const held = parts.get(table.name);
    if (held === undefined) return null;
    return { ...held, fallbackRows: held.fallbackRows ?? 0, spec: table, byteOffset: null, keys: held.keys ?? null };
  });
}

/** The files that lie in the bundle. */
export const ownFiles = (spec: ModelSpec): Readonly<Record<string, FileSpec>> => spec.published?.files ?? spec.files;

/** Refuses a published spec that does not fit the model that it was made of (bad_model). */
export function checkPublished(spec: ModelSpec): void {
  const { published } = spec;
  if (published === undefined) return;
  const bad = (what: string): TerabagError => new TerabagError('bad_model', `model.json: published: ${what}`, { shard: published.shard });
  const hash = modelHash(spec);
  if (published.source !== hash)
    throw bad(`the model has another hash than its source (edited?): ${hash.slice(0, 12)}, source ${published.source.slice(0, 12)}`);
  const tables = new Map(spec.tables.map((table) => [table.name, table]));
  const named = namedByTable(spec);
  const seen = new Set<string>();
  for (const { table, part, parts, rows, fallbackRows = 0, keys } of published.parts) {
    const source = tables.get(table);
    if (source === undefined) throw bad(`no such table: ${table}`);
    if (seen.has(table)) throw bad(`two parts of one table: ${table}`);
    seen.add(table);
    if (part >= parts || parts > source.rows) throw bad(`no such part: ${part} of ${parts} of table ${table}, rows ${source.rows}`);
    if ((keys === undefined) !== (source.keys === undefined))
      throw bad(`table ${table} is ${source.keys === undefined ? 'not ' : ''}keyed, its part is ${keys === undefined ? 'not' : 'keyed'}`);
    // How many keys belong to a part is not known without them.
    const expected = source.keys !== undefined && parts > 1 ? Math.min(rows, source.rows) : partRows(source.rows, { part, parts });
    if (rows !== expected) throw bad(`part ${part} of ${parts} of table ${table} has ${rows} rows, expected ${expected}`);
    const fallback = source.keys !== undefined && parts > 1 ? (named.get(table) ?? 0) : 0;
    if (fallbackRows !== fallback)
      throw bad(`part ${part} of ${parts} of table ${table} has ${fallbackRows} rows for ids that it does not have, expected ${fallback}`);
  }
}

/** How many rows the rules of each table name. */
function namedByTable(spec: ModelSpec): ReadonlyMap<string, number> {
  const { ofTables } = idRules(spec);
  return new Map(spec.tables.map(({ name }, t) => [name, countNamed(namedRows(ofTables[t] ?? []))]));
}
