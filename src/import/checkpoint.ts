import { TerabagError } from '../errors.js';
import type { PackedFormat } from '../model/formats.js';
import type { Extent } from '../tables/blocks.js';

/** Bytes of a value, by safetensors' names. */
const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  U64: 8,
  I32: 4,
  U32: 4,
  I16: 2,
  U16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const satisfies Record<string, number>;
export type Dtype = keyof typeof DTYPE_BYTES;

export const dtypeBytes = (dtype: Dtype): number => DTYPE_BYTES[dtype];
export const isDtype = (name: string): name is Dtype => Object.hasOwn(DTYPE_BYTES, name);

/** Bytes of a file whose CRC-32 is known without reading them, such as an entry of a zip. */
export interface KnownExtent extends Extent {
  readonly crc32: number;
}

/** A box of a tensor, of as many dims, and where its values lie in a file. */
export interface Piece {
  readonly path: string;
  /** Of its first value. */
  readonly byteOffset: number;
  /** Where the box is in the tensor. */
  readonly offsets: readonly number[];
  readonly sizes: readonly number[];
  /** From a value to the next of each dim, in values. */
  readonly strides: readonly number[];
  /** What holds the values; null when the file does not tell its checksum. */
  readonly known: KnownExtent | null;
  /** The name that the header of a safetensors file gives all of the tensor; null elsewhere. */
  readonly header: string | null;
}

/** What the rows of a U8 tensor are, where the checkpoint says so: scale and bias behind the values. */
export interface QuantizedRows {
  readonly format: PackedFormat;
  readonly dim: number;
}

export interface CheckpointTensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** They cover the tensor, without overlaps. A checkpoint of many files looks for them when they are asked for. */
  pieces(): Promise<readonly Piece[]>;
  readonly quantized?: QuantizedRows;
  /** Of rows that are keyed in their program: the name of the tensor with their keys. */
  readonly keyedBy?: string;
}

/** What a trainer wrote: tensors with names, each in one or more places of one or more files. */
export interface Checkpoint {
  readonly path: string;
  /** As users call it. */
  readonly kind: string;
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
  /** Whether the tensors stand in the order of the model; else by name, or as the writer pleased. */
  readonly inModelOrder: boolean;
  /** What is in it that is no tensor which can be served, by name, with the reason. */
  readonly skipped: ReadonlyMap<string, string>;
  /** Extents of a file beside its values that tell it from another one, such as the directory of a zip. */
  readonly marks: ReadonlyMap<string, readonly Extent[]>;
}

export const badCheckpoint = (path: string, what: string, details: Readonly<Record<string, string>> = {}): TerabagError =>
  new TerabagError('bad_checkpoint', `${what}: ${path}`, { path, ...details });

export type Refuse = (what: string, details?: Readonly<Record<string, string>>) => TerabagError;

export const refuser =
  (path: string): Refuse =>
  (what, details) =>
    badCheckpoint(path, what, details);

export const valuesOf = (shape: readonly number[]): number => shape.reduce((product, count) => product * count, 1);

/** Strides of values that lie one after another. */
export function rowMajor(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let at = shape.length - 2; at >= 0; at--) strides[at] = (strides[at + 1] as number) * (shape[at + 1] as number);
  return strides;
}

/** Whether the values lie one after another; the stride of a dim of one value means nothing. */
export function isRowMajor(sizes: readonly number[], strides: readonly number[]): boolean {
  const expected = rowMajor(sizes);
  return sizes.every((size, at) => size <= 1 || strides[at] === expected[at]);
}

/** Values from the first of a box to its last, both included; 0 of an empty one. May be no safe integer: compare before it is used. */
export const spanOf = (sizes: readonly number[], strides: readonly number[]): number =>
  sizes.includes(0) ? 0 : 1 + sizes.reduce((sum, size, at) => sum + (size - 1) * (strides[at] as number), 0);

/** Counts that a file gives: integers from 0 on that can be computed with. */
export const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && (count as number) >= 0);

/** A tensor that lies in one place. */
export function plainTensor(
  name: string,
  dtype: Dtype,
  shape: readonly number[],
  at: Omit<Piece, 'offsets' | 'sizes' | 'strides'>,
): CheckpointTensor {
  const piece: Piece = { ...at, offsets: shape.map(() => 0), sizes: shape, strides: rowMajor(shape) };
  return { name, dtype, shape, pieces: async () => [piece] };
}

/** Refuses boxes that do not cover a tensor once: too few values, too many, or two in one place. */
export function checkCover(
  tensor: string,
  shape: readonly number[],
  pieces: readonly Pick<Piece, 'offsets' | 'sizes'>[],
  refuse: Refuse,
): void {
  for (const { offsets, sizes } of pieces) {
    const inside = offsets.length === shape.length && sizes.length === shape.length;
    if (!inside || shape.some((size, at) => (offsets[at] as number) + (sizes[at] as number) > size))
      throw refuse(
        `chunk lies outside of its tensor: ${tensor}, offsets ${offsets.join('x')}, sizes ${sizes.join('x')}, shape ${shape.join('x')}`,
        { tensor },
      );
  }
  const covered = pieces.reduce((sum, { sizes }) => sum + valuesOf(sizes), 0);
  if (covered !== valuesOf(shape))
    throw refuse(
      `chunks do not cover their tensor once: ${tensor}, ${covered} values in ${pieces.length} chunks, expected ${valuesOf(shape)}`,
      { tensor },
    );
  const overlapping = overlap(pieces.filter(({ sizes }) => !sizes.includes(0)));
  if (overlapping !== null)
    throw refuse(`chunks of a tensor overlap: ${tensor}, at ${overlapping[0].offsets.join('x')} and ${overlapping[1].offsets.join('x')}`, {
      tensor,
    });
}

type Box = Pick<Piece, 'offsets' | 'sizes'>;

/** Two boxes that have values in common. Sweeps along the first dim: chunks are few, or apart there. */
function overlap(boxes: readonly Box[]): readonly [Box, Box] | null {
  const sorted = [...boxes].sort((a, b) => (a.offsets[0] ?? 0) - (b.offsets[0] ?? 0));
  let open: Box[] = [];
  for (const box of sorted) {
    const from = box.offsets[0] ?? 0;
    open = open.filter(({ offsets, sizes }) => (offsets[0] ?? 0) + (sizes[0] ?? 1) > from);
    const other = open.find(({ offsets, sizes }) =>
      offsets.every(
        (start, at) =>
          start < (box.offsets[at] as number) + (box.sizes[at] as number) && (box.offsets[at] as number) < start + (sizes[at] as number),
      ),
    );
    if (other !== undefined) return [other, box];
    open.push(box);
  }
  return null;
}
