import {
  create,
  type DescMessage,
  type DescMethodStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import {
  type CallOptions,
  type ChannelCredentials,
  Client,
  type ClientDuplexStream,
  type ClientOptions,
  credentials,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import type { PredictRequest } from '../../../src/index.js';
import type { InferTensorContentsSchema, ModelInferRequestSchema } from '../../../src/serve/grpc/proto/open_inference_pb.js';

/** How a call is made. */
export interface CallHow extends CallOptions {
  readonly metadata?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

const same = (bytes: Buffer): Buffer => bytes;
const pathOf = ({ parent, name }: DescMethodUnary | DescMethodStreaming): string => `/${parent.typeName}/${name}`;

/** A client of any method, of generated messages or of raw bytes. */
export class GrpcClient {
  readonly client: Client;

  constructor(address: string, channel: ChannelCredentials = credentials.createInsecure(), options: ClientOptions = {}) {
    // Each has a connection of its own.
    this.client = new Client(address, channel, { 'grpc.use_local_subchannel_pool': 1, 'grpc.max_receive_message_length': -1, ...options });
  }

  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    how: CallHow = {},
  ): Promise<MessageShape<O>> {
    return fromBinary(method.output, await this.send(pathOf(method), toBinary(method.input, create(method.input, request)), how));
  }

  /** Rejects with the status of the call. */
  send(path: string, bytes: Uint8Array, { metadata = {}, signal, ...options }: CallHow = {}): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const sent = new Metadata();
      for (const [name, value] of Object.entries(metadata)) sent.set(name, value);
      const call = this.client.makeUnaryRequest(
        path,
        same,
        same,
        Buffer.from(bytes),
        sent,
        options,
        (error: ServiceError | null, answer) => (error === null ? resolve(answer as Buffer) : reject(error)),
      );
      signal?.addEventListener('abort', () => call.cancel());
    });
  }

  duplex(method: DescMethodStreaming, options: CallOptions = {}): ClientDuplexStream<Buffer, Buffer> {
    return this.client.makeBidiStreamRequest(pathOf(method), same, same, new Metadata(), options);
  }

  watch(method: DescMethodStreaming, bytes: Uint8Array) {
    return this.client.makeServerStreamRequest(pathOf(method), same, same, Buffer.from(bytes));
  }

  close(): void {
    this.client.close();
  }
}

/** One input, in both forms. */
interface Given {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
  readonly raw: Uint8Array;
  readonly contents: MessageInitShape<typeof InferTensorContentsSchema>;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | BigInt64Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

export function ints(name: string, values: ArrayLike<number | bigint | string>): Given {
  const data = BigInt64Array.from(Array.from(values, BigInt));
  return { name, datatype: 'INT64', shape: [data.length], raw: bytesOf(data), contents: { int64Contents: [...data] } };
}

export function floats(name: string, values: ArrayLike<number>, shape: readonly number[] = [values.length]): Given {
  const data = Float32Array.from(values);
  return { name, datatype: 'FP32', shape, raw: bytesOf(data), contents: { fp32Contents: [...data] } };
}

/** The inputs of a request. */
export function inputsOf({ dense, sparse }: PredictRequest, dim: number): Given[] {
  return [
    ...Object.entries(dense).map(([name, values]) => floats(name, values, [values.length / dim, dim])),
    ...Object.entries(sparse).flatMap(([name, { indices, offsets, weights }]) => [
      ints(`${name}.values`, indices),
      ints(`${name}.offsets`, offsets),
      ...(weights === undefined ? [] : [floats(`${name}.weights`, weights)]),
    ]),
  ];
}

export type Form = 'raw' | 'typed' | 'mixed';

/** mixed: every other input is typed, as KServe's client may send them. */
export function inferRequest(
  inputs: readonly Given[],
  form: Form,
  more: MessageInitShape<typeof ModelInferRequestSchema> = {},
): MessageInitShape<typeof ModelInferRequestSchema> {
  const typed = (at: number): boolean => form === 'typed' || (form === 'mixed' && at % 2 === 0);
  return {
    modelName: 'small',
    inputs: inputs.map(({ name, datatype, shape, contents }, at) => ({
      name,
      datatype,
      shape: shape.map(BigInt),
      ...(typed(at) && { contents }),
    })),
    rawInputContents: inputs.filter((_, at) => !typed(at)).map(({ raw }) => raw),
    ...more,
  } as MessageInitShape<typeof ModelInferRequestSchema>;
}

export const floatsOf = (bytes: Uint8Array): Float32Array => new Float32Array(new Uint8Array(bytes).buffer);
