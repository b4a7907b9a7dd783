import { TerabagError } from '../errors.js';
import type { PackedFormat } from '../model/formats.js';
import { rowBytes } from '../model/formats.js';
import type { Dtype } from './checkpoint.js';

/** Dtypes whose values are numbers that float32 stands for. */
export const FLOATS: ReadonlySet<Dtype> = new Set<Dtype>(['F64', 'F32', 'F16', 'BF16']);

/** Values as float32: F16 and BF16 exactly, F64 rounded to nearest. One that float32 cannot hold is refused (bad_checkpoint), with its place. */
export function toFloat32(bytes: Uint8Array<ArrayBuffer>, dtype: Dtype, tensor: string): Float32Array<ArrayBuffer> {
  if (dtype === 'F32') return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  if (dtype === 'BF16') return float32OfBits(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2), (bits) => bits << 16);
  if (dtype === 'F16') return float32OfBits(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2), bitsOfHalf);
  const doubles = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8);
  const floats = Float32Array.from(doubles);
  const position = floats.findIndex((value, at) => Math.abs(value) === Number.POSITIVE_INFINITY && Number.isFinite(doubles[at]));
  if (position >= 0)
    throw new TerabagError('bad_checkpoint', `value is too large for float32: ${tensor}, position ${position}, ${doubles[position]}`, {
      tensor,
      position,
    });
  return floats;
}

function float32OfBits(halves: Uint16Array, widen: (bits: number) => number): Float32Array<ArrayBuffer> {
  return new Float32Array(Uint32Array.from(halves, (bits) => widen(bits) >>> 0).buffer);
}

/** The bits of a float32 that is a float16: IEEE 754, of which one has 5 bits of exponent and 10 of mantissa, the other 8 and 23. */
export function bitsOfHalf(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (mantissa << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (mantissa << 13);
  if (mantissa === 0) return sign;
  // A subnormal: its first bit becomes the one that is not written.
  const shift = Math.clz32(mantissa) - 21;
  return sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ff) << 13);
}

/** Scale and bias in float16, of which FBGEMM's tables for inference have both in front of the values. */
const FRONT_BYTES = 4;

/** Row formats that such tables have: quantized alike, scale and bias as wide. */
export const FRONT_FORMATS: ReadonlySet<string> = new Set<PackedFormat>(['int8_fp16', 'int4']);

/** Rows of FBGEMM's tables for inference, scale and bias in front and padded at the end, as fused rows: the same bits in another order. */
export function scaleAndBiasBehind(
  rows: Uint8Array,
  { rowBytes: before, dim, format }: { readonly rowBytes: number; readonly dim: number; readonly format: PackedFormat },
): Uint8Array<ArrayBuffer> {
  const after = rowBytes(format, dim);
  const values = after - FRONT_BYTES;
  const count = rows.length / before;
  const out = new Uint8Array(count * after);
  for (let row = 0; row < count; row++) {
    const from = row * before;
    out.set(rows.subarray(from + FRONT_BYTES, from + FRONT_BYTES + values), row * after);
    out.set(rows.subarray(from, from + FRONT_BYTES), row * after + values);
  }
  return out;
}
