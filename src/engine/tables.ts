import { statfs } from 'node:fs/promises';
import { release } from 'node:os';
import { oneOf, TerabagError } from '../errors.js';
import { type Bundle, bytesToCheck, checkOpened } from '../model/bundle.js';
import { VERIFIES, type Verify } from '../model/bundle-files.js';
import { type IdRule, idRules, namedRows, ruleOfKeyedPart, ruleOfPart } from '../model/id-rules.js';
import { partRows, type RowPart } from '../tables/rows.js';
import { holdsHugePages, liesOnHugePages, type Residency, type ResidencyReport } from './residency.js';
import { type EngineTable, SparseEngine } from './sparse-engine.js';

/** All that an open bundle holds, and was opened of it. */
export const everyPart =
  ({ tables }: Bundle) =>
  (table: number): readonly RowPart[] =>
    tables[table] ? [tables[table]] : [];

/**
 * The engine's tables of an open bundle; partsOf says which parts of a table (by index) are held here. A part of a table that lies whole in the
 * bundle is mapped with a pitch of `parts` rows; one that was published as a file of its own lies row after row. A part of a keyed table that lies
 * whole in the bundle is all of it.
 */
export function engineTables(bundle: Bundle, partsOf: (table: number) => readonly RowPart[]): EngineTable[] {
  const { ofTables } = idRules(bundle.spec);
  return bundle.tables.flatMap((open, table) =>
    partsOf(table).map((wanted) => {
      if (open === null) throw notHeld(bundle, table, wanted);
      const { part, parts } = wanted;
      const published = open.part === part && open.parts === parts;
      if (!published && open.parts !== 1) throw notHeld(bundle, table, wanted);
      const { name, dim, format } = open.spec;
      const { index } = open;
      // Of an index that is whole, each part finds its keys among all.
      const rows = index === null ? partRows(open.spec.rows, wanted) : open.rows;
      const pitched = index === null && !published;
      const rules = ofTables[table] as readonly IdRule[];
      return {
        name,
        table,
        part,
        parts,
        dim,
        format,
        path: open.path,
        byteOffset: open.byteOffset,
        rows,
        fallbackRows: open.fallbackRows,
        firstRow: pitched ? part : 0,
        rowStep: pitched ? parts : 1,
        keys: index,
        rules: rules.map((rule) => {
          if (parts === 1) return rule;
          if (index === null) return ruleOfPart(rule);
          return published ? ruleOfKeyedPart(rule, rows, namedRows(rules)) : rule;
        }),
      };
    }),
  );
}

function notHeld({ spec, dir }: Bundle, table: number, { part, parts }: RowPart): TerabagError {
  const name = spec.tables[table]?.name ?? '';
  const what = `${parts === 1 ? 'table' : `part ${part} of ${parts} of table`} ${name}`;
  return new TerabagError(
    'bad_table',
    spec.published === undefined
      ? `table was not opened: ${name}`
      : `bundle does not hold ${what}, it was published for shard ${spec.published.shard}: ${dir}`,
    { table: name, part, parts },
  );
}

export interface OpenTablesOptions {
  /** Default populate. */
  readonly residency?: Residency;
  /** How the bundle's opened files are checked; default full. */
  readonly verify?: Verify;
  /** Bytes brought into memory and checked. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Told once when much of the tables lies on small pages, with what to do about it. Default: a warning of the process. */
  readonly onWarning?: (message: string) => void;
}

export interface OpenedTables {
  readonly engine: SparseEngine;
  /** As it was after opening; null where the system does not tell, or there are no tables. */
  readonly residency: ResidencyReport | null;
}

/**
 * Opens tables of a bundle that was opened with verify: later, be there none, and checks the bundle's opened files. The tables are brought into
 * memory before their checksums are checked: the first to read a file decides on which pages it lies.
 */
export async function openTables(
  bundle: Bundle,
  tables: readonly EngineTable[],
  { residency = 'populate', verify = 'full', onProgress, onWarning = emitSmallPagesWarning }: OpenTablesOptions = {},
): Promise<OpenedTables> {
  oneOf('verify', verify, VERIFIES);
  const engine = new SparseEngine(tables, residency);
  try {
    const toFill = engine.tableBytes;
    const total = toFill + bytesToCheck(bundle, verify);
    await engine.fill((done) => onProgress?.(done, total));
    await checkOpened(bundle, verify, (done) => onProgress?.(toFill + done, total));
    const report = tables.length === 0 ? null : await engine.measureResidency();
    const warning = report === null || residency === 'map' ? null : await smallPagesWarning(bundle.dir, residency, report);
    if (warning !== null) onWarning(warning);
    return { engine, residency: report };
  } catch (error) {
    engine.close();
    throw error;
  }
}

const emitSmallPagesWarning = (message: string): void =>
  process.emitWarning(message, { type: 'TerabagWarning', code: 'TERABAG_SMALL_PAGES' });

/** Null when the tables lie on huge pages, or cannot on their filesystem. */
async function smallPagesWarning(dir: string, residency: Residency, { files }: ResidencyReport): Promise<string | null> {
  const small = files.filter((file) => !liesOnHugePages(file));
  const [first] = small;
  if (first === undefined) return null;
  const sum = (key: 'bytes' | 'hugePageBytes'): number => small.reduce((total, file) => total + file[key], 0);
  const found = `lookups take up to twice as long in tables on small memory pages: ${small.length} of ${files.length} table files, first ${first.path}, ${sum('hugePageBytes')} of ${sum('bytes')} bytes on 2 MiB pages`;
  if (residency === 'hugepages')
    return `${found}; the kernel gave no huge pages: set /sys/kernel/mm/transparent_hugepage/enabled to madvise, or free memory`;
  if (!holdsHugePages((await statfs(first.path)).type, release())) return null;
  return `${found}; they were written or read in small pieces: terabag warm ${dir} reads them anew, while nothing has them open; or use residency hugepages`;
}
