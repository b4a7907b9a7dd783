import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { aPath, oneOf, TerabagError } from '../errors.js';
import { writeFileAtomic } from '../tables/atomic.js';
import { fileError } from '../tables/file-error.js';
import { isFinite32 } from '../tables/finite.js';
import { FLOAT_DTYPES, isFloatDtype, toFloat32, valueAt } from '../tables/float-tensors.js';
import { formatPath } from '../tables/json.js';
import { checkJson, type JsonFileKind, readJsonFile } from '../tables/json-file.js';
import { BUCKET_BYTES, type KeyIndexMetadata, keyIndexKey, parseKeyIndex, soundBuckets } from '../tables/key-index.js';
import { readSafetensorsHeader, readTensor, type SafetensorsHeader } from '../tables/safetensors.js';
import {
  bytesToRead,
  checkedBytes,
  checkFiles,
  checkLength,
  type FileChangeKind,
  fileChange,
  fileIdentity,
  type ListedFile,
  pathInside,
  VERIFIES,
  type Verify,
} from './bundle-files.js';
import { dtypeOf, isPacked, rowBytes, rowFormatMetadata } from './formats.js';
import { type ResolvedModel, resolveModel } from './graph.js';
import { modelHash } from './hash.js';
import { readOnnxSignature } from './onnx/onnx-file.js';
import { checkPublished, type HeldTable, heldTables, ownFiles } from './published.js';
import { type ModelSpec, modelSchema } from './spec.js';
import { readTableFile } from './table-file.js';

export const DENSE_FILE = 'dense.safetensors';

/** The file of the dense part: weights of layers, or a model that stands for all of them. */
export const denseFile = (spec: ModelSpec): string => spec.onnx?.file ?? DENSE_FILE;

export interface OpenTable extends HeldTable {
  readonly path: string;
  readonly byteOffset: number;
  readonly rowBytes: number;
  /** Of the rows, copies for rules counted. */
  readonly bytes: number;
  /** Of a keyed table; null of others. */
  readonly index: OpenKeyIndex | null;
}

/** Where an index lies, and what its file says of it. */
export interface OpenKeyIndex extends KeyIndexMetadata {
  readonly path: string;
  readonly byteOffset: number;
  readonly buckets: number;
  readonly bytes: number;
}

export interface Bundle {
  readonly dir: string;
  readonly spec: ModelSpec;
  readonly hash: string;
  /** Null when opened without the dense weights. */
  readonly model: ResolvedModel | null;
  /** The tensors that the layers name; others of the file may be of any dtype. In float32, whatever they were. */
  readonly dense: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>;
  /** The dense part as an ONNX model; null when it is layers, or was not opened. */
  readonly onnx: Uint8Array | null;
  /** Aligned with spec.tables; null where not opened, or not in a published bundle. */
  readonly tables: readonly (OpenTable | null)[];
  /** The files that were opened, each as it was then (fileIdentity). */
  readonly openedAs: ReadonlyMap<string, string>;
}

