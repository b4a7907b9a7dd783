import { copyFile, link, mkdir, realpath } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { TerabagError } from '../errors.js';
import { checkContent, checkLength, openBundle, pathInside, writeModelJson } from '../model/bundle.js';
import { isPacked, ROW_FORMATS, type RowFormat } from '../model/formats.js';
import type { FileSpec, ModelSpec, TableSpec } from '../model/spec.js';
import { fillDirectory, refuseUsed } from '../tables/output-directory.js';
import { type PackedTensor, type PackOptions, packFile, stopIf } from './pack-file.js';

export interface PackBundleOptions extends PackOptions {
  readonly format: RowFormat;
  /** Names of the tables to pack; default all. */
  readonly tables?: readonly string[];
  /** full (default) checks the checksums of the source first. */
  readonly verify?: 'full' | 'size';
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
  if (!ROW_FORMATS.includes(format))
    throw new TerabagError('invalid_argument', `format has to be one of ${ROW_FORMATS.join(', ')}: ${format}`, { field: 'format' });
  await refuseUsed(destination);
  const { spec } = await openBundle(source, { verify: 'size', dense: false });
  if (spec.published !== undefined)
    throw new TerabagError('invalid_argument', `what was published cannot be packed; pack the source, plan and publish it: ${source}`);
  // All that is written anew, not just what the tables name; a name that leads out of the bundle is refused.
  const listed = Object.entries(spec.files);
  for (const [file, entry] of listed) await checkLength(pathInside(source, file), file, entry);
  const sizes = listed.reduce((sum, [, { bytes }]) => sum + bytes, 0);
  const selected = selectTables(spec, format, options.tables);
  const total = sizes * (verify === 'full' ? 2 : 1);
  let done = 0;
  const onBytes = (bytes: number): void => {
    done += bytes;
    onProgress(done, total);
  };
  if (verify === 'full') {
    for (const [file, entry] of listed) {
      await checkContent(join(source, file), file, entry, (bytes) => {
        stopIf(options.signal);
        onBytes(bytes);
      });
    }
    // The dense weights and the layers that read them.
    await openBundle(source, { verify: 'size' });
  }
  return fillDirectory(destination, async () => {
    const files: Record<string, FileSpec> = {};
    const results: PackedTable[] = [];
    for (const [file, entry] of listed) {
      const [from, to] = [join(source, file), join(destination, file)];
      await mkdir(dirname(to), { recursive: true });
      const tables = selected.filter((table) => table.file === file);
      if (tables.length === 0) {
        stopIf(options.signal);
        // A link to a symbolic link would lead elsewhere from there.
        await link(await realpath(from), to).catch(() => copyFile(from, to));
        files[file] = entry;
        onBytes(entry.bytes);
        continue;
      }
      const { packed, checksum } = await packFile(from, to, new Map(tables.map(({ tensor }) => [tensor, format])), { ...options, onBytes });
      files[file] = checksum;
      results.push(
        ...tables.map((table) => ({ table: table.name, ...(packed.find(({ tensor }) => tensor === table.tensor) as PackedTensor) })),
      );
    }
    const names = new Set(selected.map(({ name }) => name));
    const tables = spec.tables.map((table) => (names.has(table.name) ? { ...table, format } : table));
    await writeModelJson(destination, { ...spec, tables, files });
    return results;
  });
}

function selectTables(spec: ModelSpec, format: RowFormat, names: readonly string[] | undefined): TableSpec[] {
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
    if (table.format === format)
      throw new TerabagError('invalid_argument', `table has this row format already: ${table.name} is ${format}`, { table: table.name });
    const other = spec.tables.find(
      ({ file, tensor, name }) => file === table.file && tensor === table.tensor && !selected.some((s) => s.name === name),
    );
    if (other !== undefined)
      throw new TerabagError('invalid_argument', `tables of one tensor have to be packed together: ${table.name} and ${other.name}`, {
        table: table.name,
      });
  }
  return selected;
}
