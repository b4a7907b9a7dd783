import type { BagsInput, PredictRequest } from '../../src/index.js';

/** An input of the Open Inference Protocol, as a client holds it. */
export interface ClientTensor {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
  readonly values: readonly (number | bigint)[];
}

export const int64 = (name: string, values: Iterable<number | bigint>): ClientTensor => {
  const listed = [...values];
  return { name, datatype: 'INT64', shape: [listed.length], values: listed };
};

/** The named tensors of a request, one way of several: bags as values and lengths, dense features as rows. */
export function tensorsOf(request: PredictRequest, dims: Readonly<Record<string, number>>): ClientTensor[] {
  const dense = Object.entries(request.dense).map(([name, values]): ClientTensor => {
    const dim = dims[name] as number;
    return { name, datatype: 'FP32', shape: [values.length / dim, dim], values: [...values] };
  });
  const sparse = Object.entries(request.sparse).flatMap(([name, { indices, offsets, weights }]: [string, BagsInput]) => {
    const ends = [...offsets].map(Number);
    return [
      int64(`${name}.values`, [...indices].map(BigInt)),
      int64(
        `${name}.lengths`,
        ends.slice(1).map((end, bag) => end - (ends[bag] as number)),
      ),
      ...(weights === undefined ? [] : [{ name: `${name}.weights`, datatype: 'FP32', shape: [weights.length], values: [...weights] }]),
    ];
  });
  return [...dense, ...sparse];
}

/** Little-endian, value by value. */
export function bytesOf({ datatype, values }: ClientTensor): Buffer {
  const size = datatype === 'FP32' ? 4 : Number(/\d+$/.exec(datatype)?.[0]) / 8;
  const bytes = Buffer.alloc(values.length * size);
  for (const [at, value] of values.entries()) {
    if (datatype === 'FP32') bytes.writeFloatLE(Number(value), at * 4);
    else if (datatype === 'INT64') bytes.writeBigInt64LE(BigInt(value), at * 8);
    else if (datatype === 'UINT64') bytes.writeBigUInt64LE(BigInt(value), at * 8);
    else if (datatype.startsWith('U')) bytes.writeUIntLE(Number(value), at * size, size);
    else bytes.writeIntLE(Number(value), at * size, size);
  }
  return bytes;
}

export interface ClientBody {
  readonly body: Buffer;
  readonly headers: Record<string, string>;
}

/** What a client sends: each tensor in binary, or as JSON, as binary says. more is put into the JSON. */
export function inferBody(tensors: readonly ClientTensor[], binary: (tensor: ClientTensor) => boolean, more: object = {}): ClientBody {
  const parts: Buffer[] = [];
  const inputs = tensors.map((tensor) => {
    const { name, datatype, shape, values } = tensor;
    if (!binary(tensor)) return { name, datatype, shape, data: values.map(Number) };
    const bytes = bytesOf(tensor);
    parts.push(bytes);
    return { name, datatype, shape, parameters: { binary_data_size: bytes.length } };
  });
  const json = Buffer.from(JSON.stringify({ ...more, inputs }));
  return {
    body: Buffer.concat([json, ...parts]),
    headers: parts.length === 0 ? {} : { 'inference-header-content-length': String(json.length) },
  };
}

export interface ReadAnswer {
  // biome-ignore lint/suspicious/noExplicitAny: parsed JSON of the server
  readonly json: any;
  readonly outputs: Readonly<Record<string, Float32Array>>;
}

/** Reads an answer, binary or not. */
export async function readAnswer(response: Response): Promise<ReadAnswer> {
  const body = Buffer.from(await response.arrayBuffer());
  const length = Number(response.headers.get('inference-header-content-length') ?? body.length);
  const json = JSON.parse(body.toString('utf8', 0, length));
  let at = length;
  const outputs: Record<string, Float32Array> = {};
  for (const { name, data, parameters } of json.outputs ?? []) {
    if (data !== undefined) {
      outputs[name] = Float32Array.from(data);
      continue;
    }
    const bytes = body.subarray(at, at + parameters.binary_data_size);
    outputs[name] = Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(i * 4));
    at += parameters.binary_data_size;
  }
  return { json, outputs };
}
