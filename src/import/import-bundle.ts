import { mkdir } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { TerabagError } from '../errors.js';
import { DENSE_FILE, finishBundle } from '../model/bundle.js';
import { isPacked, type RowFormat, rowBytes } from '../model/formats.js';
import { type FileSpec, type ModelSpec, modelSchema, type TableSpec } from '../model/spec.js';
import { checksumFile } from '../tables/checksum.js';
import { checkRoom, fillDirectory, refuseUsed } from '../tables/output-directory.js';
import { writeSafetensors } from '../tables/safetensors.js';
import { type Checkpoint, type CheckpointTensor, type Piece, valuesOf } from './checkpoint.js';
import { toFloat32 } from './convert.js';
import { checkKnown, copyTable } from './copy-table.js';
import { checksumExtents, type PlacedBytes } from './file-extents.js';
import type { ImportSpec } from './import-spec.js';
import { indexKeys, indexRoom, keyWork } from './index-keys.js';
import { linkInto } from './link-into.js';
import type { CheckpointFiles } from './open-files.js';
import { type PlannedImport, type PlannedTable, planImport } from './plan-import.js';
import { readWhole } from './read-values.js';
import { TensorNames } from './tensor-names.js';

export interface ImportOptions {
  /** Orders of the columns of dense weights, by tensor: column n of what is written is column order[n] of the checkpoint's. */
  readonly columns?: ReadonlyMap<string, readonly number[]>;
  /** Tables are copied even where they could be served in place. */
  readonly copy?: boolean;
  /** Nothing is written. */
  readonly dryRun?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

export interface ImportedTable {
  readonly table: string;
  readonly tensor: string;
  readonly rows: number;
  readonly dim: number;
  readonly format: RowFormat;
  readonly bytes: number;
  /** in place: read from the checkpoint's file; copied: the same rows; converted: other bytes. */
  readonly how: 'in place' | 'copied' | 'converted';
  /** The tensor that the index of a keyed table was made of; null of others. */
  readonly keys: string | null;
}

export interface ImportReport {
  readonly kind: string;
  readonly tables: readonly ImportedTable[];
  readonly dense: readonly string[];
  /** Files of the checkpoint that tables are read from, how they came into the bundle, and who worked out their checksums. */
  readonly placed: readonly { readonly file: string; readonly how: 'linked' | 'cloned'; readonly checksums: 'of the file' | 'computed' }[];
  /** Tables whose rows have keys in their program, which the spec does not name: they are asked for by row. */
  readonly askedByRow: readonly { readonly table: string; readonly keys: string }[];
  /** Tensors that nothing of the spec names, and what cannot be served. */
  readonly unused: readonly { readonly tensor: string; readonly dtype: string; readonly shape: readonly number[] }[];
  readonly skipped: readonly { readonly tensor: string; readonly why: string }[];
}

/** Files of the checkpoint lie below it in the bundle. */
const PLACED_DIRECTORY = 'checkpoint';
const LONGEST_FILE_NAME = 200;

/**
 * Writes a bundle of a checkpoint into a directory that is empty or not there. Tables whose rows lie one after another are served where they are:
 * their file is cloned or linked into the bundle. Others, and dense weights, are written. model.json comes last; when it fails, nothing is left; when it is
 * killed, what is no bundle.
 */
export async function importBundle(
  checkpoint: Checkpoint,
  files: CheckpointFiles,
  spec: ImportSpec,
  destination: string,
  options: ImportOptions = {},
): Promise<ImportReport> {
  if (options.dryRun !== true) await refuseUsed(destination);
  const plan = await planImport(checkpoint, new TensorNames(checkpoint), spec);
  const run = new ImportRun(checkpoint, files, spec, plan, destination, options);
  if (options.dryRun === true) return run.report(new Map());
  return fillDirectory(destination, () => run.write());
}

/** How a file of the checkpoint came into the bundle. */
interface PlacedFile {
  readonly file: string;
  readonly how: 'linked' | 'cloned';
}

class ImportRun {
  #done = 0;
  #total = 0;

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly files: CheckpointFiles,
    private readonly spec: ImportSpec,
    private readonly plan: PlannedImport,
    private readonly destination: string,
    private readonly options: ImportOptions,
  ) {}

