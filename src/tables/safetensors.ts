import { open } from 'node:fs/promises';
import { TerabagError } from '../errors.js';
import { AtomicFile } from './atomic.js';
import { BlockWriter } from './block-writer.js';
import { readFully } from './blocks.js';
import { ChunkedCrc32, type FileChecksum } from './checksum.js';

/** The safetensors format: u64 header length, JSON header, data. https://huggingface.co/docs/safetensors */
const LENGTH_BYTES = 8;
/** What tables are aligned to in a file, so that a mapping may start where their data does. */
export const PAGE_BYTES = 4096;
const MAX_HEADER_BYTES = 100_000_000;
const DTYPE_BYTES: Readonly<Record<string, number>> = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
};

export interface TensorInfo {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly byteOffset: number;
  readonly bytes: number;
}

export interface SafetensorsHeader {
  readonly path: string;
  readonly fileBytes: number;
  readonly dataStart: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
}

/** Reads and checks a header: every extent lies in the file, fits its shape, and extents neither overlap nor leave holes. */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  const bad = (what: string): TerabagError => new TerabagError('bad_table', `not a sound safetensors file: ${what}: ${path}`, { path });
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    throw new TerabagError('bad_table', `file cannot be opened (${error.code}): ${path}`, { path }, { cause: error });
  });
  try {
    const fileBytes = (await file.stat()).size;
    const start = Buffer.alloc(LENGTH_BYTES);
    if ((await file.read(start, 0, LENGTH_BYTES, 0)).bytesRead !== LENGTH_BYTES) throw bad(`shorter than its first ${LENGTH_BYTES} bytes`);
    const headerBytes = start.readBigUInt64LE();
    if (headerBytes < 2n || headerBytes > MAX_HEADER_BYTES || headerBytes > fileBytes - LENGTH_BYTES)
      throw bad(`header of ${headerBytes} bytes in a file of ${fileBytes}`);
    const header = Buffer.alloc(Number(headerBytes));
    if ((await file.read(header, 0, header.length, LENGTH_BYTES)).bytesRead !== header.length) throw bad('header is cut off');
    let json: unknown;
    try {
      json = JSON.parse(header.toString('utf8'));
    } catch {
      throw bad('header is not JSON');
    }
    if (typeof json !== 'object' || json === null || Array.isArray(json)) throw bad('header is not a JSON object');
    const dataStart = LENGTH_BYTES + header.length;
    const { __metadata__: metadata = {}, ...entries } = json as Record<string, unknown>;
    if (typeof metadata !== 'object' || metadata === null || Object.values(metadata).some((value) => typeof value !== 'string'))
      throw bad('__metadata__ is not a map of strings');
    const tensors = new Map(Object.entries(entries).map(([name, entry]) => [name, tensorInfo(name, entry, dataStart, bad)]));
    let end = dataStart;
    for (const [name, tensor] of [...tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.bytes - b.bytes)) {
      if (tensor.byteOffset !== end) throw bad(`tensor ${name} starts at ${tensor.byteOffset}, expected ${end}`);
      end += tensor.bytes;
    }
    if (end !== fileBytes) throw bad(`tensors end at ${end}, the file has ${fileBytes} bytes (truncated?)`);
    return { path, fileBytes, dataStart, metadata: metadata as Record<string, string>, tensors };
  } catch (error) {
    // A directory opens, but does not read.
    throw TerabagError.from(error, 'bad_table');
  } finally {
    await file.close();
  }
}

function tensorInfo(name: string, entry: unknown, dataStart: number, bad: (what: string) => TerabagError): TensorInfo {
  if (typeof entry !== 'object' || entry === null) throw bad(`tensor ${name} is not an object`);
  const { dtype, shape, data_offsets: offsets } = entry as Record<string, unknown>;
  const size = typeof dtype === 'string' && Object.hasOwn(DTYPE_BYTES, dtype) ? DTYPE_BYTES[dtype] : undefined;
  if (typeof dtype !== 'string' || size === undefined) throw bad(`tensor ${name} has an unknown dtype ${JSON.stringify(dtype)}`);
  const counts = (value: unknown): value is number[] =>
    Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && count >= 0);
  if (!counts(shape)) throw bad(`tensor ${name} has no sound shape`);
  if (!counts(offsets) || offsets.length !== 2) throw bad(`tensor ${name} has no sound data_offsets`);
  const [from = 0, to = 0] = offsets;
  const bytes = shape.reduce((product, count) => product * BigInt(count), BigInt(size));
  if (to < from || BigInt(to - from) !== bytes)
    throw bad(`tensor ${name} of shape ${shape.join('x')} needs ${bytes} bytes, data_offsets give ${to - from}`);
  return { dtype, shape, byteOffset: dataStart + from, bytes: to - from };
}

