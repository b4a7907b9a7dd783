import type { HttpClient } from '../../src/lab/endpoint/http-client.js';
import { InferMessage, type NamedTensor } from '../../src/lab/endpoint/infer-message.js';
import { predictionOf } from '../../src/lab/endpoint/remote-predictor.js';
import type { LoadTarget } from '../../src/lab/load/load-run.js';
import type { PredictRequest } from '../../src/predictor/predictor.js';

/** Dense features and ids of a request with one id a bag, as peers take them. */
export interface Inputs {
  readonly items: number;
  readonly dense: Float32Array;
  /** [bags, items] */
  readonly ids: BigInt64Array;
}

export function inputsOf({ items = 0, dense, sparse }: PredictRequest): Inputs {
  const bags = Object.values(sparse);
  const ids = new BigInt64Array(bags.length * items);
  for (const [bag, { indices, offsets }] of bags.entries()) {
    if (indices.length !== items || offsets.length !== items + 1) throw new Error(`bag ${bag} has to have one id an item`);
    for (const [item, id] of (indices as readonly number[]).entries()) ids[bag * items + item] = BigInt(id);
  }
  return { items, dense: Float32Array.from(Object.values(dense)[0] as Float32Array), ids };
}

const bytes = ({ buffer, byteOffset, byteLength }: Float32Array | BigInt64Array): Buffer => Buffer.from(buffer, byteOffset, byteLength);

/** A server that answers with scores, of a request whose body was made before the first time that it is sent. */
abstract class PeerTarget<Body> implements LoadTarget {
  readonly #bodies = new WeakMap<PredictRequest, Body>();

  constructor(protected readonly client: HttpClient) {}

  async predict(request: PredictRequest, { deadlineMs = 1000 } = {}): Promise<{ readonly scores: Float32Array }> {
    let body = this.#bodies.get(request);
    if (body === undefined) {
      body = this.write(inputsOf(request));
      this.#bodies.set(request, body);
    }
    return { scores: await this.ask(body, deadlineMs) };
  }

  protected abstract write(inputs: Inputs): Body;
  protected abstract ask(body: Body, deadlineMs: number): Promise<Float32Array>;
}

/** Bytes there and back: what a service of one's own would speak. */
export class RawTarget extends PeerTarget<Buffer> {
  protected write({ dense, ids }: Inputs): Buffer {
    return Buffer.concat([bytes(dense), bytes(ids)]);
  }

  protected async ask(body: Buffer, deadlineMs: number): Promise<Float32Array> {
    const answer = await this.client.call('/score', { body, deadlineMs, headers: { 'content-type': 'application/octet-stream' } });
    return new Float32Array(new Uint8Array(answer.body).buffer);
  }
}

/** The Open Inference Protocol with two tensors, dense and ids. */
export class TensorTarget extends PeerTarget<InferMessage> {
  /** layout: of ids; servers that merge requests want the items first. */
  constructor(
    client: HttpClient,
    private readonly path: string,
    private readonly layout: 'bags first' | 'items first',
  ) {
    super(client);
  }

  protected write({ items, dense, ids }: Inputs): InferMessage {
    const bags = ids.length / items;
    const itemsFirst = this.layout === 'items first';
    const placed = itemsFirst ? ids.map((_, at) => ids[(at % bags) * items + Math.floor(at / bags)] as bigint) : ids;
    const shape = itemsFirst ? [items, bags] : [bags, items];
    const tensors: NamedTensor[] = [
      { name: 'dense', datatype: 'FP32', shape: [items, dense.length / items], bytes: bytes(dense) },
      { name: 'ids', datatype: 'INT64', shape, bytes: bytes(placed) },
    ];
    return new InferMessage(tensors, undefined);
  }

  protected async ask(message: InferMessage, deadlineMs: number): Promise<Float32Array> {
    const { headers, body } = message.write(deadlineMs);
    return predictionOf(await this.client.call(this.path, { headers, body, deadlineMs })).scores;
  }
}
