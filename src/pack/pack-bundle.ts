import { copyFile, link, mkdir, realpath } from 'node:fs/promises';
import { dirname, normalize } from 'node:path';
import { oneOf, TerabagError } from '../errors.js';
import { DENSE_FILE, finishBundle, openBundle, readModelSpec } from '../model/bundle.js';
import { bytesToRead, checkFiles, type ListedFile, pathInside, VERIFIES, type Verify } from '../model/bundle-files.js';
import { isPacked, ROW_FORMATS, type RowFormat } from '../model/formats.js';
import type { FileSpec, ModelSpec, TableSpec } from '../model/spec.js';
import { headed, isPlacedBySpec, readTableFile } from '../model/table-file.js';
import { fillDirectory, refuseUsed } from '../tables/output-directory.js';
import { type PackedTensor, type PackOptions, packFile, stopIf } from './pack-file.js';

export interface PackBundleOptions extends Omit<PackOptions, 'only' | 'header'> {
  /** Of all tables, or by name of those that are packed. */
  readonly format: RowFormat | ReadonlyMap<string, RowFormat>;
  /** Names of the tables to pack; default all, or those that have a format. */
  readonly tables?: readonly string[];
  /** How the source is checked first; default full. */
  readonly verify?: Verify;
  /** Bytes of the source that were checked, packed and copied. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

export interface PackedTable extends PackedTensor {
  readonly table: string;
}

/**
 * Writes a bundle anew into a directory that is empty or not there, with tables in another row format. Files without packed tables are linked
 * where the filesystem can, and copied elsewhere. model.json comes last; when it fails, nothing is left.
 */
export async function packBundle(source: string, destination: string, options: PackBundleOptions): Promise<PackedTable[]> {
  const { format, verify = 'full', onProgress = () => undefined } = options;
  const formatOf = formatsByTable(format);
  oneOf('verify', verify, VERIFIES);
  await refuseUsed(destination);
  if ((await readModelSpec(source)).published !== undefined)
    throw new TerabagError('invalid_argument', `what was published cannot be packed; pack the source, plan and publish it: ${source}`, {
      path: source,
    });
  // With the dense weights, and the layers that read them.
  const { spec, hash, dense } = await openBundle(source, { verify: 'later' });
  const selected = selectTables(spec, formatOf, options.tables ?? (typeof format === 'string' ? undefined : [...format.keys()]));
  refuseShared(selected, new Set(dense.keys()));
  // All that is written anew, not just what the tables name; a name that leads out of the bundle is refused.
  const listed = Object.entries(spec.files).map(([file, expected]): ListedFile => ({ file, path: pathInside(source, file), expected }));
  refuseTwoNames(listed);
  const total = bytesToRead(listed, verify, hash) + listed.reduce((sum, { expected }) => sum + expected.bytes, 0);
  let done = 0;
  const onBytes = (bytes: number): void => {
    done += bytes;
    onProgress(done, total);
  };
  await checkFiles(listed, verify, hash, (bytes) => {
    stopIf(options.signal);
    onBytes(bytes);
  });
  const placed = new Set(spec.tables.filter(isPlacedBySpec).map(({ file }) => file));
  /** What is packed gets a header. */
  const writtenAs = (file: string): string => (placed.has(file) && selected.some((table) => table.file === file) ? headed(file) : file);
  refuseTwoNames(listed.map((entry) => ({ ...entry, path: pathInside(source, writtenAs(entry.file)) })));
  return fillDirectory(destination, async () => {
    const files = new Map<string, FileSpec>();
    const results: PackedTable[] = [];
    const renamed = new Map<string, string>();
    for (const { file, path: from, expected: entry } of listed) {
      const to = pathInside(destination, file);
      await mkdir(dirname(to), { recursive: true });
      const tables = selected.filter((table) => table.file === file);
      if (tables.length === 0) {
        stopIf(options.signal);
        // A link to a symbolic link would lead elsewhere from there.
        await link(await realpath(from), to).catch(() => copyFile(from, to));
        files.set(file, entry);
        onBytes(entry.bytes);
        continue;
      }
      const written = writtenAs(file);
      const header = await readTableFile(
        from,
        spec.tables.filter((table) => table.file === file),
      );
      const formats = new Map(tables.map(({ name, tensor }) => [tensor, formatOf(name)]));
      const { packed, checksum } = await packFile(from, pathInside(destination, written), formats, { ...options, header, onBytes });
      files.set(written, checksum);
      renamed.set(file, written);
      results.push(
        ...tables.map((table) => ({ table: table.name, ...(packed.find(({ tensor }) => tensor === table.tensor) as PackedTensor) })),
      );
    }
    const names = new Set(selected.map(({ name }) => name));
    const tables = spec.tables.map(({ byteOffset, ...table }) => {
      const file = renamed.get(table.file);
      const placed = byteOffset === undefined ? {} : { byteOffset };
      return { ...table, ...(file === undefined ? placed : { file }), ...(names.has(table.name) && { format: formatOf(table.name) }) };
    });
    await finishBundle(destination, { ...spec, tables, files: Object.fromEntries(files) });
    return results;
  });
}

/** What is said of one table, as far as anything is said of it. */
function formatsByTable(format: PackBundleOptions['format']): (table: string) => RowFormat {
  if (typeof format === 'string') {
    oneOf('format', format, ROW_FORMATS);
    return () => format;
  }
  for (const [table, each] of format) oneOf(`format of ${table}`, each, ROW_FORMATS);
  return (table) => {
    const found = format.get(table);
    if (found === undefined) throw new TerabagError('invalid_argument', `table has no format to be packed in: ${table}`, { table });
    return found;
  };
}

/** A tensor that a layer reads has to stay F32. */
function refuseShared(selected: readonly TableSpec[], dense: ReadonlySet<string>): void {
  const shared = selected.find(({ file, tensor }) => normalize(file) === DENSE_FILE && dense.has(tensor));
  if (shared !== undefined)
    throw new TerabagError(
      'invalid_argument',
      `table cannot be packed, a dense layer reads its tensor too: ${shared.name}, tensor ${shared.tensor}; name other tables`,
      { table: shared.name, tensor: shared.tensor },
    );
}

/** Two entries for one file would be written over each other. */
function refuseTwoNames(listed: readonly ListedFile[]): void {
  const names = new Map<string, string>();
  for (const { file, path } of listed) {
    const other = names.get(path);
    if (other !== undefined)
      throw new TerabagError('bad_model', `model.json: files: two names of one file: ${other} and ${file}`, { file });
    names.set(path, file);
  }
}

function selectTables(spec: ModelSpec, formatOf: (table: string) => RowFormat, names: readonly string[] | undefined): TableSpec[] {
  const unknown = names?.find((name) => !spec.tables.some((table) => table.name === name));
  if (unknown !== undefined)
    throw new TerabagError(
      'invalid_argument',
      `no such table: ${unknown}; the model has ${spec.tables.map(({ name }) => name).join(', ')}`,
      { table: unknown },
    );
  const selected = spec.tables.filter(({ name }) => names?.includes(name) ?? true);
  for (const table of selected) {
    if (isPacked(table.format))
      throw new TerabagError(
        'invalid_argument',
        `table is packed already, and its values are lost: ${table.name} is ${table.format}; pack the plain bundle, or name other tables`,
        { table: table.name },
      );
    if (table.format === formatOf(table.name))
      throw new TerabagError('invalid_argument', `table has this row format already: ${table.name} is ${table.format}`, {
        table: table.name,
      });
    const other = spec.tables.find(
      ({ file, tensor, name }) =>
        file === table.file && tensor === table.tensor && !selected.some((s) => s.name === name && formatOf(name) === formatOf(table.name)),
    );
    if (other !== undefined)
      throw new TerabagError(
        'invalid_argument',
        `tables of one tensor have to be packed together, in one format: ${table.name} and ${other.name}`,
        {
          table: table.name,
        },
      );
  }
  return selected;
}
