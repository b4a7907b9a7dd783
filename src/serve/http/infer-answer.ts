import { refuseNotFinite } from '../../predictor/prediction-json.js';
import { answerParameters, type InferAnswer } from '../inference.js';
import { rawBytes } from '../tensors/raw-tensor.js';
import type { InferRequest } from './infer-request.js';

/** A body in parts, and how many of its bytes are JSON, where binary tensors follow. */
export interface InferBody {
  readonly parts: readonly Uint8Array[];
  readonly headerLength: number | null;
}

/** The answer of the REST protocol, outputs in binary or as JSON as each was asked for. Throws unsupported for values that JSON has no numbers for. */
export function writeInferAnswer(
  { id, outputs: asked, parameters: { binary_data_output: all = false } }: InferRequest,
  { model, prediction, outputs }: InferAnswer,
): InferBody {
  const binary: Uint8Array[] = [];
  const told = outputs.map(({ name, shape, data }, at) => {
    const output = { name, datatype: 'FP32', shape };
    if (!(asked[at]?.binary ?? all)) {
      refuseNotFinite(prediction);
      return { ...output, data: Array.from(data) };
    }
    binary.push(rawBytes(data));
    return { ...output, parameters: { binary_data_size: data.byteLength } };
  });
  const parameters = answerParameters(prediction);
  const json = Buffer.from(
    JSON.stringify({
      ...{ model_name: model.name, model_version: model.version },
      ...(id !== '' && { id }),
      ...(parameters && { parameters }),
      outputs: told,
    }),
  );
  return { parts: [json, ...binary], headerLength: binary.length > 0 ? json.length : null };
}
