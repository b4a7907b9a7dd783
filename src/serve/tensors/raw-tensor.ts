import { endianness } from 'node:os';
import { TerabagError } from '../../errors.js';
import type { Datatype, Tensor, TensorData } from './tensor.js';

type TypedArray = Exclude<TensorData, readonly unknown[]>;
type Constructor = { new (buffer: ArrayBufferLike, byteOffset: number, length: number): TypedArray; readonly BYTES_PER_ELEMENT: number };

const ARRAYS: Readonly<Record<Datatype, Constructor>> = {
  INT8: Int8Array,
  UINT8: Uint8Array,
  INT16: Int16Array,
  UINT16: Uint16Array,
  INT32: Int32Array,
  UINT32: Uint32Array,
  INT64: BigInt64Array,
  UINT64: BigUint64Array,
  FP32: Float32Array,
};

/** Throws invalid_argument, with the tensor as field, unless it is a datatype that a model's inputs can have. */
export function datatypeOf(tensor: string, text: unknown): Datatype {
  if (typeof text === 'string' && Object.hasOwn(ARRAYS, text)) return text as Datatype;
  const shown = typeof text === 'string' ? text.slice(0, 20) : typeof text;
  throw invalid(tensor, `has to have a datatype of ${Object.keys(ARRAYS).join(', ')}: ${shown}`);
}

/** Of a shape. */
const MOST_DIMS = 8;

/** Values of a shape; throws invalid_argument, with the tensor as field, unless they can be counted. */
export function valuesOfShape(tensor: string, shape: readonly unknown[]): number {
  if (shape.length > MOST_DIMS) throw invalid(tensor, `has to have at most ${MOST_DIMS} dims: ${shape.length}`);
  let values = 1;
  for (const dim of shape) {
    if (!Number.isSafeInteger(dim) || (dim as number) < 0)
      throw invalid(tensor, `has to have a shape of integers, 0 or more: ${typeof dim === 'number' ? dim : typeof dim}`);
    values *= dim as number;
  }
  if (values <= Number.MAX_SAFE_INTEGER) return values;
  throw invalid(tensor, `has a shape of more values than can be counted: [${shape.slice(0, 8).join(', ')}]`);
}

/**
 * The tensor whose values lie in bytes, little-endian and row-major: read there, and copied only where they are not aligned. Throws invalid_argument,
 * with the tensor as field, when there are more or fewer bytes than the shape says.
 */
export function rawTensor(name: string, datatype: Datatype, shape: readonly number[], bytes: Uint8Array): Tensor {
  const values = valuesOfShape(name, shape);
  const array = ARRAYS[datatype];
  const needed = values * array.BYTES_PER_ELEMENT;
  if (bytes.byteLength !== needed)
    throw invalid(name, `has ${bytes.byteLength} bytes, and ${datatype} [${shape.slice(0, 8).join(', ')}] takes ${needed}`);
  const aligned = bytes.byteOffset % array.BYTES_PER_ELEMENT === 0 ? bytes : new Uint8Array(bytes);
  return { name, datatype, shape, data: new array(aligned.buffer, aligned.byteOffset, values) };
}

/** The bytes of values as they travel: little-endian, as all machines that Terabag runs on have them. Not copied. */
export const rawBytes = ({ buffer, byteOffset, byteLength }: TypedArray): Uint8Array => new Uint8Array(buffer, byteOffset, byteLength);

if (endianness() !== 'LE') throw new TerabagError('unsupported', 'tensors are little-endian on the wire, and this machine is not');

function invalid(tensor: string, message: string): TerabagError {
  return new TerabagError('invalid_argument', `input ${tensor} ${message}`, { field: tensor });
}
