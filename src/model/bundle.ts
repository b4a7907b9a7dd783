import { readFile, stat } from 'node:fs/promises';
import { isAbsolute, join, normalize } from 'node:path';
import { TerabagError } from '../errors.js';
import { writeFileAtomic } from '../tables/atomic.js';
import { CHUNK_BYTES, checksumFile } from '../tables/checksum.js';
import { readSafetensorsHeader, readTensor } from '../tables/safetensors.js';
import { dtypeOf, isPacked, rowBytes, rowFormatMetadata } from './formats.js';
import { type ResolvedModel, resolveModel } from './graph.js';
import { modelHash } from './hash.js';
import { checkPublished, type HeldTable, heldTables, ownFiles } from './published.js';
import { type FileSpec, type ModelSpec, modelSchema } from './spec.js';

export const DENSE_FILE = 'dense.safetensors';

export interface OpenTable extends HeldTable {
  readonly path: string;
  readonly byteOffset: number;
  readonly rowBytes: number;
  readonly bytes: number;
}

export interface Bundle {
  readonly dir: string;
  readonly spec: ModelSpec;
  readonly hash: string;
  /** Null when opened without the dense weights. */
  readonly model: ResolvedModel | null;
  readonly dense: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>;
  /** Aligned with spec.tables; null where not opened, or not in a published bundle. */
  readonly tables: readonly (OpenTable | null)[];
}

export interface OpenOptions {
  /** full (default): lengths and checksums; size: lengths only. */
  readonly verify?: 'full' | 'size';
  /** Only these tables; default all. */
  readonly tables?: ReadonlySet<string>;
  /** Whether the dense weights are read; default true. */
  readonly dense?: boolean;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

export async function readModelSpec(dir: string): Promise<ModelSpec> {
  const path = join(dir, 'model.json');
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new TerabagError('bad_model', `no bundle here, model.json cannot be read (${error.code}): ${path}`, { path }, { cause: error });
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new TerabagError('bad_model', `model.json is not JSON: ${path}`, { path }, { cause: error });
  }
  const parsed = modelSchema.safeParse(json);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const at = issue?.path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('') ?? '';
    throw new TerabagError('bad_model', `model.json: ${at.replace(/^\./, '') || 'root'}: ${issue?.message}`, { path: at });
  }
  checkPublished(parsed.data);
  return parsed.data;
}

/** Writes model.json, the last file of a bundle: before it there is no bundle. */
export async function writeModelJson(dir: string, spec: ModelSpec): Promise<void> {
  await writeFileAtomic(join(dir, 'model.json'), `${JSON.stringify(spec, null, 2)}\n`);
}

/** Opens and checks a bundle's files; nothing of the tables is read into memory. */
export async function openBundle(dir: string, options: OpenOptions = {}): Promise<Bundle> {
  const spec = await readModelSpec(dir);
  const wanted = heldTables(spec).map((held) => (held !== null && (options.tables?.has(held.spec.name) ?? true) ? held : null));
  const files = new Set(wanted.flatMap((held) => (held === null ? [] : [held.file])));
  if (options.dense !== false) files.add(DENSE_FILE);
  if (options.dense !== false && !holdsDense(spec))
    throw new TerabagError('bad_model', `bundle has no dense weights, it was published for shard ${spec.published?.shard}: ${dir}`, {
      dir,
    });
  await checkFiles(dir, spec, [...files], options);
  const tables: (OpenTable | null)[] = [];
  for (const held of wanted) tables.push(held === null ? null : await openTable(dir, held));
  const dense = options.dense === false ? new Map<string, { shape: readonly number[]; data: Float32Array }>() : await readDense(dir);
  const shapes = new Map([...dense].map(([name, { shape }]) => [name, shape]));
  return { dir, spec, hash: modelHash(spec), model: options.dense === false ? null : resolveModel(spec, shapes), dense, tables };
}

/** False of what is published for a sparse shard. */
export const holdsDense = (spec: ModelSpec): boolean => spec.published === undefined || Object.hasOwn(ownFiles(spec), DENSE_FILE);

/** Bytes that checkChecksums reads. */
export function bytesToCheck(bundle: Bundle): number {
  return openedFiles(bundle).reduce((sum, file) => sum + (ownFiles(bundle.spec)[file]?.bytes ?? 0), 0);
}

/** Checks the checksums of the files of a bundle that was opened with verify: size. */
export async function checkChecksums(bundle: Bundle, onProgress?: OpenOptions['onProgress']): Promise<void> {
  await checkFiles(bundle.dir, bundle.spec, openedFiles(bundle), onProgress ? { onProgress } : {});
}

function openedFiles({ tables, model }: Bundle): string[] {
  const files = new Set(tables.flatMap((table) => (table === null ? [] : [table.file])));
  if (model !== null) files.add(DENSE_FILE);
  return [...files];
}

/** Checks every file and returns what is wrong, one line per file. */
export async function verifyBundle(dir: string, onProgress?: OpenOptions['onProgress']): Promise<string[]> {
  const spec = await readModelSpec(dir);
  const problems: string[] = [];
  const files = ownFiles(spec);
  const total = Object.values(files).reduce((sum, { bytes }) => sum + bytes, 0);
  let before = 0;
  for (const [file, { bytes }] of Object.entries(files)) {
    const base = before;
    await checkFiles(dir, spec, [file], onProgress ? { onProgress: (done) => onProgress(base + done, total) } : {}).catch(
      (error: unknown) => problems.push(TerabagError.from(error).message),
    );
    before += bytes;
  }
  if (problems.length === 0)
    await openBundle(dir, { verify: 'size', dense: holdsDense(spec) }).catch((error: unknown) =>
      problems.push(TerabagError.from(error).message),
    );
  return problems;
}

