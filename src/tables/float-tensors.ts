/** Dtypes of safetensors that hold floats of known layout. */
export const FLOAT_DTYPES = ['F32', 'F16', 'BF16', 'F64'] as const;
export type FloatDtype = (typeof FLOAT_DTYPES)[number];

export const isFloatDtype = (dtype: string): dtype is FloatDtype => (FLOAT_DTYPES as readonly string[]).includes(dtype);

/** The values of a tensor, whose bytes start a buffer, in float32: exact but for F64, which is rounded to nearest. F32 is not copied. */
export function toFloat32(dtype: FloatDtype, { buffer }: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  switch (dtype) {
    case 'F32':
      return new Float32Array(buffer);
    case 'F64':
      return Float32Array.from(new Float64Array(buffer));
    case 'BF16':
      // The upper half of a float32.
      return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer);
    case 'F16':
      return Float32Array.from(new Uint16Array(buffer), halfToFloat);
  }
}

/** The value at a position, before it is rounded to float32. */
export function valueAt(dtype: FloatDtype, bytes: Uint8Array<ArrayBuffer>, position: number): number {
  return dtype === 'F64' ? (new Float64Array(bytes.buffer)[position] as number) : (toFloat32(dtype, bytes)[position] as number);
}

const HALF_FRACTION = 0x3ff;
const HALF_SPECIAL = 31;

function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & HALF_SPECIAL;
  const fraction = bits & HALF_FRACTION;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === HALF_SPECIAL) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
