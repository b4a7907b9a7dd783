import { dirname } from 'node:path';
import { getSystemErrorName } from 'node:util';
import { TerabagError } from '../errors.js';
import { outputError } from '../tables/atomic.js';
import { openToRead, readBlocks } from '../tables/blocks.js';
import type { FileChecksum } from '../tables/checksum.js';
import { BUCKET_BYTES, BUCKET_KEYS, formatKeyIndex, type KeyIndexMetadata, keyIndexKey, MAX_KEYS } from '../tables/key-index.js';
import { PAGE_BYTES, writeSafetensors } from '../tables/safetensors.js';
import { type NativeKeyIndexBuilder, type NativeKeysByRow, type NativeStatusError, native } from './native.js';

/** Keys in the order of the rows; as bytes, 8 little-endian ones each. Signed and unsigned keys are the same 64 bits. */
export type KeyBlock = BigInt64Array | BigUint64Array | Uint8Array;

export interface KeyIndexOptions {
  /** Rows of the table; each has one key. */
  readonly rows: number;
  /** In blocks of any length, 10^5 keys or more for speed. A block may be used again when the next is asked for. */
  readonly keys: Iterable<KeyBlock> | AsyncIterable<KeyBlock>;
  /** Name of the index's tensor; default keys. */
  readonly tensor?: string;
  /** Ends it with `aborted`, and leaves no file. */
  readonly signal?: AbortSignal | undefined;
  /** Work that is done, of what there is: every key is read, sorted and written. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Keys that are sorted in memory at a time, 32 bytes each; the others wait in a file beside the output. Default, and most, 2^21. */
  readonly keysInMemory?: number;
}

export interface WrittenKeyIndex extends FileChecksum {
  readonly tensor: string;
  readonly buckets: number;
  readonly seed: number;
}

/** Buckets that are read or written at a time: 4 MiB. */
const BUCKETS_AT_ONCE = 2 ** 16;

/**
 * Writes the index of a table's keys as a safetensors file: what `keys` of a table in model.json names, beside the rows, whose order stays.
 * Streams; memory stays the same for any number of keys, and the disk has to have room for 16 bytes a key more while it runs. The same keys give
 * the same bytes. A key of two rows is refused (bad_table), and so are more or fewer keys than rows (invalid_argument).
 *
 *   const { tensor, bytes, crc32 } = await writeKeyIndex(join(dir, 'tables/user.keys.safetensors'), { rows, keys: blocksOfInt64() });
 *   // model.json: tables[i].keys = { file: 'tables/user.keys.safetensors', tensor }; files[...] = { bytes, crc32 }
 */
export async function writeKeyIndex(path: string, options: KeyIndexOptions): Promise<WrittenKeyIndex> {
  const { rows, keys, signal, onProgress = () => undefined } = options;
  const writer = new KeyIndexWriter(path, options);
  const total = 3 * rows;
  try {
    for await (const block of keys) {
      if (signal?.aborted) throw interrupted(path);
      onProgress(await writer.add(block), total);
    }
    return await writer.finish({ signal, onProgress: (done) => onProgress(rows + Math.floor(2 * rows * done), total) });
  } catch (error) {
    // What the source of the keys throws is passed on as it is.
    throw indexError(error, path, rows);
  } finally {
    writer.close();
  }
}

const interrupted = (path: string): TerabagError => new TerabagError('aborted', `writing a key index was interrupted: ${path}`, { path });

export interface KeyIndexFinish {
  readonly signal?: AbortSignal | undefined;
  /** Of 1. */
  readonly onProgress?: (done: number) => void;
}

/** An index whose keys come as their source has them: what writeKeyIndex does, step by step. To be closed. */
export class KeyIndexWriter {
  readonly #builder: NativeKeyIndexBuilder;
  readonly #rows: number;
  readonly #tensor: string;
  #added = 0;

