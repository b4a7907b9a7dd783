import { TerabagError } from '../../errors.js';
import { decodeExactly } from '../../tables/json.js';
import { type ProtobufField, ProtobufReader } from './protobuf.js';

/** By ONNX's number (TensorProto.DataType). */
const ELEMENT_TYPES: ReadonlyMap<number, string> = new Map([
  [1, 'float32'],
  [2, 'uint8'],
  [3, 'int8'],
  [4, 'uint16'],
  [5, 'int16'],
  [6, 'int32'],
  [7, 'int64'],
  [8, 'string'],
  [9, 'bool'],
  [10, 'float16'],
  [11, 'float64'],
  [12, 'uint32'],
  [13, 'uint64'],
  [16, 'bfloat16'],
]);

/** What an ONNX model reads or gives. */
export interface OnnxValue {
  readonly name: string;
  /** As in ELEMENT_TYPES, or what it is instead. */
  readonly elementType: string;
  /** A number, or null for a dim that is named or not said; null where nothing is said of the shape. */
  readonly shape: readonly (number | null)[] | null;
}

export interface OnnxSignature {
  /** Without those that have a value in the file. */
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  /** Multiply-adds of the weight matrices, each read once for a row. */
  readonly macs: number;
}

// Field numbers of onnx.proto.
const MODEL = { graph: 7, trainingInfo: 20, functions: 25 } as const;
const GRAPH = { node: 1, initializer: 5, input: 11, output: 12, sparseInitializer: 15 } as const;
const NODE = { input: 1, opType: 4, attribute: 5 } as const;
const ATTRIBUTE = { tensor: 5, graph: 6, tensors: 10, graphs: 11, sparseTensor: 22, sparseTensors: 23 } as const;
const FUNCTION = { node: 7, attribute: 11 } as const;
const TRAINING = { initialization: 1, algorithm: 2 } as const;
const SPARSE_TENSOR = { values: 1, indices: 2 } as const;
const TENSOR = { dims: 1, name: 8, externalData: 13, dataLocation: 14 } as const;
const VALUE = { name: 1, type: 2 } as const;
const TYPE = { tensor: 1 } as const;
const TENSOR_TYPE = { elementType: 1, shape: 2 } as const;
const SHAPE = { dim: 1 } as const;
const DIM = { value: 1 } as const;

/** Operators that multiply rows by a matrix. */
const MATRIX_OPS = new Set(['MatMul', 'Gemm']);
/** Graphs lie within nodes of graphs; no real one is deeper. */
const MOST_DEPTH = 64;

/**
 * Reads of an ONNX model what has to be known before it runs. What is no ONNX model, and one whose weights lie in other files, is refused (bad_model):
 * nothing would cover those with checksums.
 */
export function readOnnxSignature(bytes: Uint8Array, path: string): OnnxSignature {
  try {
    const graph = new GraphReader();
    let graphs = 0;
    for (const { number, value } of fieldsOf(bytes)) {
      if (number === MODEL.graph) {
        graphs++;
        graph.read(message(value), 0);
      } else if (number === MODEL.functions) readFunction(message(value));
      else if (number === MODEL.trainingInfo)
        for (const { number: part, value: inner } of fieldsOf(message(value)))
          if (part === TRAINING.initialization || part === TRAINING.algorithm) new GraphReader().read(message(inner), 0);
    }
    if (graphs === 0) throw new SyntaxError('it has no graph');
    return graph.signature();
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new TerabagError('bad_model', `no sound ONNX model: ${error.message}: ${path}`, { path });
  }
}

function* fieldsOf(bytes: Uint8Array): Generator<ProtobufField> {
  const reader = new ProtobufReader(bytes);
  for (let field = reader.next(); field !== null; field = reader.next()) yield field;
}

function message(value: ProtobufField['value']): Uint8Array {
  if (value instanceof Uint8Array) return value;
  throw new SyntaxError('a number stands where a message has to be');
}

function integer(value: ProtobufField['value']): number {
  if (typeof value === 'number') return value;
  throw new SyntaxError('a message stands where a number has to be');
}

function text(value: ProtobufField['value']): string {
  const decoded = decodeExactly(message(value));
  if (decoded === null) throw new SyntaxError('a name is not UTF-8');
  return decoded;
}

/** Collects what one graph says. */
class GraphReader {
  readonly #inputs: OnnxValue[] = [];
  readonly #outputs: OnnxValue[] = [];
  /** By name of an initializer: its elements, 0 unless it is a matrix. */
  readonly #initializers = new Map<string, number>();
  readonly #multiplied: string[] = [];

