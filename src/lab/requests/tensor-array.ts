import type { Indices } from '../../predictor/predictor.js';

/** What tensors of requests are read into. */
export const ARRAYS = { F32: Float32Array, I32: Int32Array, U32: Uint32Array, I64: BigInt64Array, U64: BigUint64Array } as const;
export type ArrayDtype = keyof typeof ARRAYS;
export type TensorArray = Float32Array | Int32Array | Uint32Array | BigInt64Array | BigUint64Array;

/** Dtypes of ids; offsets, and places in another tensor, come in the same. */
export const INTEGERS = ['I32', 'U32', 'I64', 'U64'] as const;

/** Integers as requests take them: uint64 are the same bytes as int64; where one is beyond that, bigints in an array tell its digits. */
export function requestIntegers(values: Exclude<TensorArray, Float32Array>): Indices {
  if (!(values instanceof BigUint64Array)) return values;
  const signed = new BigInt64Array(values.buffer, values.byteOffset, values.length);
  return signed.every((value) => value >= 0n) ? signed : Array.from(values);
}
