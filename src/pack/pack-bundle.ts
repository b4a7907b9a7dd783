import { copyFile, link, mkdir, realpath } from 'node:fs/promises';
import { dirname, normalize } from 'node:path';
import { oneOf, TerabagError } from '../errors.js';
import { type Bundle, DENSE_FILE, finishBundle, openBundle, readModelSpec } from '../model/bundle.js';
import { bytesToRead, checkFiles, type ListedFile, pathInside, VERIFIES, type Verify } from '../model/bundle-files.js';
import { isPacked, ROW_FORMATS, type RowFormat } from '../model/formats.js';
import type { FileSpec, ModelSpec, TableSpec } from '../model/spec.js';
import { headed, isPlacedBySpec, readTableFile } from '../model/table-file.js';
import { BUCKET_BYTES } from '../tables/key-index.js';
import { fillDirectory, refuseUsed } from '../tables/output-directory.js';
import { readSafetensorsHeader } from '../tables/safetensors.js';
import { type PackedTensor, type PackOptions, packFile, stopIf } from './pack-file.js';
import { checkPrunings, type Pruning, prunedSpec, writeKeptKeys } from './prune-table.js';

export interface PackBundleOptions extends Omit<PackOptions, 'only' | 'header' | 'kept'> {
  /** Of all tables, or by name of those that are packed. */
  readonly format: RowFormat | ReadonlyMap<string, RowFormat>;
  /** Names of the tables to pack; default all, or those that have a format. */
  readonly tables?: readonly string[];
  /** By name of tables that are packed, or stay in their plain format: the rows that are kept. They become keyed tables, whose keys are the ids. */
  readonly prune?: ReadonlyMap<string, Pruning>;
  /** How the source is checked first; default full. */
  readonly verify?: Verify;
  /** Bytes of the source that were checked, packed and copied. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

export interface PackedTable extends PackedTensor {
  readonly table: string;
  /** Bytes of the key index of a table that was pruned. */
  readonly keyBytes?: number;
}

/**
 * Writes a bundle anew into a directory that is empty or not there, with tables in another row format. Files without packed tables are linked
 * where the filesystem can, and copied elsewhere. model.json comes last; when it fails, nothing is left.
 */
export async function packBundle(source: string, destination: string, options: PackBundleOptions): Promise<PackedTable[]> {
  const { format, verify = 'full', onProgress = () => undefined } = options;
  oneOf('verify', verify, VERIFIES);
  await refuseUsed(destination);
  if ((await readModelSpec(source)).published !== undefined)
    throw new TerabagError('invalid_argument', `what was published cannot be packed; pack the source, plan and publish it: ${source}`, {
      path: source,
    });
  // With the dense weights, and the layers that read them.
  const bundle = await openBundle(source, { verify: 'later' });
  const { spec, hash, dense } = bundle;
  const prune = options.prune ?? new Map<string, Pruning>();
  const formatOf = formatsByTable(spec, format, prune);
  const selected = selectTables(spec, formatOf, {
    prune,
    names: options.tables ?? (typeof format === 'string' ? undefined : [...format.keys(), ...prune.keys()]),
  });
  refuseShared(selected, new Set(dense.keys()));
  checkPrunings(spec, prune);
  // All that is written anew, not just what the tables name; a name that leads out of the bundle is refused.
  const listed = Object.entries(spec.files).map(([file, expected]): ListedFile => ({ file, path: pathInside(source, file), expected }));
  refuseTwoNames(listed);
  const keys = newKeys(spec, prune);
  const ofKeys = keys.reduce((sum, { bytes }) => sum + bytes, 0);
  const total = bytesToRead(listed, verify, hash) + listed.reduce((sum, { expected }) => sum + expected.bytes, ofKeys);
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
      const tables = selected.filter((table) => table.file === file);
      const only = await keptTensors(spec, prune, { file, path: from });
      if (only?.size === 0) {
        onBytes(entry.bytes);
        continue;
      }
      await mkdir(dirname(to), { recursive: true });
      if (tables.length === 0 && only === null) {
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
      const kept = new Map(tables.flatMap(({ name, tensor }) => (prune.has(name) ? [[tensor, (prune.get(name) as Pruning).kept]] : [])));
      const packing = { ...options, header, kept, onBytes, ...(only && { only }) };
      const { packed, checksum } = await packFile(from, pathInside(destination, written), formats, packing);
      files.set(written, checksum);
      renamed.set(file, written);
      results.push(
        ...tables.map((table) => ({ table: table.name, ...(packed.find(({ tensor }) => tensor === table.tensor) as PackedTensor) })),
      );
    }
    const keysOf = await writeNewKeys(keys, { ...bundle, destination, files, onBytes, signal: options.signal });
    const names = new Set(selected.map(({ name }) => name));
    const pruned = prunedSpec(spec, prune, new Map([...keysOf].map(([table, { keys }]) => [table, keys])));
    const tables = pruned.tables.map(({ byteOffset, ...table }) => {
      const file = renamed.get(table.file);
      const placed = byteOffset === undefined ? {} : { byteOffset };
      return { ...table, ...(file === undefined ? placed : { file }), ...(names.has(table.name) && { format: formatOf(table.name) }) };
    });
    await finishBundle(destination, { ...spec, nets: pruned.nets, tables, files: Object.fromEntries(files) });
    return results.map((result) => {
      const written = keysOf.get(result.table);
      return written === undefined ? result : { ...result, keyBytes: written.bytes };
    });
  });
}

/** The index that tables of one tensor get, which are pruned alike. */
interface NewKeys {
  readonly tables: readonly TableSpec[];
  readonly pruning: Pruning;
  /** That its progress counts as. */
  readonly bytes: number;
}

const KEY_BYTES = 8;

