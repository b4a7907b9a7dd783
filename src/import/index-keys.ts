import { type KeyIndexFinish, KeyIndexWriter } from '../engine/key-index.js';
import { TerabagError } from '../errors.js';
import { rowsInBlock } from '../tables/blocks.js';
import type { FileChecksum } from '../tables/checksum.js';
import { checkPieces } from './copy-table.js';
import type { CheckpointFiles } from './open-files.js';
import type { PlannedKeys } from './plan-keys.js';
import { readRows } from './read-values.js';

const KEY_BYTES = 8;
/** Bytes of a key that are read, sorted and written. */
const WORK_BYTES = 3 * KEY_BYTES;
/** A key in an index, and in the file beside it where keys wait to be sorted. */
const INDEX_BYTES = 16;
const SPILL_BYTES = 16;

/** What indexing so many keys is worth in progress, and takes of the disk. */
export const keyWork = (rows: number): number => rows * WORK_BYTES;
export const indexRoom = (rows: number): { readonly lasting: number; readonly meanwhile: number } => ({
  lasting: rows * INDEX_BYTES,
  meanwhile: rows * SPILL_BYTES,
});

export interface IndexedTable {
  readonly name: string;
  readonly rows: number;
}

export interface IndexOptions extends Pick<KeyIndexFinish, 'signal'> {
  /** Bytes of work that were done, of keyWork. */
  readonly onBytes: (bytes: number) => void;
}

/** Writes the index of a table's keys: in flat memory, a few blocks at a time. Its tensor is `keys`. */
export async function indexKeys(
  files: CheckpointFiles,
  { name, rows }: IndexedTable,
  { tensor, pieces }: PlannedKeys,
  path: string,
  { signal, onBytes }: IndexOptions,
): Promise<FileChecksum & { readonly tensor: string }> {
  await checkPieces(pieces);
  const writer = new KeyIndexWriter(path, { rows });
  try {
    const atOnce = rowsInBlock(KEY_BYTES);
    for (let firstRow = 0; firstRow < rows; firstRow += atOnce) {
      const count = Math.min(atOnce, rows - firstRow);
      await writer.add(await readRows(files, pieces, { firstRow, count, dim: 1, valueBytes: KEY_BYTES }));
      onBytes(count * KEY_BYTES);
    }
    let told = 0;
    const {
      bytes,
      crc32,
      tensor: written,
    } = await writer.finish({
      signal,
      onProgress: (done) => {
        const bytesDone = Math.floor(done * rows * (WORK_BYTES - KEY_BYTES));
        onBytes(bytesDone - told);
        told = bytesDone;
      },
    });
    return { bytes, crc32, tensor: written };
  } catch (error) {
    throw keysError(error, name, tensor.name);
  } finally {
    writer.close();
  }
}

/** The file that is written is not there any more: what is told is where the keys come from. */
function keysError(error: unknown, table: string, tensor: string): unknown {
  if (!(error instanceof TerabagError) || error.code === 'aborted') return error;
  const { key, row, otherRow } = error.details;
  const where = `table ${table}, tensor ${tensor}`;
  if (key === undefined)
    return new TerabagError(error.code, `${where}: ${error.message}`, { ...error.details, table, tensor }, { cause: error });
  return new TerabagError(
    'bad_checkpoint',
    `two rows of a keyed table have one key: ${where}, key ${key}, rows ${row} and ${otherRow}`,
    { table, tensor, key, ...(row !== undefined && { row }), ...(otherRow !== undefined && { otherRow }) },
    { cause: error },
  );
}
