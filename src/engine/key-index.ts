import { dirname } from 'node:path';
import { getSystemErrorName } from 'node:util';
import { TerabagError } from '../errors.js';
import { outputError } from '../tables/atomic.js';
import type { FileChecksum } from '../tables/checksum.js';
import { BUCKET_BYTES, formatKeyIndex, keyIndexKey, MAX_KEYS } from '../tables/key-index.js';
import { PAGE_BYTES, writeSafetensors } from '../tables/safetensors.js';
import { type NativeKeyIndexBuilder, type NativeStatusError, native } from './native.js';

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

/** Buckets that are written at a time: 4 MiB. */
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
  const { rows, keys, tensor = 'keys', signal, onProgress = () => undefined, keysInMemory } = options;
  if (!Number.isInteger(rows) || rows < 1 || rows > MAX_KEYS)
    throw new TerabagError('invalid_argument', `a keyed table has 1 to ${MAX_KEYS} rows: ${rows}: ${path}`, { field: 'rows' });
  const total = 3 * rows;
  const stopIf = (): void => {
    if (signal?.aborted) throw new TerabagError('aborted', `writing a key index was interrupted: ${path}`, { path });
  };
  let builder: NativeKeyIndexBuilder | null = null;
  try {
    builder = new native.KeyIndexBuilder(rows, dirname(path), keysInMemory);
    let added = 0;
    for await (const block of keys) {
      stopIf();
      const bytes = bytesOfKeys(block, path);
      await builder.add(bytes);
      added += bytes.length / 8;
      onProgress(added, total);
    }
    if (added < rows) throw wrongCount(path, rows, added);
    for (let counted = 1, done = false; !done; counted++) {
      stopIf();
      done = await builder.countRange();
      // Keys that do not fit are sorted again from the start.
      onProgress(
        rows + (done ? rows : Math.floor((rows * Math.min(counted, builder.shape().ranges)) / (builder.shape().ranges + 1))),
        total,
      );
    }
    const { buckets, seed } = builder.shape();
    const data = placed(builder, buckets, (bytes) => {
      onProgress(2 * rows + Math.floor((rows * bytes) / (buckets * BUCKET_BYTES)), total);
      stopIf();
    });
    const metadata = { [keyIndexKey(tensor)]: formatKeyIndex({ keys: rows, seed }) };
    const shape = { name: tensor, dtype: 'U8', shape: [buckets, BUCKET_BYTES] };
    const checksum = await writeSafetensors(path, [{ ...shape, data }], { metadata, align: PAGE_BYTES });
    return { ...checksum, tensor, buckets, seed };
  } catch (error) {
    throw indexError(error, path, rows);
  } finally {
    builder?.close();
  }
}

function bytesOfKeys(block: KeyBlock, path: string): Uint8Array {
  if (block.byteLength % 8 === 0) return new Uint8Array(block.buffer, block.byteOffset, block.byteLength);
  throw new TerabagError('invalid_argument', `keys have 8 bytes each: a block of ${block.byteLength} bytes: ${path}`, { path });
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

const wrongCount = (path: string, rows: number, keys: number | string): TerabagError =>
  new TerabagError('invalid_argument', `a keyed table has one key for each row: rows ${rows}, keys ${keys}: ${path}`, { rows, keys, path });

/** What the addon says of a step. */
type StepError = Partial<NativeStatusError> & { readonly key?: string; readonly row?: number; readonly otherRow?: number };

function indexError(error: unknown, path: string, rows: number): TerabagError {
  if (error instanceof TerabagError) return error;
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
