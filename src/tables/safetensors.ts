import { TerabagError } from '../errors.js';
import { AtomicFile, outputError } from './atomic.js';
import { BlockWriter } from './block-writer.js';
import { openToRead, readFully } from './blocks.js';
import { ChunkedCrc32, type FileChecksum } from './checksum.js';
import { fileError } from './file-error.js';
import { decodeExactly, type JsonPath, parseJson } from './json.js';

/** The safetensors format: u64 header length, JSON header, data. https://huggingface.co/docs/safetensors */
const LENGTH_BYTES = 8;
/** What tables are aligned to in a file, so that a mapping may start where their data does. */
export const PAGE_BYTES = 4096;
/** As the official reader has it. */
const MAX_HEADER_BYTES = 100_000_000;
const METADATA_KEY = '__metadata__';
/** Bits of one value. Tensors may have other dtypes, which this version does not know: only their extents are checked. */
const DTYPE_BITS: Readonly<Record<string, number>> = {
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
  F32: 32,
  I32: 32,
  U32: 32,
  F16: 16,
  BF16: 16,
  I16: 16,
  U16: 16,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  I8: 8,
  U8: 8,
  BOOL: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4,
};

export interface TensorInfo {
  /** Any text: who uses the tensor refuses what it cannot read. */
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

type Refuse = (what: string) => TerabagError;

/**
 * Reads and checks a header, as strictly as the official reader does: UTF-8, no key twice, shapes and offsets of unsigned integers, every extent
 * in the file and of its shape's size, no two that overlap and no hole between them. Tensors may be of any dtype. An unsound file is a bad_table.
 */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  const unreadable = (error: unknown): TerabagError => fileError(error, 'file cannot be read', path, 'bad_table');
  const file = await openToRead(path);
  try {
    const fileBytes = (await file.stat()).size;
    const start = Buffer.alloc(LENGTH_BYTES);
    // A directory opens, but does not read.
    const { bytesRead } = await file.read(start, 0, LENGTH_BYTES, 0);
    const bad = unsound(path);
    if (bytesRead !== LENGTH_BYTES) throw bad(`shorter than its first ${LENGTH_BYTES} bytes`);
    const headerBytes = start.readBigUInt64LE();
    const told = `header of ${headerBytes} bytes`;
    if (headerBytes < 2n || headerBytes > fileBytes - LENGTH_BYTES) throw bad(`${told} in a file of ${fileBytes}`);
    if (headerBytes > MAX_HEADER_BYTES) throw bad(`${told}, the limit is ${MAX_HEADER_BYTES}`);
    const header = Buffer.alloc(Number(headerBytes));
    await readFully(file, path, LENGTH_BYTES, header);
    return parseHeader(header, fileBytes, path);
  } catch (error) {
    throw unreadable(error);
  } finally {
    await file.close();
  }
}

const unsound =
  (path: string): Refuse =>
  (what) =>
    new TerabagError('bad_table', `not a sound safetensors file: ${what}: ${path}`, { path });

/** header: what stands between the length and the data. */
function parseHeader(header: Uint8Array, fileBytes: number, path: string): SafetensorsHeader {
  const bad = unsound(path);
  const { metadata, entries } = headerEntries(header, bad);
  const dataStart = LENGTH_BYTES + header.length;
  const tensors = new Map(entries.map(([name, entry]) => [name, tensorInfo(name, entry, dataStart, bad)]));
  let end = dataStart;
  for (const [name, tensor] of [...tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.bytes - b.bytes)) {
    if (tensor.byteOffset !== end) throw bad(`tensor ${name} starts at ${tensor.byteOffset}, expected ${end}`);
    end += tensor.bytes;
  }
  if (end !== fileBytes) throw bad(`tensors end at ${end}, the file has ${fileBytes} bytes (truncated?)`);
  return { path, fileBytes, dataStart, metadata, tensors };
}

function headerEntries(header: Uint8Array, bad: Refuse): { metadata: Record<string, string>; entries: [string, unknown][] } {
  const text = decodeExactly(header);
  if (text === null) throw bad('header is not UTF-8');
  if (!text.startsWith('{')) throw bad(`header has to start with {: ${JSON.stringify(text.slice(0, 1))}`);
  let json: Record<string, unknown>;
  try {
    json = parseJson(text, (digits, path) => refuseFraction(digits, path, bad)) as Record<string, unknown>;
  } catch (error) {
    if (error instanceof TerabagError) throw error;
    throw bad(`header is not sound JSON: ${(error as SyntaxError).message}`);
  }
  const metadata = (Object.hasOwn(json, METADATA_KEY) ? json[METADATA_KEY] : null) ?? {};
  if (typeof metadata !== 'object' || Array.isArray(metadata) || Object.values(metadata).some((value) => typeof value !== 'string'))
    throw bad(`${METADATA_KEY} is not a map of strings`);
  return { metadata: metadata as Record<string, string>, entries: Object.entries(json).filter(([name]) => name !== METADATA_KEY) };
}

/** The shape and the offsets of a tensor are integers as they are written: 4.0 and 4e0 are none, and -0 has a sign. */
function refuseFraction(digits: string, path: JsonPath, bad: Refuse): void {
  const [name, field, position] = path;
  if (name === METADATA_KEY || (field !== 'shape' && field !== 'data_offsets') || position === undefined) return;
  if (!/^\d+$/.test(digits)) throw bad(`tensor ${name} has no sound ${field}: an unsigned integer is expected: ${digits}`);
}

