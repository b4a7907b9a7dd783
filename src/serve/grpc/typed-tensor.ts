import { fromBinary } from '@bufbuild/protobuf';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { TerabagError } from '../../errors.js';
import { rawTensor, valuesOfShape } from '../tensors/raw-tensor.js';
import type { Datatype, Tensor, TensorData } from '../tensors/tensor.js';
import { type InferTensorContents, InferTensorContentsSchema } from './proto/open_inference_pb.js';
import { countVarints, decodeVarints } from './varints.js';

type ContentsField = Exclude<keyof InferTensorContents, '$typeName' | '$unknown'>;

interface FieldOfType {
  readonly field: ContentsField;
  /** What its varints become; null: values lie as they are. */
  readonly view: ((words: Uint32Array) => TensorData) | null;
  readonly bytes: 4 | 8;
}

const INT: FieldOfType = { field: 'intContents', view: ({ buffer }) => new Int32Array(buffer), bytes: 4 };
const UINT: FieldOfType = { field: 'uintContents', view: (words) => words, bytes: 4 };
const FIELDS: Readonly<Record<Datatype, FieldOfType>> = {
  INT8: INT,
  INT16: INT,
  INT32: INT,
  INT64: { field: 'int64Contents', view: ({ buffer }) => new BigInt64Array(buffer), bytes: 8 },
  UINT8: UINT,
  UINT16: UINT,
  UINT32: UINT,
  UINT64: { field: 'uint64Contents', view: ({ buffer }) => new BigUint64Array(buffer), bytes: 8 },
  FP32: { field: 'fp32Contents', view: null, bytes: 4 },
};

/** What a value that is not packed may take, and each of its bytes. */
const BYTES_OF_BYTE = 32;

/**
 * The tensor whose values are an encoded InferTensorContents. hold is told what they take before they are read. Throws invalid_argument, with the
 * tensor as field, of values of another datatype's field and of more or fewer than the shape says; and anything of bytes that are no protobuf.
 */
export function typedTensor(
  name: string,
  datatype: Datatype,
  shape: readonly number[],
  contents: Uint8Array,
  hold: (bytes: number) => void,
): Tensor {
  const { field, view, bytes } = FIELDS[datatype];
  const packed = onlyPackedField(contents, InferTensorContentsSchema.field[field].number);
  if (packed === null) return { name, datatype, shape, data: fieldOf(name, datatype, shape, contents, hold) };
  if (view === null) return rawTensor(name, datatype, shape, packed);
  const count = countVarints(packed);
  requireCount(name, shape, count);
  hold(count * bytes);
  const words = new Uint32Array((count * bytes) / 4);
  decodeVarints(packed, count, words, bytes === 8 ? 2 : 1);
  return { name, datatype, shape, data: view(words) };
}

/** The values of a field that is given once, packed, and alone, as all clients send it; null otherwise. */
function onlyPackedField(contents: Uint8Array, field: number): Uint8Array | null {
  if (contents.length === 0) return contents;
  const reader = new BinaryReader(contents);
  const [number, type] = reader.tag();
  if (number !== field || type !== WireType.LengthDelimited) return null;
  const bytes = reader.bytes();
  return reader.pos === contents.length ? bytes : null;
}

/** Protobuf also allows values that are not packed, fields in pieces, and fields of other datatypes without values. */
function fieldOf(
  name: string,
  datatype: Datatype,
  shape: readonly number[],
  contents: Uint8Array,
  hold: (bytes: number) => void,
): TensorData {
  hold(contents.length * BYTES_OF_BYTE);
  const message = fromBinary(InferTensorContentsSchema, contents, { readUnknownFields: false });
  const { field } = FIELDS[datatype];
  for (const other of InferTensorContentsSchema.fields) {
    const given = (message[other.localName as ContentsField] as readonly unknown[]).length;
    if (other.localName !== field && given > 0)
      throw invalid(name, `has values in ${other.name}, and those of ${datatype} belong in ${InferTensorContentsSchema.field[field].name}`);
  }
  const data = message[field] as readonly (number | bigint)[];
  requireCount(name, shape, data.length);
  return data;
}

function requireCount(name: string, shape: readonly number[], count: number): void {
  const values = valuesOfShape(name, shape);
  if (count !== values) throw invalid(name, `has ${count} values, and [${shape.slice(0, 8).join(', ')}] takes ${values}`);
}

const invalid = (name: string, message: string): TerabagError =>
  new TerabagError('invalid_argument', `input ${name} ${message}`, { field: name });
