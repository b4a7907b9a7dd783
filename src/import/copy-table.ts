import { native } from '../engine/native.js';
import { TerabagError } from '../errors.js';
import { dtypeOf, isPacked, type PackedFormat, type PlainFormat, rowBytes, rowFormatMetadata } from '../model/formats.js';
import { rowsInBlock } from '../tables/blocks.js';
import { checksumExtent, crc32Digits, type FileChecksum } from '../tables/checksum.js';
import { PAGE_BYTES, writeSafetensors } from '../tables/safetensors.js';
import { dtypeBytes, type Piece } from './checkpoint.js';
import { scaleAndBiasBehind, toFloat32 } from './convert.js';
import type { CheckpointFiles } from './open-files.js';
import type { PlannedTable } from './plan-import.js';
import { readRows } from './read-values.js';

export interface CopyOptions {
  readonly signal?: AbortSignal | undefined;
  /** Bytes of rows that were read. */
  readonly onBytes: (bytes: number) => void;
}

/** Writes a table as a safetensors file of its own, a few blocks at a time; its data starts on a page. */
export async function copyTable(files: CheckpointFiles, table: PlannedTable, path: string, options: CopyOptions): Promise<FileChecksum> {
  const { name, rows, dim, format, tensor } = table.spec;
  const shape = isPacked(format) ? [rows, rowBytes(format, dim)] : [rows, dim];
  const metadata = isPacked(format) ? { [`${tensor}.row_format`]: rowFormatMetadata(format, dim) } : {};
  const data = blocks(files, table, options);
  return writeSafetensors(path, [{ name: tensor, dtype: dtypeOf(format), shape, data }], { metadata, align: PAGE_BYTES }).catch(
    (error: unknown) => {
      throw error instanceof TerabagError
        ? new TerabagError(error.code, `table ${name}: ${error.message}`, { ...error.details, table: name }, { cause: error })
        : error;
    },
  );
}

async function* blocks(files: CheckpointFiles, table: PlannedTable, { signal, onBytes }: CopyOptions): AsyncGenerator<Uint8Array> {
  const { pieces, sourceRowBytes, tensor, spec } = table;
  await checkPieces(pieces);
  const valueBytes = dtypeBytes(tensor.dtype);
  const atOnce = rowsInBlock(sourceRowBytes);
  for (let firstRow = 0; firstRow < spec.rows; firstRow += atOnce) {
    if (signal?.aborted) throw new TerabagError('aborted', 'the import was interrupted');
    const count = Math.min(atOnce, spec.rows - firstRow);
    const rows = await readRows(files, pieces, { firstRow, count, dim: sourceRowBytes / valueBytes, valueBytes });
    onBytes(rows.length);
    yield await converted(rows, table, firstRow);
  }
}

async function converted(
  rows: Uint8Array<ArrayBuffer>,
  { conversion, spec, tensor, sourceRowBytes }: PlannedTable,
  firstRow: number,
): Promise<Uint8Array> {
  const { dim, format } = spec;
  switch (conversion) {
    case 'none':
      return rows;
    case 'front':
      return scaleAndBiasBehind(rows, { rowBytes: sourceRowBytes, dim, format: format as PackedFormat });
    case 'widened':
      return new Uint8Array(toFloat32(rows, tensor.dtype, tensor.name).buffer);
    case 'packed': {
      const out = new Uint8Array((rows.length / sourceRowBytes) * rowBytes(format, dim));
      const from: PlainFormat = tensor.dtype === 'F32' ? 'fp32' : tensor.dtype === 'F16' ? 'fp16' : 'bf16';
      await native.packRows(rows, from, dim, format, out).catch((error: { readonly status?: string; readonly row?: number }) => {
        if (error.row === undefined) throw error;
        const row = firstRow + error.row;
        const what = error.status === 'not_finite' ? 'a row holds NaN or infinity' : 'a value is too large for it';
        throw new TerabagError('bad_checkpoint', `rows cannot be written as ${format}: ${what}: tensor ${tensor.name}, row ${row}`, {
          tensor: tensor.name,
          row,
        });
      });
      return out;
    }
  }
}

/** The same of each extent that pieces lie in. */
export async function checkPieces(pieces: readonly Piece[]): Promise<void> {
  for (const piece of new Map(pieces.map((piece) => [`${piece.path} ${piece.known?.from}`, piece])).values()) await checkKnown(piece);
}

/** Holds what is copied against the checksum that its file has of it: a damaged checkpoint must not become a sound bundle. */
export async function checkKnown({ path, known }: Piece): Promise<void> {
  if (known === null) return;
  const found = await checksumExtent(path, known);
  if (found !== crc32Digits(known.crc32))
    throw new TerabagError(
      'checksum_mismatch',
      `checkpoint is damaged: ${path}, bytes ${known.from} to ${known.from + known.bytes}, crc32 ${found}, expected ${crc32Digits(known.crc32)}`,
      { path },
    );
}