/** The path of a bundle's file; one outside of it is refused (bad_model). */
export function pathInside(dir: string, file: string): string {
  const clean = normalize(file);
  if (isAbsolute(clean) || clean.startsWith('..'))
    throw new TerabagError('bad_model', `file has to lie inside the bundle: ${file}`, { file });
  return join(dir, clean);
}

async function checkFiles(dir: string, spec: ModelSpec, files: readonly string[], options: OpenOptions): Promise<void> {
  const known = ownFiles(spec);
  const listed = files.map((file): [string, FileSpec] => {
    const entry = Object.hasOwn(known, file) ? known[file] : undefined;
    if (entry === undefined) throw new TerabagError('bad_model', `model.json: files: has no entry for ${file}`, { file });
    return [file, entry];
  });
  const total = listed.reduce((sum, [, { bytes }]) => sum + bytes, 0);
  let done = 0;
  for (const [file, expected] of listed) {
    const path = pathInside(dir, file);
    await checkLength(path, file, expected);
    if (options.verify === 'size') continue;
    await checkContent(path, file, expected, (bytes) => {
      done += bytes;
      options.onProgress?.(done, total);
    });
  }
}

/** Holds a file against its entry in model.json, by its length. */
export async function checkLength(path: string, file: string, expected: FileSpec): Promise<void> {
  const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new TerabagError('bad_table', `file of the bundle is missing (${error.code}): ${path}`, { file }, { cause: error });
  });
  if (info.size !== expected.bytes)
    throw new TerabagError(
      'bad_table',
      `file has another length than model.json says (truncated?): ${path}, ${info.size} bytes, expected ${expected.bytes}`,
      { file },
    );
}

/** Reads a file and holds it against its checksums in model.json. */
export async function checkContent(path: string, file: string, expected: FileSpec, onBytes?: (bytes: number) => void): Promise<void> {
  compareChecksums(path, file, await checksumFile(path, onBytes), expected);
}

/** Refuses checksums of a file that are not those of model.json, with the first chunk that differs. */
export function compareChecksums(path: string, file: string, found: FileSpec, expected: FileSpec): void {
  const chunk = found.crc32.findIndex((value, index) => value !== expected.crc32[index]);
  if (chunk < 0 && found.crc32.length !== expected.crc32.length)
    throw new TerabagError(
      'bad_model',
      `model.json: files: more checksums than the file has chunks: ${file}, ${expected.crc32.length}, expected ${found.crc32.length}`,
      { file },
    );
  if (chunk >= 0) {
    throw new TerabagError(
      'checksum_mismatch',
      `file is damaged: ${path}, chunk ${chunk} (from byte ${chunk * CHUNK_BYTES}), crc32 ${found.crc32[chunk]}, expected ${expected.crc32[chunk]}`,
      { file, chunk },
    );
  }
}

async function openTable(dir: string, held: HeldTable): Promise<OpenTable> {
  const { spec, rows } = held;
  const path = pathInside(dir, held.file);
  const header = await readSafetensorsHeader(path);
  const tensor = header.tensors.get(held.tensor);
  const wrong = (what: string): TerabagError =>
    new TerabagError('bad_table', `table ${spec.name}: ${what}: ${path}`, { table: spec.name, path });
  if (tensor === undefined) throw wrong(`no tensor ${held.tensor} in the file, it has ${[...header.tensors.keys()].join(', ')}`);
  const { dtype, shape } = tensor;
  if (dtype !== dtypeOf(spec.format)) throw wrong(`tensor is ${dtype}, model.json says ${spec.format}`);
  const packed = isPacked(spec.format);
  const width = packed ? rowBytes(spec.format, spec.dim) : spec.dim;
  if (shape.length !== 2 || shape[0] !== rows || shape[1] !== width)
    throw wrong(`tensor is ${shape.join('x')}, model.json says ${rows}x${width}`);
  // The bytes do not say what they are: a row of int8 with dim 4 is as long as one of int8_fp16 with dim 8.
  const metadata = header.metadata[`${held.tensor}.row_format`];
  if (packed && metadata !== rowFormatMetadata(spec.format, spec.dim))
    throw wrong(`the file says row format ${metadata ?? 'nothing'}, model.json says ${rowFormatMetadata(spec.format, spec.dim)}`);
  return { ...held, path, byteOffset: tensor.byteOffset, rowBytes: tensor.bytes / rows, bytes: tensor.bytes };
}

async function readDense(dir: string): Promise<Map<string, { shape: readonly number[]; data: Float32Array }>> {
  const header = await readSafetensorsHeader(join(dir, DENSE_FILE));
  const tensors = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  for (const [name, tensor] of header.tensors) {
    if (tensor.dtype !== 'F32')
      throw new TerabagError('bad_model', `dense weights have to be F32: ${name} is ${tensor.dtype}`, { tensor: name });
    tensors.set(name, { shape: tensor.shape, data: new Float32Array((await readTensor(header, tensor)).buffer) });
  }
  return tensors;
}
