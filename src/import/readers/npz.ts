import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Extent } from '../../tables/blocks.js';
import { readJsonFile } from '../../tables/json-file.js';
import {
  badCheckpoint,
  type Checkpoint,
  type CheckpointTensor,
  type Dtype,
  dtypeBytes,
  isCounts,
  type Piece,
  type QuantizedRows,
  rowMajor,
  valuesOf,
} from '../checkpoint.js';
import type { CheckpointFiles } from '../open-files.js';
import { entryExtent, readZip, type Zip, type ZipEntry } from '../zip.js';

/** NumPy's dtypes in this machine's order of bytes. */
const NUMPY_DTYPES: ReadonlyMap<string, Dtype> = new Map([
  ['<f8', 'F64'],
  ['<f4', 'F32'],
  ['<f2', 'F16'],
  ['<i8', 'I64'],
  ['<u8', 'U64'],
  ['<i4', 'I32'],
  ['<u4', 'U32'],
  ['<i2', 'I16'],
  ['<u2', 'U16'],
  ['|i1', 'I8'],
  ['|u1', 'U8'],
  ['|b1', 'BOOL'],
]);
const ARRAY = '.npy';
const MAGIC = Buffer.from('\x93NUMPY', 'latin1');
/** Of a plain array they have some hundred bytes. */
const MOST_HEADER_BYTES = 65_536;

export const hasArrays = ({ entries }: Zip): boolean => [...entries.keys()].some((name) => name.endsWith(ARRAY));

/** An .npz file: a zip of arrays that numpy.savez wrote. */
export async function readNpz(files: CheckpointFiles, zip: Zip): Promise<Checkpoint> {
  const arrays = new Arrays(files);
  await arrays.add(zip);
  return arrays.checkpoint(zip.path, 'numpy.savez');
}

/** What TorchEasyRec's distributed export writes for each rank: tables, and tables that are keyed by id. */
const RANK_FILE = /^(sparse_(?:embeddings|dynamic_embedding))-(\d+)-of-(\d+)\.npz$/;
/** Rows of bytes, then scale and offset as float16: what int8_fp16 is here. */
const QUANTIZED_DTYPE = 'QUint8RowwiseF16';

const tablesSchema = z.record(
  z.string(),
  z.object({
    dimension: z.number().int().min(1),
    dtype: z.string(),
    key_name: z.string().optional(),
    value_name: z.string().optional(),
    default_value_name: z.string().optional(),
  }),
);

interface RankFile {
  readonly file: string;
  /** All of a kind are those of the ranks from 0 to ranks - 1. */
  readonly kind: string;
  readonly rank: number;
  readonly ranks: number;
}

/** The ranks' files in a directory, in their order; none when it is no such export. Rows of a rank that is missing would be those of the next. */
export async function torchEasyRecFiles(directory: string): Promise<string[]> {
  const files = (await readdir(directory)).flatMap((file): RankFile[] => {
    const [, kind, rank, ranks] = RANK_FILE.exec(file) ?? [];
    return kind === undefined ? [] : [{ file, kind, rank: Number(rank), ranks: Number(ranks) }];
  });
  return [...new Set(files.map(({ kind }) => kind))].sort().flatMap((kind) => {
    const ofKind = files.filter((file) => file.kind === kind).sort((a, b) => a.rank - b.rank);
    const wrong = ofKind.findIndex(({ rank, ranks }, at) => rank !== at || ranks !== ofKind.length);
    if (wrong >= 0)
      throw badCheckpoint(directory, `files of ranks are missing or of several exports: ${ofKind[wrong]?.file}, files ${ofKind.length}`);
    return ofKind.map(({ file }) => file);
  });
}

/** A table's rows are those of its ranks, one after another. */
export async function readTorchEasyRec(files: CheckpointFiles, directory: string, ranks: readonly string[]): Promise<Checkpoint> {
  const quantized = new Map<string, QuantizedRows>();
  const keyedBy = new Map<string, string>();
  for (const name of (await readdir(directory)).filter((other) => /^sparse_embeddings-.*\.json$/.test(other)).sort()) {
    const tables = await readJsonFile(join(directory, name), { what: 'description of tables', code: 'bad_checkpoint' }, tablesSchema);
    for (const [table, { dimension: dim, dtype, key_name: keys, value_name: values = table, default_value_name: other }] of Object.entries(
      tables,
    )) {
      if (keys !== undefined) keyedBy.set(values, keys);
      if (dtype !== QUANTIZED_DTYPE) continue;
      for (const tensor of [values, ...(other === undefined ? [] : [other])]) quantized.set(tensor, { format: 'int8_fp16', dim });
    }
  }
  const arrays = new Arrays(files, quantized, keyedBy);
  for (const rank of ranks) {
    const path = join(directory, rank);
    await arrays.add(await readZip(files, path, { from: 0, bytes: await files.size(path) }));
  }
  return arrays.checkpoint(directory, 'TorchEasyRec');
}

interface StoredArray {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly piece: Piece;
}

/** Arrays of one or more zips. */
class Arrays {
  readonly #arrays = new Map<string, StoredArray[]>();
  readonly #skipped = new Map<string, string>();
  readonly #marks = new Map<string, Extent[]>();

  constructor(
    private readonly files: CheckpointFiles,
    private readonly quantized: ReadonlyMap<string, QuantizedRows> = new Map(),
    /** By the name of a table's values, that of its keys. */
    private readonly keyedBy: ReadonlyMap<string, string> = new Map(),
  ) {}

