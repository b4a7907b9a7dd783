/**
 * How the rows of a table are stored; see native/kernels/embedding_bag.h for the layouts. fp32, fp16 and bf16 are plain tensors [rows, dim]; the
 * others are packed: U8 tensors [rows, bytes per row] whose scale and bias lie at the end of each row.
 */
export const ROW_FORMATS = ['fp32', 'fp16', 'bf16', 'int8', 'int8_fp16', 'int4'] as const;
/** @useDeclaredType */
export type RowFormat = (typeof ROW_FORMATS)[number];
export type PlainFormat = 'fp32' | 'fp16' | 'bf16';

/** Bytes of one row of dim values. */
export function rowBytes(format: RowFormat, dim: number): number {
  switch (format) {
    case 'fp32':
      return dim * 4;
    case 'fp16':
    case 'bf16':
      return dim * 2;
    case 'int8':
      return dim + 8;
    case 'int8_fp16':
      return dim + 4;
    case 'int4':
      return Math.ceil(dim / 2) + 4;
  }
}

export function isPacked(format: RowFormat): format is Exclude<RowFormat, PlainFormat> {
  return format !== 'fp32' && format !== 'fp16' && format !== 'bf16';
}

/** What a packed file's __metadata__ says under "<tensor>.row_format". */
export const rowFormatMetadata = (format: RowFormat, dim: number): string => `${format} dim ${dim}`;