interface WrittenKeys {
  readonly keys: NonNullable<TableSpec['keys']>;
  /** Of the index. */
  readonly bytes: number;
}

function newKeys({ tables }: ModelSpec, prune: ReadonlyMap<string, Pruning>): NewKeys[] {
  const groups = new Map<string, TableSpec[]>();
  for (const table of tables) {
    if (!prune.has(table.name)) continue;
    const group = `${normalize(table.file)}\0${table.tensor}\0${table.keys?.file}\0${table.keys?.tensor}`;
    groups.set(group, [...(groups.get(group) ?? []), table]);
  }
  return [...groups.values()].map((alike) => {
    const pruning = prune.get((alike[0] as TableSpec).name) as Pruning;
    return { tables: alike, pruning, bytes: pruning.kept.rows * KEY_BYTES };
  });
}

interface KeysDestination extends Pick<Bundle, 'spec' | 'tables'> {
  readonly destination: string;
  /** Of the bundle that is written; those of the indexes are added. */
  readonly files: Map<string, FileSpec>;
  readonly onBytes: (bytes: number) => void;
  readonly signal: AbortSignal | undefined;
}

/** What each pruned table has as its keys. */
async function writeNewKeys(
  keys: readonly NewKeys[],
  { spec, tables: opened, destination, files, onBytes, signal }: KeysDestination,
): Promise<Map<string, WrittenKeys>> {
  const written = new Map<string, WrittenKeys>();
  for (const { tables, pruning, bytes } of keys) {
    const at = spec.tables.indexOf(tables[0] as TableSpec);
    let file = `keys/${at}.safetensors`;
    while (files.has(file)) file = `keys/${at}-${file.length}.safetensors`;
    const path = pathInside(destination, file);
    await mkdir(dirname(path), { recursive: true });
    let counted = 0;
    const onProgress = (done: number, total: number): void => {
      const now = Math.floor((bytes * done) / total);
      onBytes(now - counted);
      counted = now;
    };
    const { tensor, buckets, ...checksum } = await writeKeptKeys(path, {
      kept: pruning.kept,
      index: opened[at]?.index ?? null,
      signal,
      onProgress,
    });
    files.set(file, { bytes: checksum.bytes, crc32: checksum.crc32 });
    for (const { name } of tables) written.set(name, { keys: { file, tensor }, bytes: buckets * BUCKET_BYTES });
  }
  return written;
}

/** The tensors of a file without the indexes of tables that get new ones; null when it has none of these. */
async function keptTensors(
  { tables }: ModelSpec,
  prune: ReadonlyMap<string, Pruning>,
  { file, path }: Pick<ListedFile, 'file' | 'path'>,
): Promise<ReadonlySet<string> | null> {
  const indexes = tables.filter(({ keys }) => keys?.file === file);
  const needed = new Set(indexes.flatMap(({ name, keys }) => (prune.has(name) ? [] : [keys?.tensor])));
  const dropped = new Set(indexes.map(({ keys }) => keys?.tensor).filter((tensor) => !needed.has(tensor)));
  if (dropped.size === 0) return null;
  const { tensors } = await readSafetensorsHeader(path);
  return new Set([...tensors.keys()].filter((tensor) => !dropped.has(tensor)));
}

/** What is said of one table, as far as anything is said of it; what is only pruned keeps its format. */
function formatsByTable(
  spec: ModelSpec,
  format: PackBundleOptions['format'],
  prune: ReadonlyMap<string, Pruning>,
): (table: string) => RowFormat {
  if (typeof format === 'string') {
    oneOf('format', format, ROW_FORMATS);
    return () => format;
  }
  for (const [table, each] of format) oneOf(`format of ${table}`, each, ROW_FORMATS);
  return (table) => {
    const found = format.get(table) ?? (prune.has(table) ? spec.tables.find(({ name }) => name === table)?.format : undefined);
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

interface Selection {
  /** Undefined: all. */
  readonly names: readonly string[] | undefined;
  readonly prune: ReadonlyMap<string, Pruning>;
}

function selectTables(spec: ModelSpec, formatOf: (table: string) => RowFormat, { names, prune }: Selection): TableSpec[] {
  const unknown = names?.find((name) => !spec.tables.some((table) => table.name === name));
  if (unknown !== undefined)
    throw new TerabagError(
      'invalid_argument',
      `no such table: ${unknown}; the model has ${spec.tables.map(({ name }) => name).join(', ')}`,
      { table: unknown },
    );
  const selected = spec.tables.filter(({ name }) => names?.includes(name) ?? true);
  const unselected = [...prune.keys()].find((name) => !selected.some((table) => table.name === name));
  if (unselected !== undefined)
    throw new TerabagError('invalid_argument', `table to be pruned is not among those that are packed: ${unselected}`, {
      table: unselected,
    });
  for (const table of selected) {
    if (isPacked(table.format))
      throw new TerabagError(
        'invalid_argument',
        `table is packed already, and its values are lost: ${table.name} is ${table.format}; pack the plain bundle, or name other tables`,
        { table: table.name },
      );
    const pruning = prune.get(table.name);
    if (table.format === formatOf(table.name) && pruning === undefined)
      throw new TerabagError('invalid_argument', `table has this row format already: ${table.name} is ${table.format}`, {
        table: table.name,
      });
    const other = spec.tables.find(
      ({ file, tensor, name }) =>
        file === table.file &&
        tensor === table.tensor &&
        !selected.some((s) => s.name === name && formatOf(name) === formatOf(table.name) && prune.get(name)?.kept === pruning?.kept),
    );
    if (other !== undefined)
      throw new TerabagError(
        'invalid_argument',
        `tables of one tensor have to be packed together, in one format and with the same rows: ${table.name} and ${other.name}`,
        {
          table: table.name,
        },
      );
  }
  return selected;
}