  read(bytes: Uint8Array, depth: number): void {
    if (depth > MOST_DEPTH) throw new SyntaxError(`graphs lie more than ${MOST_DEPTH} deep in each other`);
    for (const { number, value } of fieldsOf(bytes)) {
      if (number === GRAPH.input) this.#inputs.push(readValue(message(value)));
      else if (number === GRAPH.output) this.#outputs.push(readValue(message(value)));
      else if (number === GRAPH.initializer) {
        const { name, dims } = readTensor(message(value));
        this.#initializers.set(name, dims.length === 2 ? (dims[0] as number) * (dims[1] as number) : 0);
      } else if (number === GRAPH.sparseInitializer) this.#initializers.set(readSparseTensor(message(value)), 0);
      else if (number === GRAPH.node) this.#multiplied.push(...readNode(message(value), depth));
    }
  }

  signature(): OnnxSignature {
    return {
      inputs: this.#inputs.filter(({ name }) => !this.#initializers.has(name)),
      outputs: this.#outputs,
      macs: this.#multiplied.reduce((sum, name) => sum + (this.#initializers.get(name) ?? 0), 0),
    };
  }
}

function readFunction(bytes: Uint8Array): void {
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === FUNCTION.node) readNode(message(value), 0);
    else if (number === FUNCTION.attribute) readAttribute(message(value), 0);
  }
}

/** Names of what it multiplies rows by. */
function readNode(bytes: Uint8Array, depth: number): string[] {
  const inputs: string[] = [];
  let op = '';
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === NODE.input) inputs.push(text(value));
    else if (number === NODE.opType) op = text(value);
    else if (number === NODE.attribute) readAttribute(message(value), depth);
  }
  return MATRIX_OPS.has(op) ? inputs.slice(0, 2) : [];
}

function readAttribute(bytes: Uint8Array, depth: number): void {
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === ATTRIBUTE.tensor || number === ATTRIBUTE.tensors) readTensor(message(value));
    else if (number === ATTRIBUTE.sparseTensor || number === ATTRIBUTE.sparseTensors) readSparseTensor(message(value));
    else if (number === ATTRIBUTE.graph || number === ATTRIBUTE.graphs) new GraphReader().read(message(value), depth + 1);
  }
}

/** Its name is that of its values. */
function readSparseTensor(bytes: Uint8Array): string {
  let name = '';
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === SPARSE_TENSOR.values) name = readTensor(message(value)).name;
    else if (number === SPARSE_TENSOR.indices) readTensor(message(value));
  }
  return name;
}

function readTensor(bytes: Uint8Array): { readonly name: string; readonly dims: readonly number[] } {
  let name = '';
  const dims: number[] = [];
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === TENSOR.name) name = text(value);
    else if (number === TENSOR.dims) for (const dim of value instanceof Uint8Array ? packed(value) : [integer(value)]) dims.push(dim);
    else if (number === TENSOR.externalData || (number === TENSOR.dataLocation && value !== 0))
      throw new SyntaxError(`tensor ${name || 'without a name'} lies in another file; save the model with all data inside`);
  }
  return { name, dims };
}

function packed(bytes: Uint8Array): number[] {
  const numbers: number[] = [];
  const reader = new ProtobufReader(bytes);
  for (let value = reader.nextNumber(); value !== null; value = reader.nextNumber()) numbers.push(value);
  return numbers;
}

function readValue(bytes: Uint8Array): OnnxValue {
  let name = '';
  let type: Pick<OnnxValue, 'elementType' | 'shape'> = { elementType: 'of no type', shape: null };
  for (const { number, value } of fieldsOf(bytes)) {
    if (number === VALUE.name) name = text(value);
    else if (number === VALUE.type) type = readType(message(value));
  }
  return { name, ...type };
}

function readType(bytes: Uint8Array): Pick<OnnxValue, 'elementType' | 'shape'> {
  let elementType = 'no tensor';
  let shape: (number | null)[] | null = null;
  for (const { number, value } of fieldsOf(bytes)) {
    if (number !== TYPE.tensor) continue;
    for (const { number: part, value: inner } of fieldsOf(message(value))) {
      if (part === TENSOR_TYPE.elementType) elementType = ELEMENT_TYPES.get(integer(inner)) ?? `of element type ${integer(inner)}`;
      else if (part === TENSOR_TYPE.shape) shape = readShape(message(inner));
    }
  }
  return { elementType, shape };
}

function readShape(bytes: Uint8Array): (number | null)[] {
  const dims: (number | null)[] = [];
  for (const { number, value } of fieldsOf(bytes)) {
    if (number !== SHAPE.dim) continue;
    let dim: number | null = null;
    for (const { number: part, value: inner } of fieldsOf(message(value))) if (part === DIM.value) dim = integer(inner);
    dims.push(dim);
  }
  return dims;
}