export interface OpenOptions {
  /** As Verify says (default full); later: only lengths and headers, since checkOpened follows when the tables are in memory. */
  readonly verify?: Verify | 'later';
  /** Only these tables; default all. */
  readonly tables?: ReadonlySet<string>;
  /** Whether the dense weights are read; default true. */
  readonly dense?: boolean;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

const KIND: JsonFileKind = {
  what: 'model.json',
  code: 'bad_model',
  unreadable: 'no bundle here, model.json cannot be read',
  formatField: formatPath,
};

export async function readModelSpec(dir: string): Promise<ModelSpec> {
  const spec = await readJsonFile(join(aPath('bundle', dir), 'model.json'), KIND, modelSchema);
  checkPublished(spec);
  return spec;
}

export async function writeModelJson(dir: string, spec: ModelSpec): Promise<void> {
  await writeFileAtomic(join(dir, 'model.json'), `${JSON.stringify(spec, null, 2)}\n`);
}

/**
 * Makes a bundle of the files in a directory: opens them as the spec says, and writes model.json when that works. What a reader would refuse
 * is refused with the reader's error, and gets no model.json: before it there is no bundle.
 */
export async function finishBundle(dir: string, spec: ModelSpec): Promise<void> {
  const written = checkJson(join(dir, 'model.json'), spec, KIND, modelSchema);
  checkPublished(written);
  await openSpec(dir, written, { verify: 'later', dense: holdsDense(written) });
  await writeModelJson(dir, spec);
}

/** Opens and checks a bundle's files; nothing of the tables is read into memory. */
export async function openBundle(dir: string, options: OpenOptions = {}): Promise<Bundle> {
  const { verify = 'full' } = options;
  oneOf('verify', verify, [...VERIFIES, 'later']);
  return openSpec(dir, await readModelSpec(dir), options);
}

async function openSpec(dir: string, spec: ModelSpec, options: OpenOptions): Promise<Bundle> {
  const wanted = heldTables(spec).map((held) => (held !== null && (options.tables?.has(held.spec.name) ?? true) ? held : null));
  const files = new Set(wanted.flatMap((held) => (held === null ? [] : [held.file, ...(held.keys === null ? [] : [held.keys.file])])));
  if (options.dense !== false) files.add(denseFile(spec));
  if (options.dense !== false && !holdsDense(spec))
    throw new TerabagError('bad_model', `bundle has no dense weights, it was published for shard ${spec.published?.shard}: ${dir}`, {
      dir,
    });
  const listed = listedFiles(dir, spec, [...files]);
  for (const { path, file, expected } of listed) await checkLength(path, file, expected);
  const openedAs = new Map<string, string>();
  for (const { path, file } of listed) openedAs.set(file, await fileIdentity(path, file));
  const tables: (OpenTable | null)[] = [];
  for (const held of wanted) tables.push(held === null ? null : await openTable(dir, held));
  const densePart = options.dense === false ? NO_DENSE : await openDense(dir, spec);
  const bundle = { dir, spec, hash: modelHash(spec), ...densePart, tables, openedAs };
  const { verify = 'full', onProgress } = options;
  if (verify !== 'later') await checkOpened(bundle, verify, onProgress);
  return bundle;
}

/** False of what is published for a sparse shard. */
export const holdsDense = (spec: ModelSpec): boolean => spec.published === undefined || Object.hasOwn(ownFiles(spec), denseFile(spec));

/** Bytes that checkOpened reads. */
export const bytesToCheck = (bundle: Bundle, verify: Verify): number => bytesToRead(openedFiles(bundle), verify, bundle.hash);

/**
 * Holds the files of a bundle that were opened against model.json. With it the model's hash, which covers the checksums, stands for what was
 * opened: a file that was replaced or written to since is refused (bad_table).
 */
export async function checkOpened(bundle: Bundle, verify: Verify, onProgress?: OpenOptions['onProgress']): Promise<void> {
  const files = openedFiles(bundle);
  const total = bytesToRead(files, verify, bundle.hash);
  let done = 0;
  await checkFiles(files, verify, bundle.hash, (bytes) => {
    done += bytes;
    onProgress?.(done, total);
  });
  for (const { path, file } of files) {
    if ((await fileIdentity(path, file)) !== bundle.openedAs.get(file))
      throw new TerabagError('bad_table', `file was changed while the bundle was opened; open it again: ${path}`, { file, path });
  }
}

export interface FileChange {
  /** Within the bundle. */
  readonly file: string;
  readonly path: string;
  readonly what: FileChangeKind;
}

/** What has become of the files that a bundle was opened of. */
export async function fileChanges(bundle: Bundle): Promise<FileChange[]> {
  const changes: FileChange[] = [];
  // One after another: threads that read files have other work.
  for (const { path, file } of openedFiles(bundle)) {
    const what = await fileChange(path, bundle.openedAs.get(file) ?? '');
    if (what !== null) changes.push({ file, path, what });
  }
  return changes;
}

const openedFiles = ({ dir, spec, openedAs }: Bundle): ListedFile[] => listedFiles(dir, spec, [...openedAs.keys()]);

/** Checks every file and returns what is wrong, one line per file. */
export async function verifyBundle(dir: string, onProgress?: OpenOptions['onProgress']): Promise<string[]> {
  const spec = await readModelSpec(dir);
  const hash = modelHash(spec);
  const problems: string[] = [];
  const files = Object.keys(ownFiles(spec));
  const total = Object.values(ownFiles(spec)).reduce((sum, expected) => sum + checkedBytes(expected), 0);
  let done = 0;
  for (const file of files) {
    try {
      await checkFiles(listedFiles(dir, spec, [file]), 'full', hash, (bytes) => {
        done += bytes;
        onProgress?.(done, total);
      });
    } catch (error) {
      problems.push(TerabagError.from(error).message);
    }
  }
  if (problems.length === 0)
    await openSpec(dir, spec, { verify: 'later', dense: holdsDense(spec) }).catch((error: unknown) =>
      problems.push(TerabagError.from(error).message),
    );
  return problems;
}

function listedFiles(dir: string, spec: ModelSpec, files: readonly string[]): ListedFile[] {
  const known = ownFiles(spec);
  return files.map((file) => {
    const expected = Object.hasOwn(known, file) ? known[file] : undefined;
    if (expected === undefined) throw new TerabagError('bad_model', `model.json: files: has no entry for ${file}`, { file });
    return { file, path: pathInside(dir, file), expected };
  });
}

async function openTable(dir: string, held: HeldTable): Promise<OpenTable> {
  const { spec } = held;
  const rows = held.rows + held.fallbackRows;
  const path = pathInside(dir, held.file);
  const header = held.byteOffset === null ? await readSafetensorsHeader(path) : await readTableFile(path, [spec]);
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
  const index = held.keys === null ? null : await openKeyIndex(dir, held, held.keys);
  return { ...held, path, byteOffset: tensor.byteOffset, rowBytes: tensor.bytes / rows, bytes: tensor.bytes, index };
}

async function openKeyIndex(
  dir: string,
  { spec, rows }: HeldTable,
  { file, tensor: name }: NonNullable<HeldTable['keys']>,
): Promise<OpenKeyIndex> {
  const path = pathInside(dir, file);
  const header = await readSafetensorsHeader(path);
  const tensor = header.tensors.get(name);
  const wrong = (what: string): TerabagError =>
    new TerabagError('bad_table', `keys of table ${spec.name}: ${what}: ${path}`, { table: spec.name, path });
  if (tensor === undefined) throw wrong(`no tensor ${name} in the file, it has ${[...header.tensors.keys()].join(', ')}`);
  const told = header.metadata[keyIndexKey(name)];
  const metadata = parseKeyIndex(told);
  if (metadata === null) throw wrong(`the file has to say ${keyIndexKey(name)}: terabag 1 keys N seed S: ${told ?? 'nothing'}`);
  const { dtype, shape, byteOffset, bytes } = tensor;
  const [buckets = 0, width] = shape;
  if (dtype !== 'U8' || shape.length !== 2 || width !== BUCKET_BYTES)
    throw wrong(`a key index is U8 [buckets, ${BUCKET_BYTES}]: ${dtype} ${shape.join('x')}`);
  if (metadata.keys !== rows) throw wrong(`every row has one key: keys ${metadata.keys}, rows ${rows}`);
  if (!soundBuckets(metadata.keys, buckets))
    throw wrong(`so many keys do not have so many buckets: keys ${metadata.keys}, buckets ${buckets}`);
  return { ...metadata, path, byteOffset, buckets, bytes };
}

type DenseTensors = Bundle['dense'];
type DensePart = Pick<Bundle, 'model' | 'dense' | 'onnx'>;
const NO_DENSE: DensePart = { model: null, dense: new Map(), onnx: null };
const NO_SHAPES: ReadonlyMap<string, readonly number[]> = new Map();
/** Protobuf has no larger messages. */
const MOST_ONNX_BYTES = 2 ** 31 - 1;

async function openDense(dir: string, spec: ModelSpec): Promise<DensePart> {
  if (spec.onnx !== undefined) return openOnnx(spec, pathInside(dir, spec.onnx.file));
  const header = await readSafetensorsHeader(join(dir, DENSE_FILE));
  const model = resolveModel(spec, new Map([...header.tensors].map(([name, { shape }]) => [name, shape])));
  return { model, dense: await readDense(header, model), onnx: null };
}

async function openOnnx(spec: ModelSpec, path: string): Promise<DensePart> {
  const bytes = spec.files[denseFile(spec)]?.bytes ?? 0;
  if (bytes > MOST_ONNX_BYTES)
    throw new TerabagError('bad_model', `an ONNX model has at most ${MOST_ONNX_BYTES} bytes: ${bytes}: ${path}`, { path, bytes });
  const onnx = await readFile(path).catch((error: unknown) => {
    throw fileError(error, 'ONNX model cannot be read', path, 'bad_model');
  });
  return { model: resolveModel(spec, NO_SHAPES, readOnnxSignature(onnx, path)), dense: new Map(), onnx };
}

/** The tensors that the model's layers name. Weights that are not finite rank nothing, whatever is asked: they are refused. */
async function readDense(header: SafetensorsHeader, model: ResolvedModel): Promise<DenseTensors> {
  const named = new Set(model.layers.flatMap(({ tensors }) => tensors).filter((name) => name !== null));
  const tensors = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  for (const name of named) {
    const tensor = header.tensors.get(name);
    if (tensor === undefined) throw new TerabagError('bad_model', `no such tensor in ${DENSE_FILE}: ${name}`, { tensor: name });
    const { dtype, shape } = tensor;
    if (!isFloatDtype(dtype)) {
      const what = `dense weights have to be ${FLOAT_DTYPES.join(', ')}: ${name} is ${dtype}: ${header.path}`;
      throw new TerabagError('bad_model', what, { tensor: name });
    }
    const bytes = await readTensor(header, tensor);
    const data = toFloat32(dtype, bytes);
    if (!isFinite32(data)) {
      const position = data.findIndex((value) => !Number.isFinite(value));
      throw notFinite(header.path, name, shape, { position, value: valueAt(dtype, bytes, position) });
    }
    tensors.set(name, { shape, data });
  }
  return tensors;
}

/** Of the first value that float32 does not hold. */
function notFinite(
  path: string,
  tensor: string,
  shape: readonly number[],
  { position, value: given }: { readonly position: number; readonly value: number },
): TerabagError {
  const value = String(given);
  const wanted = Number.isFinite(given) ? 'within what float32 holds' : 'finite';
  return new TerabagError(
    'bad_model',
    `dense weights have to be ${wanted}: ${tensor} ${shape.join('x')}, position ${position}, ${value}: ${path}`,
    { tensor, position, value, path },
  );
}