  constructor(
    private readonly path: string,
    { rows, tensor = 'keys', keysInMemory }: Pick<KeyIndexOptions, 'rows' | 'tensor' | 'keysInMemory'>,
  ) {
    if (!Number.isInteger(rows) || rows < 1 || rows > MAX_KEYS)
      throw new TerabagError('invalid_argument', `a keyed table has 1 to ${MAX_KEYS} rows: ${rows}: ${path}`, { field: 'rows' });
    [this.#rows, this.#tensor] = [rows, tensor];
    try {
      this.#builder = new native.KeyIndexBuilder(rows, dirname(path), keysInMemory);
    } catch (error) {
      throw indexError(error, path, rows);
    }
  }

  /** The keys of the next rows; how many there are by now. The block may be used again when it settles. */
  async add(block: KeyBlock): Promise<number> {
    if (block.byteLength % 8 !== 0)
      throw new TerabagError('invalid_argument', `keys have 8 bytes each: a block of ${block.byteLength} bytes: ${this.path}`, {
        path: this.path,
      });
    try {
      await this.#builder.add(new Uint8Array(block.buffer, block.byteOffset, block.byteLength));
    } catch (error) {
      throw indexError(error, this.path, this.#rows);
    }
    this.#added += block.byteLength / 8;
    return this.#added;
  }

  /** Sorts and writes. */
  async finish({ signal, onProgress = () => undefined }: KeyIndexFinish = {}): Promise<WrittenKeyIndex> {
    const stopIf = (): void => {
      if (signal?.aborted) throw interrupted(this.path);
    };
    if (this.#added < this.#rows) throw wrongCount(this.path, this.#rows, this.#added);
    const tensor = this.#tensor;
    try {
      for (let counted = 1, done = false; !done; counted++) {
        stopIf();
        done = await this.#builder.countRange();
        const { ranges } = this.#builder.shape();
        // Keys that do not fit are sorted again from the start.
        onProgress(done ? 0.5 : (0.5 * Math.min(counted, ranges)) / (ranges + 1));
      }
      const { buckets, seed } = this.#builder.shape();
      const data = placed(this.#builder, buckets, (bytes) => {
        onProgress(0.5 + (0.5 * bytes) / (buckets * BUCKET_BYTES));
        stopIf();
      });
      const metadata = { [keyIndexKey(tensor)]: formatKeyIndex({ keys: this.#rows, seed }) };
      const shape = { name: tensor, dtype: 'U8', shape: [buckets, BUCKET_BYTES] };
      const checksum = await writeSafetensors(this.path, [{ ...shape, data }], { metadata, align: PAGE_BYTES });
      return { ...checksum, tensor, buckets, seed };
    } catch (error) {
      throw indexError(error, this.path, this.#rows);
    }
  }

  close(): void {
    this.#builder.close();
  }
}

async function* placed(builder: NativeKeyIndexBuilder, buckets: number, onBytes: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  const block = new Uint8Array(Math.min(buckets, BUCKETS_AT_ONCE) * BUCKET_BYTES);
  let done = 0;
  for (let length = await builder.place(block); length > 0; length = await builder.place(block)) {
    yield block.subarray(0, length);
    done += length;
    onBytes(done);
  }
}

/** The keys of an index in the order of their rows. To be closed. */
export class KeysByRow {
  private constructor(
    private readonly path: string,
    private readonly sorter: NativeKeysByRow,
  ) {}

  /** Reads the index, in flat memory; keys that do not fit wait in a file in the directory. */
  static async read(index: IndexInFile, directory: string, onBlock: () => void = () => undefined): Promise<KeysByRow> {
    const { path, keys, seed } = index;
    const sorted = new KeysByRow(path, new native.KeysByRow(keys, seed, directory));
    try {
      for await (const buckets of bucketsOf(index)) {
        onBlock();
        await sorted.sorter.add(buckets);
      }
      return sorted;
    } catch (error) {
      sorted.close();
      throw sorted.#error(error);
    }
  }

  /** Fills the block with the keys of the next rows. */
  async next(block: BigInt64Array): Promise<void> {
    try {
      const bytes = await this.sorter.next(new Uint8Array(block.buffer, block.byteOffset, block.byteLength));
      if (bytes < block.byteLength) throw { status: 'wrong_count' };
    } catch (error) {
      throw this.#error(error);
    }
  }

  close(): void {
    this.sorter.close();
  }

  #error(error: unknown): unknown {
    if ((error as StepError).status !== 'wrong_count') return indexError(error, this.path, 0);
    return new TerabagError('bad_table', `key index is damaged: not every row has one key: ${this.path}`, { path: this.path });
  }
}

/** Of a bundle that is open. */
export interface IndexInFile extends KeyIndexMetadata {
  readonly path: string;
  readonly byteOffset: number;
  readonly buckets: number;
}

/** All buckets, in blocks, each of which is good until the next. */
async function* bucketsOf({ path, byteOffset, buckets }: IndexInFile): AsyncGenerator<Uint8Array> {
  const file = await openToRead(path);
  try {
    const extent = { from: byteOffset, bytes: buckets * BUCKET_BYTES };
    for await (const { memory, bytes } of readBlocks(file, path, extent, BUCKETS_AT_ONCE * BUCKET_BYTES)) yield memory.subarray(0, bytes);
  } finally {
    await file.close();
  }
}

/** All keys of an index, in blocks and in any order. */
export async function* keysOf(index: IndexInFile): AsyncGenerator<BigInt64Array> {
  const block = new BigInt64Array(Math.min(index.buckets, BUCKETS_AT_ONCE) * BUCKET_KEYS);
  const out = new Uint8Array(block.buffer);
  let first = 0;
  for await (const buckets of bucketsOf(index)) {
    const bytes = native.keysOfBuckets(buckets, first, index.keys, index.seed, out);
    yield block.subarray(0, bytes / 8);
    first += buckets.length / BUCKET_BYTES;
  }
}

const wrongCount = (path: string, rows: number, keys: number | string): TerabagError =>
  new TerabagError('invalid_argument', `a keyed table has one key for each row: rows ${rows}, keys ${keys}: ${path}`, { rows, keys, path });

/** What the addon says of a step. */
type StepError = Partial<NativeStatusError> & { readonly key?: string; readonly row?: number; readonly otherRow?: number };

function indexError(error: unknown, path: string, rows: number): TerabagError {
  if (error instanceof TerabagError) return error;
  // An error of whoever gives the keys.
  if ((error as StepError).status === undefined && (error as NodeJS.ErrnoException).code === undefined) return TerabagError.from(error);
  const { status, key = '', row = 0, otherRow = 0, message = '', errno } = error as StepError;
  switch (status) {
    case 'duplicate_key':
      return new TerabagError('bad_table', `two rows of a keyed table have one key: key ${key}, rows ${row} and ${otherRow}: ${path}`, {
        ...{ key, row, otherRow, path },
      });
    case 'wrong_count':
      return wrongCount(path, rows, 'more');
    case 'unplaceable':
      return new TerabagError('bad_table', `keys cannot be indexed, too many have one hash: rows ${rows}: ${path}`, { rows, path });
    case 'out_of_memory':
      return new TerabagError('overloaded', `no memory for the keys of an index: rows ${rows}: ${path}`, { path }, { cause: error });
    case 'spill':
      return outputError(Object.assign(new Error(message), { code: getSystemErrorName(-(errno ?? 0)), path }), path);
    default:
      return outputError(error, path);
  }
}