  async write(): Promise<ImportReport> {
    const placed = await this.#place();
    const isPlaced = ({ inPlace }: PlannedTable): boolean => inPlace !== null && placed.has(inPlace.path);
    const copied = this.plan.tables.filter((table) => !isPlaced(table));
    const toWrite = copied.reduce((sum, { spec: { rows, dim, format } }) => sum + rows * rowBytes(format, dim), 0);
    const keyed = keyedTables(this.plan.tables);
    await checkRoom(this.destination, toWrite + this.#denseBytes() + roomOfIndexes(keyed));
    this.#total =
      copied.reduce((sum, { spec: { rows }, sourceRowBytes }) => sum + rows * sourceRowBytes, 0) +
      keyed.reduce((sum, { spec: { rows } }) => sum + keyWork(rows), 0);
    const tables = new Map<PlannedTable, Pick<TableSpec, 'file' | 'tensor' | 'byteOffset'>>();
    const listed = new Map<string, FileSpec>();
    // Before the rows: keys that are there twice are found before much is written.
    const indexes = await this.#writeIndexes(keyed, listed);
    listed.set(DENSE_FILE, await this.#writeDense());
    for (const [path, { file }] of placed)
      listed.set(
        file,
        await this.#listPlaced(
          path,
          file,
          this.plan.tables.filter((table) => table.inPlace?.path === path),
          tables,
        ),
      );
    for (const table of copied) {
      const file = tableFile(table, '', listed);
      await mkdir(dirname(join(this.destination, file)), { recursive: true });
      listed.set(
        file,
        await copyTable(this.files, table, join(this.destination, file), {
          signal: this.options.signal,
          onBytes: (bytes) => this.#progress(bytes),
        }),
      );
      tables.set(table, { file, tensor: table.spec.tensor });
    }
    await finishBundle(this.destination, this.#model(tables, indexes, listed));
    return this.report(placed);
  }

  report(placed: ReadonlyMap<string, PlacedFile>): ImportReport {
    const { checkpoint, plan, options } = this;
    const inPlace = ({ inPlace }: PlannedTable): boolean =>
      inPlace !== null && (placed.has(inPlace.path) || (options.dryRun === true && options.copy !== true));
    const used = new Set([
      ...plan.tables.flatMap(({ tensor, keys }) => [tensor, ...(keys === null ? [] : [keys.tensor])]),
      ...plan.dense.values(),
    ]);
    const unused = [...checkpoint.tensors.values()].filter((tensor) => !used.has(tensor));
    return {
      kind: checkpoint.kind,
      tables: plan.tables.map((table) => {
        const { name, rows, dim, format } = table.spec;
        const how = table.conversion !== 'none' ? 'converted' : inPlace(table) ? 'in place' : 'copied';
        const keys = table.keys?.tensor.name ?? null;
        return { table: name, tensor: table.tensor.name, rows, dim, format, bytes: rows * rowBytes(format, dim), how, keys };
      }),
      dense: [...plan.dense.keys()],
      placed: [...placed].map(([path, { file, how }]) => {
        const known = plan.tables.every(({ inPlace: piece }) => piece?.path !== path || piece.known !== null);
        return { file, how, checksums: known ? 'of the file' : 'computed' };
      }),
      askedByRow: plan.tables.flatMap(({ spec: { name }, tensor: { keyedBy }, keys }) =>
        keyedBy === undefined || keys !== null ? [] : [{ table: name, keys: keyedBy }],
      ),
      unused: unused.map(({ name, dtype, shape }) => ({ tensor: name, dtype, shape })),
      skipped: [...checkpoint.skipped].map(([tensor, why]) => ({ tensor, why })),
    };
  }

  /** Brings files with tables that can be served in place into the bundle; those that cannot be linked from here are left to be copied. */
  async #place(): Promise<Map<string, PlacedFile>> {
    const placed = new Map<string, PlacedFile>();
    if (this.options.copy === true) return placed;
    const root = this.checkpoint.path;
    for (const path of new Set(this.plan.tables.flatMap(({ inPlace }) => inPlace?.path ?? []))) {
      const inside = relative(root, path) || basename(path);
      // What another checkpoint than the first holds.
      const file = join(PLACED_DIRECTORY, inside.startsWith('..') ? `${placed.size}-${basename(path)}` : inside);
      await mkdir(dirname(join(this.destination, file)), { recursive: true });
      const how = await linkInto(path, join(this.destination, file));
      if (how !== null) placed.set(path, { file, how });
    }
    return placed;
  }

  /** Notes where the tables of a placed file are, and returns its entry in model.json. */
  async #listPlaced(
    path: string,
    file: string,
    tables: readonly PlannedTable[],
    places: Map<PlannedTable, Pick<TableSpec, 'file' | 'tensor' | 'byteOffset'>>,
  ): Promise<FileSpec> {
    const onBytes = (bytes: number): void => {
      this.#stopIf();
      this.#progress(bytes);
    };
    // A header says what plain rows are, and the whole file is checked; the rows of other files, quantized ones among them, are described by model.json.
    const headed = tables.every(({ inPlace, spec }) => typeof inPlace?.header === 'string' && !isPacked(spec.format));
    if (headed) {
      for (const table of tables) places.set(table, { file, tensor: table.inPlace?.header as string });
      this.#total += await this.files.size(path);
      return checksumFile(path, onBytes);
    }
    for (const table of tables) places.set(table, { file, tensor: table.spec.tensor, byteOffset: (table.inPlace as Piece).byteOffset });
    const rows = tables.map(({ inPlace, spec, sourceRowBytes }): PlacedBytes => {
      const { byteOffset, known } = inPlace as Piece;
      return { extent: { from: byteOffset, bytes: spec.rows * sourceRowBytes }, known };
    });
    const bytes = await this.files.size(path);
    return checksumExtents(path, bytes, {
      rows,
      marks: this.checkpoint.marks.get(path) ?? [],
      onBytes,
      onTotal: (more) => (this.#total += more),
    });
  }

  #denseBytes(): number {
    return [...this.plan.dense.values()].reduce((sum, { shape }) => sum + 4 * valuesOf(shape), 0);
  }