  async add(zip: Zip): Promise<void> {
    this.#marks.set(zip.path, [zip.directory]);
    for (const entry of zip.entries.values()) {
      if (!entry.name.endsWith(ARRAY)) continue;
      const name = entry.name.slice(0, -ARRAY.length);
      const array = await readArray(this.files, zip, entry);
      if (typeof array === 'string') this.#skipped.set(name, array);
      else this.#arrays.set(name, [...(this.#arrays.get(name) ?? []), array]);
    }
  }

  checkpoint(path: string, kind: string): Checkpoint {
    const tensors = [...this.#arrays].map(([name, arrays]): [string, CheckpointTensor] => [name, this.#tensor(path, name, arrays)]);
    return { path, kind, tensors: new Map(tensors), inModelOrder: false, skipped: this.#skipped, marks: this.#marks };
  }

  #tensor(path: string, name: string, arrays: readonly StoredArray[]): CheckpointTensor {
    const [{ dtype, shape }] = arrays as [StoredArray, ...StoredArray[]];
    const inner = shape.slice(1);
    if (
      arrays.length > 1 &&
      arrays.some((array) => array.dtype !== dtype || array.shape.length === 0 || array.shape.slice(1).join() !== inner.join())
    )
      throw badCheckpoint(path, `parts of a table differ in dtype or dims: ${name}`, { tensor: name });
    let row = 0;
    const pieces = arrays.map(({ piece, shape: [rows = 0] }): Piece => {
      const offsets = arrays.length === 1 ? piece.offsets : [row, ...inner.map(() => 0)];
      row += rows;
      return { ...piece, offsets };
    });
    const quantized = this.quantized.get(name);
    const keyedBy = this.#keysOf(path, name, arrays);
    return {
      name,
      dtype,
      shape: arrays.length === 1 ? shape : [row, ...inner],
      pieces: async () => pieces,
      ...(quantized && { quantized }),
      ...(keyedBy !== undefined && { keyedBy }),
    };
  }

  /** Parts of rows and of keys follow one another alike only where each has as many of both. */
  #keysOf(path: string, name: string, arrays: readonly StoredArray[]): string | undefined {
    const keyedBy = this.keyedBy.get(name);
    const counts = (parts: readonly StoredArray[]): string => parts.map(({ shape: [count = 0] }) => count).join(', ');
    const keys = this.#arrays.get(keyedBy ?? '');
    if (keys !== undefined && counts(keys) !== counts(arrays))
      throw badCheckpoint(
        path,
        `parts of a table have not as many keys as rows: ${name} has ${counts(arrays)} rows, ${keyedBy} ${counts(keys)}`,
        { tensor: name },
      );
    return keyedBy;
  }
}

/** A text says why it cannot be served. */
async function readArray(files: CheckpointFiles, zip: Zip, entry: ZipEntry): Promise<StoredArray | string> {
  const known = await entryExtent(files, zip, entry);
  const bad = (what: string) => badCheckpoint(zip.path, `not a sound array of NumPy: ${entry.name}, ${what}`, { tensor: entry.name });
  if (known.bytes < 12) throw bad(`${known.bytes} bytes`);
  const start = await files.read(zip.path, known.from, 12);
  const version = start[6] as number;
  if (!start.subarray(0, 6).equals(MAGIC) || version < 1 || version > 3) throw bad('it does not start as one');
  const headerStart = version === 1 ? 10 : 12;
  const headerBytes = version === 1 ? start.readUInt16LE(8) : start.readUInt32LE(8);
  if (headerBytes > MOST_HEADER_BYTES || headerStart + headerBytes > known.bytes) throw bad(`header of ${headerBytes} bytes`);
  const header = (await files.read(zip.path, known.from + headerStart, headerBytes)).toString('latin1');
  const described = describedArray(header);
  if (described === null) throw bad(`header ${JSON.stringify(header.slice(0, 100))}`);
  const { descr, fortran, shape } = described;
  const dtype = NUMPY_DTYPES.get(descr);
  if (dtype === undefined) return `its values are ${descr.slice(0, 40)}`;
  const values = valuesOf(shape) * dtypeBytes(dtype);
  if (!isCounts(shape) || values !== known.bytes - headerStart - headerBytes)
    throw bad(`${known.bytes - headerStart - headerBytes} bytes of values, expected ${values} of shape ${shape.join('x')}`);
  const strides = fortran ? rowMajor(shape.toReversed()).reverse() : rowMajor(shape);
  const byteOffset = known.from + headerStart + headerBytes;
  return { dtype, shape, piece: { path: zip.path, byteOffset, offsets: shape.map(() => 0), sizes: shape, strides, known, header: null } };
}

/** A dict of Python with three keys, in any order; null of what is none. Records have a list as their descr, and are told by it. */
function describedArray(header: string): { descr: string; fortran: boolean; shape: number[] } | null {
  const descr = /'descr': *(?:'([^']*)'|(\[[^\]]*\]))/.exec(header);
  const fortran = /'fortran_order': *(True|False)/.exec(header)?.[1];
  const shape = /'shape': *\(([\d, ]*)\)/.exec(header)?.[1];
  if (descr === null || fortran === undefined || shape === undefined) return null;
  return { descr: descr[1] ?? descr[2] ?? '', fortran: fortran === 'True', shape: (shape.match(/\d+/g) ?? []).map(Number) };
}