function tensorInfo(name: string, entry: unknown, dataStart: number, bad: Refuse): TensorInfo {
  if (typeof entry !== 'object' || entry === null) throw bad(`tensor ${name} is not an object`);
  const { dtype, shape, data_offsets: offsets } = entry as Record<string, unknown>;
  if (typeof dtype !== 'string') throw bad(`tensor ${name} has no dtype that is a string: ${JSON.stringify(dtype)}`);
  const counts = (value: unknown): value is number[] =>
    Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && count >= 0);
  if (!counts(shape)) throw bad(`tensor ${name} has no sound shape`);
  if (!counts(offsets) || offsets.length !== 2) throw bad(`tensor ${name} has no sound data_offsets`);
  const [from = 0, to = 0] = offsets;
  if (to < from) throw bad(`tensor ${name} ends before it starts: data_offsets ${from} and ${to}`);
  const bits = bitsOf(dtype, shape);
  if (bits !== null && BigInt(to - from) * 8n !== bits)
    throw bad(`tensor ${name} of shape ${shape.join('x')} needs ${Number(bits) / 8} bytes, data_offsets give ${to - from}`);
  return { dtype, shape, byteOffset: dataStart + from, bytes: to - from };
}

/** Null when the dtype is unknown. A tensor without dims is one value. */
function bitsOf(dtype: string, shape: readonly number[]): bigint | null {
  if (!Object.hasOwn(DTYPE_BITS, dtype)) return null;
  return shape.reduce((product, count) => product * BigInt(count), BigInt(DTYPE_BITS[dtype] as number));
}

/** Reads one tensor's bytes into memory of its own. */
export async function readTensor(header: SafetensorsHeader, tensor: TensorInfo): Promise<Uint8Array<ArrayBuffer>> {
  const file = await openToRead(header.path);
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
  /** Length of the data; has to be given where the dtype does not tell. */
  readonly bytes?: number;
}

export interface TensorToWrite extends TensorShape {
  /** Pieces may share one buffer: each is done with before the next is asked for. */
  readonly data: Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;
}

export interface WriteOptions {
  readonly metadata?: Readonly<Record<string, string>>;
  /** The data starts on a multiple of it: the header is padded with spaces. Default 8. */
  readonly align?: number;
  /** Reads what was written before it gets its name, which it does not when this throws; the header was read already. */
  readonly check?: (written: SafetensorsHeader) => Promise<void>;
}

/** Length, header, and how many bytes the file will have. What the reader would refuse is refused here, before anything is written. */
function encodeStart(
  path: string,
  tensors: readonly TensorShape[],
  { metadata, align = 8 }: WriteOptions,
): { start: Buffer; fileBytes: number } {
  const refuse = (what: string): TerabagError =>
    new TerabagError('invalid_argument', `cannot be written as safetensors: ${what}: ${path}`, { path });
  const entries = new Map<string, unknown>(metadata === undefined ? [] : [[METADATA_KEY, metadata]]);
  let end = 0;
  for (const { name, dtype, shape, bytes: given } of tensors) {
    if (name === METADATA_KEY || entries.has(name)) throw refuse(`the name of a tensor is taken: ${name}`);
    const bits = bitsOf(dtype, shape);
    const bytes = given ?? (bits === null ? Number.NaN : Number(bits) / 8);
    if (!Number.isSafeInteger(bytes)) throw refuse(`tensor has an unknown dtype or is too large: ${name}, ${dtype} ${shape.join('x')}`);
    entries.set(name, { dtype, shape, data_offsets: [end, end + bytes] });
    end += bytes;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const headerBytes = Math.ceil((LENGTH_BYTES + json.length) / align) * align - LENGTH_BYTES;
  if (headerBytes > MAX_HEADER_BYTES) throw refuse(`header of ${headerBytes} bytes, the limit is ${MAX_HEADER_BYTES}`);
  const start = Buffer.alloc(LENGTH_BYTES + headerBytes, ' ');
  start.writeBigUInt64LE(BigInt(headerBytes));
  json.copy(start, LENGTH_BYTES);
  const fileBytes = start.length + end;
  try {
    parseHeader(start.subarray(LENGTH_BYTES), fileBytes, path);
  } catch (error) {
    throw refuse(TerabagError.from(error).message);
  }
  return { start, fileBytes };
}

/** Writes a file whose tensors come in pieces, in their order. It appears with commit; what is not committed has to be discarded. */
export class SafetensorsWriter {
  readonly #sum = new ChunkedCrc32();
  readonly #blocks: BlockWriter;

  private constructor(
    private readonly atomic: AtomicFile,
    private readonly fileBytes: number,
    private readonly check: NonNullable<WriteOptions['check']> = async () => undefined,
  ) {
    this.#blocks = new BlockWriter(atomic.file, fileBytes);
  }

  static async create(path: string, tensors: readonly TensorShape[], options: WriteOptions = {}): Promise<SafetensorsWriter> {
    const { start, fileBytes } = encodeStart(path, tensors, options);
    const writer = new SafetensorsWriter(await AtomicFile.create(path), fileBytes, options.check);
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
        { path: this.atomic.path },
      );
    await this.atomic.commit(async (written) => this.check(await readSafetensorsHeader(written)));
    return checksum;
  }

  discard(): Promise<void> {
    return this.atomic.discard();
  }
}

/** Streams tensors into a file, atomically. */
export async function writeSafetensors(path: string, tensors: readonly TensorToWrite[], options: WriteOptions = {}): Promise<FileChecksum> {
  const writer = await SafetensorsWriter.create(path, tensors, options).catch((error: unknown) => {
    throw outputError(error, path);
  });
  try {
    for (const { data } of tensors) for await (const piece of data instanceof Uint8Array ? [data] : data) await writer.put(piece);
    return await writer.commit();
  } catch (error) {
    await writer.discard();
    throw outputError(error, path);
  }
}