  #writeDense(): Promise<FileSpec> {
    const tensors = [...this.plan.dense].map(([name, tensor]) => ({
      name,
      dtype: 'F32',
      shape: tensor.shape,
      data: this.#denseData(name, tensor),
    }));
    return writeSafetensors(join(this.destination, DENSE_FILE), tensors);
  }

  async *#denseData(name: string, tensor: CheckpointTensor): AsyncGenerator<Uint8Array> {
    this.#stopIf();
    for (const piece of await tensor.pieces()) await checkKnown(piece);
    const values = toFloat32(await readWhole(this.files, tensor), tensor.dtype, name);
    const order = this.options.columns?.get(name);
    const ordered = order === undefined ? values : inOrder(values, order);
    yield new Uint8Array(ordered.buffer, ordered.byteOffset, ordered.byteLength);
  }

  /** Of each tensor of keys, once. */
  async #writeIndexes(keyed: readonly KeyedTable[], listed: Map<string, FileSpec>): Promise<KeyIndexes> {
    const indexes = new Map<CheckpointTensor, NonNullable<TableSpec['keys']>>();
    for (const table of keyed) {
      const file = tableFile(table, '.keys', listed);
      const path = join(this.destination, file);
      await mkdir(dirname(path), { recursive: true });
      const { tensor, ...checksum } = await indexKeys(this.files, table.spec, table.keys, path, {
        signal: this.options.signal,
        onBytes: (bytes) => this.#progress(bytes),
      });
      listed.set(file, checksum);
      indexes.set(table.keys.tensor, { file, tensor });
    }
    return indexes;
  }

  #model(
    places: ReadonlyMap<PlannedTable, Pick<TableSpec, 'file' | 'tensor' | 'byteOffset'>>,
    indexes: KeyIndexes,
    listed: ReadonlyMap<string, FileSpec>,
  ): ModelSpec {
    const tables = this.plan.tables.map((table) => {
      const { scaleAndBias: _, keys: __, ...spec } = table.spec;
      return { ...spec, ...places.get(table), ...(table.keys && { keys: indexes.get(table.keys.tensor) }) };
    });
    return modelSchema.parse({ ...this.spec, tables, files: Object.fromEntries(listed) });
  }

  #stopIf(): void {
    if (this.options.signal?.aborted) throw new TerabagError('aborted', 'the import was interrupted');
  }

  #progress(bytes: number): void {
    this.#stopIf();
    this.#done += bytes;
    this.options.onProgress?.(Math.min(this.#done, this.#total), this.#total);
  }
}

type KeyIndexes = ReadonlyMap<CheckpointTensor, NonNullable<TableSpec['keys']>>;
type KeyedTable = PlannedTable & { readonly keys: NonNullable<PlannedTable['keys']> };

/** The first table of each tensor of keys: several may have the same. */
function keyedTables(tables: readonly PlannedTable[]): KeyedTable[] {
  const keyed = tables.filter((table): table is KeyedTable => table.keys !== null);
  return keyed.filter(({ keys: { tensor } }, at) => keyed.findIndex(({ keys }) => keys.tensor === tensor) === at);
}

/** Keys wait to be sorted for one index at a time. */
function roomOfIndexes(keyed: readonly KeyedTable[]): number {
  const rooms = keyed.map(({ spec: { rows } }) => indexRoom(rows));
  return rooms.reduce((sum, { lasting }) => sum + lasting, 0) + Math.max(0, ...rooms.map(({ meanwhile }) => meanwhile));
}

/** tables/NAME.safetensors, or with what it holds beside rows behind the name, where the name makes a file name that is not taken. */
function tableFile({ spec: { name } }: PlannedTable, holds: string, taken: ReadonlyMap<string, FileSpec>): string {
  const encoded = encodeURIComponent(name);
  for (let n = 0; ; n++) {
    const ending = `${n === 0 ? '' : `-${n}`}${holds}`;
    const file = `tables/${encoded.slice(0, LONGEST_FILE_NAME - ending.length)}${ending}.safetensors`;
    if (!taken.has(file)) return file;
  }
}

/** Rows of as many values as the order has. */
function inOrder(values: Float32Array, order: readonly number[]): Float32Array<ArrayBuffer> {
  const out = new Float32Array(values.length);
  for (let row = 0; row < values.length; row += order.length)
    for (const [column, from] of order.entries()) out[row + column] = values[row + from] as number;
  return out;
}
