import { TerabagError } from '../../errors.js';
import type { PredictOptions, PredictRequest } from '../../predictor/predictor.js';
import { type HttpAnswer, HttpClient } from './http-client.js';
import { HEADER_LENGTH, type InferMessage, type InputMetadata, messageOf } from './infer-message.js';
import { parseServerTiming, type ServerStages } from './server-stages.js';

/** What a served model answered. */
export interface RemotePrediction {
  /** [items, scoreDim] float32, row-major. */
  readonly scores: Float32Array;
  readonly items: number;
  readonly scoreDim: number;
  /** Further outputs by name. */
  readonly outputs: Readonly<Record<string, Float32Array>>;
  readonly modelVersion: string;
  readonly degraded: boolean;
  /** What the server took; null where it was not asked, or does not tell. */
  readonly stages: ServerStages | null;
}

export interface RemoteOptions {
  /** As http://127.0.0.1:8000; a path goes before the protocol's. */
  readonly url: string;
  readonly model: string;
  /** Default: the server's choice. */
  readonly version?: string | undefined;
  readonly token?: string | undefined;
  /** Asks the server for what its stages took; default false. */
  readonly timing?: boolean | undefined;
}

interface Metadata {
  readonly name: string;
  readonly platform: string;
  readonly inputs: readonly InputMetadata[];
}

const SCORES = 'scores';
const ASKING_FOR_TIMING = { 'x-terabag-timing': '1' } as const;
const METADATA_MS = 10_000;
const DEFAULT_DEADLINE_MS = 1000;

/**
 * A served model, asked over the Open Inference Protocol v2 (REST, binary tensors). What a request is on the wire is made once, and kept as long as the
 * request: callers send the same ones again and again, and must not change them.
 */
export class RemotePredictor {
  readonly #messages = new WeakMap<PredictRequest, InferMessage>();
  readonly #inputs: ReadonlyMap<string, InputMetadata>;
  readonly #path: string;

  private constructor(
    private readonly client: HttpClient,
    readonly metadata: Metadata,
    private readonly options: RemoteOptions,
  ) {
    this.#inputs = new Map(metadata.inputs.map((input) => [input.name, input]));
    this.#path = `${pathOf(client.base, options)}/infer`;
  }

  /** Resolves when the server has told what the model takes. Throws not_found, and shard_unavailable when nobody answers. */
  static async open(options: RemoteOptions): Promise<RemotePredictor> {
    const client = new HttpClient(urlOf(options.url), { token: options.token });
    try {
      const { body } = await client.call(pathOf(client.base, options), { deadlineMs: METADATA_MS });
      return new RemotePredictor(client, metadataOf(body), options);
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** Dims of dense features, as a request alone does not tell them. */
  get dense(): readonly { readonly name: string; readonly dim: number }[] {
    return this.metadata.inputs
      .filter(({ datatype, shape }) => datatype === 'FP32' && shape.length === 2)
      .map(({ name, shape }) => ({ name, dim: shape[1] as number }));
  }

  async predict(request: PredictRequest, { deadlineMs = DEFAULT_DEADLINE_MS, signal }: PredictOptions = {}): Promise<RemotePrediction> {
    let message = this.#messages.get(request);
    if (message === undefined) {
      message = messageOf(request, this.#inputs);
      this.#messages.set(request, message);
    }
    const { body, headers: told } = message.write(deadlineMs);
    const headers = this.options.timing ? { ...told, ...ASKING_FOR_TIMING } : told;
    return predictionOf(await this.client.call(this.#path, { headers, body, deadlineMs, signal }));
  }

  /** CPU of the server's process so far, us, as its metrics tell it; rejects where they do not. */
  async cpuUs(): Promise<number> {
    const { body } = await this.client.call('/metrics', { deadlineMs: METADATA_MS });
    const [, seconds] = /^process_cpu_seconds_total (\S+)$/m.exec(body.toString('utf8')) ?? [];
    if (seconds === undefined) throw new TerabagError('unsupported', 'the server has no metric process_cpu_seconds_total');
    return Number(seconds) * 1e6;
  }

  close(): void {
    this.client.close();
  }
}

function urlOf(text: string): URL {
  if (URL.canParse(text)) return new URL(text);
  throw new TerabagError('invalid_argument', `the URL has to be http://HOST:PORT or https://HOST:PORT: ${text}`, { field: 'url' });
}

const pathOf = ({ pathname }: URL, { model, version }: RemoteOptions): string =>
  `${pathname.replace(/\/$/, '')}/v2/models/${encodeURIComponent(model)}${version === undefined ? '' : `/versions/${encodeURIComponent(version)}`}`;

function metadataOf(body: Buffer): Metadata {
  const metadata = jsonOf(body) as Metadata;
  if (Array.isArray(metadata?.inputs)) return metadata;
  throw new TerabagError('bad_message', 'the server does not tell the inputs of the model');
}

interface AnswerHeader {
  readonly model_version?: string;
  readonly parameters?: { readonly degraded?: boolean };
  readonly outputs: readonly {
    readonly name: string;
    readonly shape: readonly number[];
    readonly parameters?: { readonly binary_data_size?: number };
    readonly data?: readonly number[];
  }[];
}

/** Reads an answer of the protocol, outputs in binary or as JSON. */
export function predictionOf({ headers, body }: HttpAnswer): RemotePrediction {
  const given = headers[HEADER_LENGTH];
  const headerLength = given === undefined ? body.length : Number(given);
  const { outputs, model_version = '', parameters } = jsonOf(body.subarray(0, headerLength)) as AnswerHeader;
  let at = headerLength;
  let [items, scoreDim] = [0, 1];
  const values: Record<string, Float32Array> = {};
  for (const { name, shape, parameters: how, data } of outputs) {
    const size = how?.binary_data_size;
    const end = at + (size ?? 0);
    if (end > body.length) throw new TerabagError('bad_message', `the answer ends within output ${name}: ${body.length} of ${end} bytes`);
    // Copied, as it need not be aligned.
    values[name] = size === undefined ? Float32Array.from(data ?? []) : new Float32Array(new Uint8Array(body.subarray(at, end)).buffer);
    at = end;
    if (name === SCORES) [items = 0, scoreDim = 1] = shape;
  }
  const { [SCORES]: scores = new Float32Array(), ...further } = values;
  const stages = parseServerTiming(headers['server-timing']);
  return { scores, items, scoreDim, outputs: further, modelVersion: model_version, degraded: parameters?.degraded === true, stages };
}

function jsonOf(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch (error) {
    throw new TerabagError('bad_message', `the server's answer is not JSON: ${(error as Error).message.slice(0, 200)}`);
  }
}
