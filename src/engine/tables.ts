import { TerabagError } from '../errors.js';
import type { Bundle } from '../model/bundle.js';
import type { EngineTable } from './sparse-engine.js';

/** The engine's tables of an open bundle; partsOf says which parts of a table (by index) are held here. */
export function engineTables(
  bundle: Bundle,
  partsOf: (table: number) => readonly { readonly part: number; readonly parts: number }[],
): EngineTable[] {
  return bundle.tables.flatMap((open, table) =>
    partsOf(table).map(({ part, parts }) => {
      if (open === null) throw new TerabagError('bad_table', `table was not opened: ${bundle.spec.tables[table]?.name}`);
      const { name, dim, format, rows } = open.spec;
      return {
        name,
        table,
        part,
        parts,
        dim,
        format,
        path: open.path,
        byteOffset: open.byteOffset,
        rows: Math.ceil((rows - part) / parts),
        firstRow: part,
        rowStep: parts,
      };
    }),
  );
}
