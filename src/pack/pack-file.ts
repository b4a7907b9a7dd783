import type { FileHandle } from 'node:fs/promises';
import { type NativeStatusError, native } from '../engine/native.js';
import { TerabagError } from '../errors.js';
import {
  dtypeOf,
  isPacked,
  PLAIN_FORMATS,
  type PlainFormat,
  ROW_FORMATS,
  type RowFormat,
  rowBytes,
  rowFormatMetadata,
} from '../model/formats.js';
import { BLOCK_BYTES, openToRead, readBlocks, readFully, rowsInBlock } from '../tables/blocks.js';
import type { FileChecksum } from '../tables/checksum.js';
import { keyIndexKey } from '../tables/key-index.js';
import {
  PAGE_BYTES,
  readSafetensorsHeader,
  type SafetensorsHeader,
  type TensorInfo,
  type TensorToWrite,
  writeSafetensors,
} from '../tables/safetensors.js';
import type { KeptRows } from './kept-rows.js';

/** What packing did to one tensor. */
export interface PackedTensor {
  readonly tensor: string;
  /** That are kept. */
  readonly rows: number;
  readonly rowsBefore: number;
  readonly dim: number;
  readonly from: PlainFormat;
  readonly to: RowFormat;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Largest distance of a packed value from the one before, over all finite values. */
  readonly maxError: number;
  /** Root of the mean squared distance, and that over the root of the mean square of the values; 0 for a table of zeros. */
  readonly rmsError: number;
  readonly relativeError: number;
}

export interface PackOptions {
  readonly signal?: AbortSignal;
  /** The source's, where it is not in the source. */
  readonly header?: SafetensorsHeader;
  /** Bytes of the sources that are read. */
  readonly onBytes?: (bytes: number) => void;
  /** Only these tensors are written, be they packed or not; default all. */
  readonly only?: ReadonlySet<string>;
  /** By name: of tensors that are packed, the rows that are written; default all. */
  readonly kept?: ReadonlyMap<string, KeptRows>;
}

/** Blocks that are read, packed or waiting to be written: what memory a table of any size takes, times two for the packed ones. */
const BLOCKS_IN_FLIGHT = 4;
const FORMAT_OF_DTYPE = new Map<string, PlainFormat>(PLAIN_FORMATS.map((format) => [dtypeOf(format), format]));

/** Longest row of a table; see the addon's packRows. */
const MAX_DIM = 65_536;

/** The plain format of a tensor that can be packed: rows of up to 65536 values in fp32, fp16 or bf16; else null. */
export function packable({ dtype, shape }: TensorInfo): PlainFormat | null {
  const format = FORMAT_OF_DTYPE.get(dtype);
  return format !== undefined && shape.length === 2 && shape.every((count) => count > 0) && Number(shape[1]) <= MAX_DIM ? format : null;
}

/**
 * Writes a safetensors file anew, with some of its tensors packed (formats: by name) and the others as they are. Streams: a few blocks are in memory
 * at a time, packed on the addon's threads. The file appears when it is whole; its data starts on a page.
 */
export async function packFile(
  source: string,
  destination: string,
  formats: ReadonlyMap<string, RowFormat>,
  { signal, header: given, onBytes = () => undefined, only, kept: keptOf }: PackOptions = {},
): Promise<{ readonly packed: PackedTensor[]; readonly checksum: FileChecksum }> {
  const header = given ?? (await readSafetensorsHeader(source));
  const inOrder = [...header.tensors].filter(([name]) => only?.has(name) ?? true).sort(([, a], [, b]) => a.byteOffset - b.byteOffset);
  const packed: PackedTensor[] = [];
  const metadata: Record<string, string> = { ...header.metadata };
  for (const name of header.tensors.keys()) if (only?.has(name) === false) delete metadata[keyIndexKey(name)];
  const file = await openToRead(source);
  try {
    const tensors = inOrder.map(([name, info]): TensorToWrite => {
      const to = formats.get(name);
      if (to === undefined) return { name, ...info, data: blocksOf(file, source, info, signal, onBytes) };
      const from = packable(info);
      if (from === null) throw notPackable(source, name, info);
      const [rowsBefore = 0, dim = 0] = info.shape;
      const kept = keptOf?.get(name) ?? null;
      const rows = kept?.count ?? rowsBefore;
      const bytesAfter = rows * rowBytes(to, dim);
      const onPacked = (maxError: number, squaredError: number, squares: number): void => {
        const rmsError = Math.sqrt(squaredError / (rows * dim));
        const relativeError = squares === 0 ? 0 : Math.sqrt(squaredError / squares);
        const sizes = { rows, rowsBefore, dim, bytesBefore: info.bytes, bytesAfter };
        packed.push({ tensor: name, ...sizes, from, to, maxError, rmsError, relativeError });
      };
      const table = { file, source, name, info, from, to, dim, kept };
      const shape = isPacked(to) ? [rows, rowBytes(to, dim)] : [rows, dim];
      if (isPacked(to)) metadata[`${name}.row_format`] = rowFormatMetadata(to, dim);
      return { name, dtype: dtypeOf(to), shape, data: packBlocks(table, signal, onBytes, onPacked) };
    });
    const checksum = await writeSafetensors(destination, tensors, { metadata, align: PAGE_BYTES });
    return { packed, checksum };
  } finally {
    await file.close();
  }
}

