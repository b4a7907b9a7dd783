import { TerabagError } from '../../errors.js';
import type { BagsInput, PredictRequest } from '../../predictor/predictor.js';

/** A request in arrays of its own, of the types that files hold. */
export interface CopiedRequest extends PredictRequest {
  readonly dense: Readonly<Record<string, Float32Array>>;
  readonly sparse: Readonly<Record<string, CopiedBags>>;
}

export interface CopiedBags extends BagsInput {
  /** int64 only where an id needs it. */
  readonly indices: Int32Array | BigInt64Array;
  readonly offsets: Uint32Array;
  readonly weights?: Float32Array;
}

const MAX_INT32 = 2 ** 31 - 1;

export function copyRequest({ items, dense, sparse }: PredictRequest): CopiedRequest {
  return {
    ...(items !== undefined && { items }),
    dense: Object.fromEntries(Object.entries(dense).map(([name, values]) => [name, Float32Array.from(values)])),
    sparse: Object.fromEntries(Object.entries(sparse).map(([name, bags]) => [name, copyBags(bags)])),
  };
}

function copyBags({ indices, offsets, weights }: BagsInput): CopiedBags {
  const copied = { indices: copyIndices(indices), offsets: Uint32Array.from(offsets as readonly number[], Number) };
  return weights === undefined ? copied : { ...copied, weights: Float32Array.from(weights) };
}

function copyIndices(indices: BagsInput['indices']): Int32Array | BigInt64Array {
  if (indices instanceof Int32Array) return indices.slice();
  let wide = false;
  for (const index of indices) {
    const value = Number(index);
    if (!Number.isInteger(value)) throw new TerabagError('invalid_argument', `an id has to be an integer: ${String(index)}`);
    wide ||= Math.abs(value) > MAX_INT32;
  }
  return wide ? BigInt64Array.from(indices as readonly number[], toInt64) : Int32Array.from(indices as readonly number[], Number);
}

function toInt64(index: number | bigint | string): bigint {
  const value = BigInt(index);
  if (BigInt.asIntN(64, value) !== value) throw new TerabagError('invalid_argument', `an id has to fit into int64: ${value}`);
  return value;
}

/** Bytes of the numbers that it holds. */
export function requestBytes({ dense, sparse }: CopiedRequest): number {
  let bytes = 0;
  for (const values of Object.values(dense)) bytes += values.byteLength;
  for (const { indices, offsets, weights } of Object.values(sparse))
    bytes += indices.byteLength + offsets.byteLength + (weights?.byteLength ?? 0);
  return bytes;
}

export const isFiniteRequest = ({ dense, sparse }: CopiedRequest): boolean =>
  Object.values(dense).every((values) => values.every(Number.isFinite)) &&
  Object.values(sparse).every(({ weights }) => weights?.every(Number.isFinite) ?? true);
