import { TerabagError } from '../../errors.js';
import type { BagsInput, PredictRequest } from '../../predictor/predictor.js';
import { shown } from '../../predictor/shown.js';

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

/** A copy, when files can hold the request: invalid_argument with the field of what would be read otherwise than it is. */
export function copyRequest({ items, dense, sparse }: PredictRequest): CopiedRequest {
  if (items !== undefined && !(Number.isInteger(items) && items >= 0 && items <= MAX_INT32))
    throw invalid('items', `an integer between 0 and ${MAX_INT32}`, items);
  return {
    ...(items !== undefined && { items }),
    dense: Object.fromEntries(Object.entries(dense).map(([name, values]) => [name, copyFloats(`dense.${name}`, values)])),
    sparse: Object.fromEntries(Object.entries(sparse).map(([name, bags]) => [name, copyBags(`sparse.${name}`, bags)])),
  };
}

const invalid = (field: string, expected: string, value: unknown, position?: number): TerabagError =>
  new TerabagError(
    'invalid_argument',
    `${field} has to be ${expected}${position === undefined ? '' : `, position ${position}`}: ${shown(value)}`,
    { field, ...(position !== undefined && { position }) },
  );

/** NaN and infinities are kept; finite numbers that would become infinite are refused. */
function copyFloats(field: string, values: ArrayLike<number>): Float32Array {
  if (values instanceof Float32Array) return values.slice();
  const copied = Float32Array.from(values);
  const at = copied.findIndex((value, position) => {
    const given = values[position];
    return typeof given !== 'number' || (!Number.isFinite(value) && Number.isFinite(given));
  });
  if (at >= 0) throw invalid(field, 'numbers that fit float32', values[at], at);
  return copied;
}

function copyBags(field: string, { indices, offsets, weights }: BagsInput): CopiedBags {
  const ids = copyIndices(`${field}.indices`, indices);
  const copied = { indices: ids, offsets: copyOffsets(`${field}.offsets`, offsets, ids.length) };
  if (weights === undefined) return copied;
  if (weights.length !== ids.length) throw invalid(`${field}.weights`, `one per id, ${ids.length}`, weights.length);
  return { ...copied, weights: copyFloats(`${field}.weights`, weights) };
}

/** An archive has one row of offsets for all requests: each one's begin at 0, never fall, and end at its number of ids. */
function copyOffsets(field: string, offsets: BagsInput['offsets'], ids: number): Uint32Array {
  const copied = new Uint32Array(offsets.length);
  for (let at = 0; at < offsets.length; at++) {
    const given = offsets[at];
    const offset = typeof given === 'bigint' ? Number(given) : given;
    const least = at === 0 ? 0 : (copied[at - 1] as number);
    const most = at === 0 ? 0 : ids;
    if (typeof offset !== 'number' || !Number.isInteger(offset) || offset < least || offset > most)
      throw invalid(field, 'integers from 0 to the number of ids that never fall', given, at);
    copied[at] = offset;
  }
  if (copied.length === 0 || copied.at(-1) !== ids) throw invalid(field, `B + 1 entries, the last of them ${ids}`, copied.at(-1));
  return copied;
}

const DECIMAL = /^-?\d+$/;

function copyIndices(field: string, indices: BagsInput['indices']): Int32Array | BigInt64Array {
  if (indices instanceof Int32Array) return indices.slice();
  let wide = false;
  for (let at = 0; at < indices.length; at++) {
    const given: unknown = indices[at];
    const sound = typeof given === 'string' ? DECIMAL.test(given) : typeof given === 'bigint' || Number.isInteger(given);
    if (!sound) throw invalid(field, 'integers or strings of decimal digits', given, at);
    const value = Number(given);
    if (value >= -MAX_INT32 && value <= MAX_INT32) continue;
    wide = true;
    const exact = BigInt(given as number | bigint | string);
    if (BigInt.asIntN(64, exact) !== exact) throw invalid(field, 'ids that fit int64', given, at);
  }
  return wide ? BigInt64Array.from(indices as readonly number[], BigInt) : Int32Array.from(indices as readonly number[], Number);
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