export function notPackable(source: string, tensor: string, { dtype, shape }: TensorInfo): TerabagError {
  return new TerabagError(
    'bad_table',
    `only F32, F16 and BF16 tensors of two dims, with rows of 1 to ${MAX_DIM} values, can be packed: ${tensor} is ${dtype} ${shape.join('x')}: ${source}`,
    {
      tensor,
      path: source,
    },
  );
}

export function stopIf(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new TerabagError('aborted', 'packing was interrupted');
}

async function* blocksOf(
  file: FileHandle,
  source: string,
  { byteOffset, bytes }: TensorInfo,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void,
): AsyncGenerator<Uint8Array> {
  for await (const block of readBlocks(file, source, { from: byteOffset, bytes }, BLOCK_BYTES)) {
    stopIf(signal);
    onBytes(block.bytes);
    yield block.memory.subarray(0, block.bytes);
  }
}

interface Table {
  readonly file: FileHandle;
  readonly source: string;
  readonly name: string;
  readonly info: TensorInfo;
  readonly from: PlainFormat;
  readonly to: RowFormat;
  readonly dim: number;
  readonly kept: KeptRows | null;
}

async function* packBlocks(
  table: Table,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void,
  onPacked: (maxError: number, squaredError: number, squares: number) => void,
): AsyncGenerator<Uint8Array> {
  const { file, source, info, from, to, dim, kept } = table;
  const [rows = 0] = info.shape;
  const before = rowBytes(from, dim);
  const rowsAtOnce = Math.min(rows, rowsInBlock(before));
  const pack = async (row: number): Promise<{ block: Uint8Array; maxError: number; sumSquaredError: number; sumSquares: number }> => {
    const count = Math.min(rowsAtOnce, rows - row);
    const read = new Uint8Array(count * before);
    await readFully(file, source, info.byteOffset + row * before, read);
    onBytes(read.length);
    const values = read.subarray(0, (kept?.gather(read, before, row, count) ?? count) * before);
    const block = new Uint8Array((values.length / before) * rowBytes(to, dim));
    if (block.length === 0) return { block, maxError: 0, sumSquaredError: 0, sumSquares: 0 };
    const errors = await native.packRows(values, from, dim, to, block).catch(async (error: NativeStatusError) => {
      throw await cannotPack(error, table, values, row);
    });
    return { block, ...errors };
  };
  let [maxError, squaredError, squares] = [0, 0, 0];
  const inFlight: ReturnType<typeof pack>[] = [];
  try {
    for (let next = 0; next < rows || inFlight.length > 0; ) {
      while (next < rows && inFlight.length < BLOCKS_IN_FLIGHT) {
        const packing = pack(next);
        // It may fail while an earlier block is written, and nobody waits for it yet.
        packing.catch(() => undefined);
        inFlight.push(packing);
        next += rowsAtOnce;
      }
      stopIf(signal);
      const done = await (inFlight.shift() as ReturnType<typeof pack>);
      maxError = Math.max(maxError, done.maxError);
      squaredError += done.sumSquaredError;
      squares += done.sumSquares;
      yield done.block;
    }
  } finally {
    // The file must not be closed under a read, nor a rejection be left alone.
    await Promise.allSettled(inFlight);
  }
  onPacked(maxError, squaredError, squares);
}

/** rows: those of the block, the first of which is firstRow of the table. */
async function cannotPack(
  error: NativeStatusError & { readonly row?: number },
  { source, name, from, to, dim, kept }: Table,
  rows: Uint8Array,
  firstRow: number,
): Promise<Error> {
  if (error.row === undefined) return TerabagError.from(error);
  const row = kept?.rowAt(firstRow, error.row) ?? firstRow + error.row;
  const length = rowBytes(from, dim);
  const others = await formatsOf(rows.subarray(error.row * length, (error.row + 1) * length), from, dim);
  const what =
    error.status === 'not_finite'
      ? `a row holds NaN or infinity, which quantized rows cannot; repair the row, or use ${others}, which can`
      : error.status === 'overflow'
        ? `a value is too large for it; use ${others}, which can hold the row`
        : 'memory ran out';
  const code = error.status === 'out_of_memory' ? 'does_not_fit' : 'bad_table';
  return new TerabagError(code, `table cannot be packed as ${to}: ${what}: tensor ${name}, row ${row}: ${source}`, {
    tensor: name,
    row,
    path: source,
  });
}

/** The formats that can hold a row, which one tells by packing it; its own is among them. */
async function formatsOf(row: Uint8Array, from: PlainFormat, dim: number): Promise<string> {
  const held: RowFormat[] = [];
  for (const format of ROW_FORMATS) {
    const packed = native.packRows(row.slice(), from, dim, format, new Uint8Array(rowBytes(format, dim)));
    if (
      await packed.then(
        () => true,
        () => false,
      )
    )
      held.push(format);
  }
  return held.join(' or ');
}
