import { TerabagError } from '../errors.js';
import type { Prediction, PredictOptions, PredictRequest } from '../predictor/predictor.js';
import type { Repository } from './repository.js';
import type { Opened, ServedModel } from './served-model.js';
import { requestOfTensors } from './tensors/request-tensors.js';
import { SCORES, type Signature } from './tensors/signature.js';
import type { Tensor } from './tensors/tensor.js';

/** An inference as any protocol asks for it. */
export interface InferCall {
  readonly model: string;
  /** Empty or left out: the latest. */
  readonly version?: string | undefined;
  readonly tensors: readonly Tensor[];
  /** N; left out: the largest number of rows or bags given. */
  readonly items?: number | undefined;
  /** Names of outputs; left out or empty: all. */
  readonly outputs?: readonly string[] | undefined;
  readonly options: PredictOptions;
  readonly arrival: CallArrival;
}

/** Of the request that asks for an inference. */
export interface CallArrival {
  /** performance.now(). */
  readonly startedAt: number;
  /** Headers, or metadata. */
  readonly headers: Readonly<Record<string, unknown>>;
  /** Told which span it has, as the header traceresponse says it, when it is traced. */
  readonly onTraced?: (traceresponse: string) => void;
}

export interface OutputTensor {
  readonly name: string;
  /** [items, values of an item]. */
  readonly shape: readonly [number, number];
  readonly data: Float32Array;
}

/** What an answer took, ms: from the request's tensors to the call of predict, and predict. */
export interface InferTimes {
  readonly inputMs: number;
  readonly predictMs: number;
}

/** What a predictor answered, which one, and how fast. */
export interface Predicted {
  readonly model: ServedModel;
  readonly prediction: Prediction;
  readonly times: InferTimes;
}

export interface InferAnswer extends Predicted {
  readonly outputs: readonly OutputTensor[];
}

/** Answers with the model's predictor, and counts that. Throws what is wrong with the call as predict does, and not_found. */
export async function infer(repository: Repository, call: InferCall): Promise<InferAnswer> {
  const model = repository.model(call.model, call.version);
  const startedAt = performance.now();
  try {
    const opened = openedOf(model);
    const { signature, predictor } = opened;
    const names = outputNames(signature, call.outputs);
    const request = requestOfTensors(predictor.model, signature, call.tensors, call.items);
    const predicted = await predictCounted(model, opened, request, call.options, startedAt);
    return { ...predicted, outputs: names.map((name) => outputOf(predicted.prediction, name)) };
  } catch (error) {
    model.counter.failed(performance.now() - startedAt);
    throw error;
  }
}

/** As infer, of a request that is one already. */
export async function rank(
  repository: Repository,
  { model: name, version, request, options }: Pick<InferCall, 'model' | 'version' | 'options'> & { readonly request: PredictRequest },
): Promise<Predicted> {
  const model = repository.model(name, version);
  const startedAt = performance.now();
  try {
    return await predictCounted(model, openedOf(model), request, options, startedAt);
  } catch (error) {
    model.counter.failed(performance.now() - startedAt);
    throw error;
  }
}

async function predictCounted(
  model: ServedModel,
  { predictor }: Opened,
  request: PredictRequest,
  options: PredictOptions,
  startedAt: number,
): Promise<Predicted> {
  const calledAt = performance.now();
  const prediction = await predictor.predict(request, options);
  const times = { inputMs: calledAt - startedAt, predictMs: performance.now() - calledAt };
  model.counter.succeeded(prediction.items, times.inputMs, times.predictMs);
  // Not before: names of bags that the model does not have were refused.
  model.lookups?.count(request);
  return { model, prediction, times };
}

/** Throws shard_unavailable, with the reason, of one that is not READY. */
export function openedOf(model: ServedModel): Opened {
  const { opened, name, version, reason } = model;
  if (opened !== null) return opened;
  throw new TerabagError('shard_unavailable', `model ${name} version ${version} is not there: ${reason}`, { model: name, version });
}

function outputNames({ outputs }: Signature, asked: readonly string[] = []): readonly string[] {
  const known = outputs.map(({ name }) => name);
  if (asked.length === 0) return known;
  const unknown = asked.find((name) => !known.includes(name));
  if (unknown === undefined && asked.length > known.length)
    throw new TerabagError('invalid_argument', `outputs has to name each output once: ${asked.length} names of ${known.length}`, {
      field: 'outputs',
    });
  if (unknown === undefined) return asked;
  throw new TerabagError('invalid_argument', `output ${unknown} is not of the model; it has ${known.join(', ')}`, { field: unknown });
}

function outputOf({ scores, scoreDim, items, outputs }: Prediction, name: string): OutputTensor {
  const further = outputs !== undefined && Object.hasOwn(outputs, name) ? outputs[name] : undefined;
  if (further === undefined || name === SCORES) return { name, shape: [items, scoreDim], data: scores };
  return { name, shape: [items, items === 0 ? 0 : further.length / items], data: further };
}

/** What an answer says of itself beside its outputs; null of one that is whole. */
export const answerParameters = ({
  degraded,
  missingTables = [],
}: Prediction): { readonly degraded: true; readonly missing_tables: string } | null =>
  degraded ? { degraded, missing_tables: missingTables.join(',') } : null;
