import { TerabagError } from '../errors.js';
import { type CheckpointTensor, dtypeBytes, isRowMajor, type Piece, rowMajor, spanOf, valuesOf } from './checkpoint.js';
import type { CheckpointFiles } from './open-files.js';

/** What is read at once of values that do not lie one after another, with all that is between them. */
const SPAN_BYTES = 4 * 2 ** 20;
/** Dense weights are held in memory, here and where they are served. */
const MOST_TENSOR_BYTES = 2 ** 30;

/** A box of values in a file, and where they go in memory; strides and places in values. */
interface Box {
  readonly sizes: readonly number[];
  readonly from: number;
  readonly strides: readonly number[];
  readonly to: number;
  readonly toStrides: readonly number[];
}

/** All values of a tensor, row by row, as the file has them. */
export async function readWhole(
  files: CheckpointFiles,
  { name, dtype, shape, pieces }: CheckpointTensor,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = valuesOf(shape) * dtypeBytes(dtype);
  if (!(bytes <= MOST_TENSOR_BYTES))
    throw new TerabagError(
      'does_not_fit',
      `dense weights are read into memory, at most ${MOST_TENSOR_BYTES} bytes of a tensor: ${name}, ${bytes} bytes`,
      { tensor: name },
    );
  const into = new Uint8Array(bytes);
  const toStrides = rowMajor(shape);
  for (const piece of await pieces()) {
    const to = piece.offsets.reduce((sum, offset, at) => sum + offset * (toStrides[at] as number), 0);
    await readBox(files, piece, { sizes: piece.sizes, from: 0, strides: piece.strides, to, toStrides }, into, dtypeBytes(dtype));
  }
  return into;
}

/** Rows [firstRow, firstRow + count) of a tensor of two dims, one after another. */
export async function readRows(
  files: CheckpointFiles,
  pieces: readonly Piece[],
  {
    firstRow,
    count,
    dim,
    valueBytes,
  }: { readonly firstRow: number; readonly count: number; readonly dim: number; readonly valueBytes: number },
): Promise<Uint8Array<ArrayBuffer>> {
  const into = new Uint8Array(count * dim * valueBytes);
  for (const piece of pieces) {
    const [pieceRow = 0, pieceColumn = 0] = piece.offsets;
    const [pieceRows = 0, columns = 0] = piece.sizes;
    const from = Math.max(firstRow, pieceRow);
    const rows = Math.min(firstRow + count, pieceRow + pieceRows) - from;
    if (rows <= 0 || columns === 0) continue;
    const first = (from - pieceRow) * (piece.strides[0] as number);
    const to = (from - firstRow) * dim + pieceColumn;
    await readBox(files, piece, { sizes: [rows, columns], from: first, strides: piece.strides, to, toStrides: [dim, 1] }, into, valueBytes);
  }
  return into;
}

async function readBox(files: CheckpointFiles, piece: Piece, box: Box, into: Uint8Array<ArrayBuffer>, valueBytes: number): Promise<void> {
  const { sizes, from, strides, to, toStrides } = box;
  const values = spanOf(sizes, strides);
  if (values === 0) return;
  const at = piece.byteOffset + from * valueBytes;
  if (isRowMajor(sizes, strides) && isRowMajor(sizes, toStrides)) {
    await files.readInto(piece.path, at, into.subarray(to * valueBytes, (to + values) * valueBytes));
    return;
  }
  if (values * valueBytes <= SPAN_BYTES) {
    const span = new Uint8Array(values * valueBytes);
    await files.readInto(piece.path, at, span);
    scatter(span, box, into, valueBytes);
    return;
  }
  // In halves, along the dim that reaches farthest; a box of one value is short.
  const reach = sizes.map((size, n) => (size - 1) * (strides[n] as number));
  const longest = reach.indexOf(Math.max(...reach));
  const half = Math.floor((sizes[longest] as number) / 2);
  const sized = (size: number): number[] => sizes.map((other, n) => (n === longest ? size : other));
  await readBox(files, piece, { ...box, sizes: sized(half) }, into, valueBytes);
  const rest = { from: from + half * (strides[longest] as number), to: to + half * (toStrides[longest] as number) };
  await readBox(files, piece, { ...box, ...rest, sizes: sized((sizes[longest] as number) - half) }, into, valueBytes);
}

const WORDS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array } as const;

function scatter(
  span: Uint8Array<ArrayBuffer>,
  { sizes, strides, to, toStrides }: Box,
  into: Uint8Array<ArrayBuffer>,
  valueBytes: number,
): void {
  const Word = WORDS[valueBytes as keyof typeof WORDS];
  const [source, target] = [new Word(span.buffer), new Word(into.buffer)];
  const last = sizes.length - 1;
  const [inner = 1, step = 1, toStep = 1] = [sizes[last], strides[last], toStrides[last]];
  const place = sizes.map(() => 0);
  for (;;) {
    let [at, toAt] = [0, to];
    for (let n = 0; n < last; n++) {
      at += (place[n] as number) * (strides[n] as number);
      toAt += (place[n] as number) * (toStrides[n] as number);
    }
    for (let n = 0; n < inner; n++) target[toAt + n * toStep] = source[at + n * step] as never;
    let n = last - 1;
    for (; n >= 0; n--) {
      place[n] = (place[n] as number) + 1;
      if (place[n] !== sizes[n]) break;
      place[n] = 0;
    }
    if (n < 0) return;
  }
}