/** Reads one tensor's bytes into memory of its own. */
export async function readTensor(header: SafetensorsHeader, tensor: TensorInfo): Promise<Uint8Array<ArrayBuffer>> {
  const file = await open(header.path, 'r');
  try {
    const bytes = new Uint8Array(tensor.bytes);
    await readFully(file, header.path, tensor.byteOffset, bytes);
    return bytes;
  } finally {
    await file.close();
  }
}

export interface TensorShape {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
}

export interface TensorToWrite extends TensorShape {
  /** Pieces may share one buffer: each is done with before the next is asked for. */
  readonly data: Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}

export interface WriteOptions {
  readonly metadata?: Readonly<Record<string, string>>;
  /** The data starts on a multiple of it: the header is padded with spaces. Default 8. */
  readonly align?: number;
}

/** Length, header, and how many bytes the file will have. */
function encodeStart(tensors: readonly TensorShape[], { metadata, align = 8 }: WriteOptions): { start: Buffer; fileBytes: number } {
  const entries = new Map<string, unknown>(metadata === undefined ? [] : [['__metadata__', metadata]]);
  let end = 0;
  for (const { name, dtype, shape } of tensors) {
    const bytes = shape.reduce((product, count) => product * count, DTYPE_BYTES[dtype] ?? Number.NaN);
    if (!Number.isSafeInteger(bytes))
      throw new TerabagError('invalid_argument', `tensor has an unknown dtype or is too large: ${name}, ${dtype} ${shape.join('x')}`);
    entries.set(name, { dtype, shape, data_offsets: [end, end + bytes] });
    end += bytes;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const headerBytes = Math.ceil((LENGTH_BYTES + json.length) / align) * align - LENGTH_BYTES;
  const start = Buffer.alloc(LENGTH_BYTES + headerBytes, ' ');
  start.writeBigUInt64LE(BigInt(headerBytes));
  json.copy(start, LENGTH_BYTES);
  return { start, fileBytes: start.length + end };
}

/** Writes a file whose tensors come in pieces, in their order. It appears with commit; what is not committed has to be discarded. */
export class SafetensorsWriter {
  readonly #sum = new ChunkedCrc32();
  readonly #blocks: BlockWriter;

  private constructor(
    private readonly atomic: AtomicFile,
    private readonly fileBytes: number,
  ) {
    this.#blocks = new BlockWriter(atomic.file, fileBytes);
  }

  static async create(path: string, tensors: readonly TensorShape[], options: WriteOptions = {}): Promise<SafetensorsWriter> {
    const { start, fileBytes } = encodeStart(tensors, options);
    const writer = new SafetensorsWriter(await AtomicFile.create(path), fileBytes);
    try {
      await writer.put(start);
      return writer;
    } catch (error) {
      await writer.discard();
      throw error;
    }
  }

  /** The bytes are copied. */
  put(bytes: Uint8Array): Promise<void> {
    this.#sum.update(bytes);
    return this.#blocks.put(bytes);
  }

  async commit(): Promise<FileChecksum> {
    await this.#blocks.flush();
    const checksum = this.#sum.digest();
    if (checksum.bytes !== this.fileBytes)
      throw new TerabagError(
        'invalid_argument',
        `data and shapes differ: ${this.atomic.path}, ${checksum.bytes} bytes, expected ${this.fileBytes}`,
      );
    await this.atomic.commit();
    return checksum;
  }

  discard(): Promise<void> {
    return this.atomic.discard();
  }
}

/** Streams tensors into a file, atomically. */
export async function writeSafetensors(path: string, tensors: readonly TensorToWrite[], options: WriteOptions = {}): Promise<FileChecksum> {
  const writer = await SafetensorsWriter.create(path, tensors, options);
  try {
    for (const { data } of tensors) for await (const piece of data instanceof Uint8Array ? [data] : data) await writer.put(piece);
    return await writer.commit();
  } catch (error) {
    await writer.discard();
    throw error;
  }
}
