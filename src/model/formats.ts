/** How the rows of a table are stored. */
interface RowFormatInfo {
  /** Safetensors' name of the tensor's values. */
  readonly dtype: 'F32' | 'F16' | 'BF16' | 'U8';
  /** Plain: a tensor [rows, dim]. Packed: a U8 tensor [rows, bytes per row], whose __metadata__ names the format. */
  readonly packed: boolean;
  readonly valueBits: number;
  /** Behind the values of each row: of both together, as float32 (8) or float16 (4), or none. */
  readonly scaleAndBiasBytes: 0 | 4 | 8;
}

/**
 * The one table of row formats. native/kernels/row_format.h has the same table, with the layouts and what to do to add one; an addon whose
 * table differs is refused when it is loaded.
 */
const FORMATS = {
  fp32: { dtype: 'F32', packed: false, valueBits: 32, scaleAndBiasBytes: 0 },
  fp16: { dtype: 'F16', packed: false, valueBits: 16, scaleAndBiasBytes: 0 },
  bf16: { dtype: 'BF16', packed: false, valueBits: 16, scaleAndBiasBytes: 0 },
  int8: { dtype: 'U8', packed: true, valueBits: 8, scaleAndBiasBytes: 8 },
  int8_fp16: { dtype: 'U8', packed: true, valueBits: 8, scaleAndBiasBytes: 4 },
  int4: { dtype: 'U8', packed: true, valueBits: 4, scaleAndBiasBytes: 4 },
} as const satisfies Record<string, RowFormatInfo>;

/** @useDeclaredType */
export type RowFormat = keyof typeof FORMATS;
/** @useDeclaredType */
export type PlainFormat = { [F in RowFormat]: (typeof FORMATS)[F]['packed'] extends true ? never : F }[RowFormat];
export type PackedFormat = Exclude<RowFormat, PlainFormat>;

export const ROW_FORMATS = Object.keys(FORMATS) as [RowFormat, ...RowFormat[]];
export const PLAIN_FORMATS: readonly PlainFormat[] = ROW_FORMATS.filter((format) => !isPacked(format)) as PlainFormat[];

export const rowFormatInfo = (format: RowFormat): RowFormatInfo => FORMATS[format];

/** Safetensors' name of the values of a row format. */
export const dtypeOf = (format: RowFormat): RowFormatInfo['dtype'] => FORMATS[format].dtype;

/** For those who choose a format: its name, and how scale and bias are stored. */
export function describeFormat(format: RowFormat): string {
  const { scaleAndBiasBytes } = FORMATS[format];
  return scaleAndBiasBytes === 0 ? format : `${format} (${scaleAndBiasBytes === 8 ? 'fp32' : 'fp16'} scale and bias)`;
}

/** Bytes of one row of dim values. */
export function rowBytes(format: RowFormat, dim: number): number {
  const { valueBits, scaleAndBiasBytes } = FORMATS[format];
  return Math.ceil((dim * valueBits) / 8) + scaleAndBiasBytes;
}

export function isPacked(format: RowFormat): format is PackedFormat {
  return FORMATS[format].packed;
}

/** What a packed file's __metadata__ says under "<tensor>.row_format". */
export const rowFormatMetadata = (format: RowFormat, dim: number): string => `${format} dim ${dim}`;
