import { TerabagError } from '../../errors.js';
import type { BagsInput, PredictRequest } from '../../predictor/predictor.js';

/** An input of a model as its metadata tells it (GET /v2/models/M). */
export interface InputMetadata {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
}

/** Little-endian, row-major. */
export interface NamedTensor extends InputMetadata {
  readonly bytes: Uint8Array;
}

/** Bytes of JSON before the binary tensors. */
export const HEADER_LENGTH = 'inference-header-content-length';

/** A body of the REST protocol with binary tensors, but for the request's deadline, which is different each time that it is sent. */
export class InferMessage {
  readonly #rest: Buffer;
  readonly #binary: Buffer;

  constructor(tensors: readonly NamedTensor[], items: number | undefined) {
    // Those of 8 bytes a value come first, so that all are aligned where the first is.
    const ordered = [...tensors].sort((a, b) => Number(b.datatype === 'INT64') - Number(a.datatype === 'INT64'));
    const inputs = ordered.map(({ name, datatype, shape, bytes }) => ({
      ...{ name, datatype, shape },
      parameters: { binary_data_size: bytes.byteLength },
    }));
    const parameters = JSON.stringify({ binary_data_output: true, ...(items !== undefined && { items }) });
    this.#rest = Buffer.from(`,${parameters.slice(1)},"inputs":${JSON.stringify(inputs)}}`);
    this.#binary = Buffer.concat(ordered.map(({ bytes }) => bytes));
  }

  /** Its bytes, and what a request has to say of them. */
  write(deadlineMs: number): { readonly body: Buffer; readonly headers: Readonly<Record<string, string | number>> } {
    const head = Buffer.from(`{"parameters":{"timeout":${Math.max(1, Math.floor(deadlineMs * 1000))}`);
    const headers = { 'content-type': 'application/octet-stream', [HEADER_LENGTH]: head.length + this.#rest.length };
    return { body: Buffer.concat([head, this.#rest, this.#binary]), headers };
  }
}

/**
 * What a request is to a model with these inputs: `f.values` with `f.offsets`, or with `f.lengths` where there are no offsets, and `f.weights` of a bag
 * f; a dense feature by its own name. What the model does not have is sent all the same, for the server to refuse.
 */
export function messageOf({ dense, sparse, items }: PredictRequest, inputs: ReadonlyMap<string, InputMetadata>): InferMessage {
  const tensors = [
    ...Object.entries(dense).map(([name, values]) => floats(name, values, inputs.get(name)?.shape.at(-1) ?? values.length)),
    ...Object.entries(sparse).flatMap(([name, bags]) => bagTensors(name, bags, inputs)),
  ];
  return new InferMessage(tensors, items);
}

function bagTensors(name: string, { indices, offsets, weights }: BagsInput, inputs: ReadonlyMap<string, InputMetadata>): NamedTensor[] {
  const ends = integers(name, offsets);
  const asLengths = inputs.has(`${name}.lengths`) && !inputs.has(`${name}.offsets`);
  const bounds = asLengths ? ends.slice(1).map((end, bag) => end - (ends[bag] as bigint)) : ends;
  return [
    longs(`${name}.values`, integers(name, indices)),
    longs(`${name}.${asLengths ? 'lengths' : 'offsets'}`, bounds),
    ...(weights ? [floats(`${name}.weights`, weights)] : []),
  ];
}

function integers(bag: string, values: BagsInput['indices'] | BagsInput['offsets']): BigInt64Array {
  if (values instanceof BigInt64Array) return values;
  try {
    return BigInt64Array.from(values as readonly number[], BigInt);
  } catch {
    throw new TerabagError('invalid_argument', `ids and offsets have to be integers: ${bag}`, { bag });
  }
}

const longs = (name: string, values: BigInt64Array): NamedTensor => ({
  name,
  datatype: 'INT64',
  shape: [values.length],
  bytes: bytesOf(values),
});

/** Rows of dim values where they divide into those; otherwise the server says what is wrong. */
function floats(name: string, values: Float32Array | readonly number[], dim?: number): NamedTensor {
  const data = values instanceof Float32Array ? values : Float32Array.from(values);
  const rows = dim === undefined ? 0 : data.length / dim;
  const shape = dim !== undefined && dim > 0 && Number.isInteger(rows) ? [rows, dim] : [data.length];
  return { name, datatype: 'FP32', shape, bytes: bytesOf(data) };
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | BigInt64Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);
