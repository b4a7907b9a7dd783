import { TerabagError } from '../errors.js';
import type { Prediction } from './predictor.js';

/** Position of the first score that is NaN or infinite; null when all are finite. */
export function firstNotFinite({ scores }: Prediction): number | null {
  const at = scores.findIndex((score) => !Number.isFinite(score));
  return at < 0 ? null : at;
}

/** For answers as JSON, which has no words for them (unsupported): scores that are no numbers rank nothing. Likewise values of further outputs. */
export function refuseNotFinite(prediction: Prediction): void {
  for (const [output, values] of Object.entries(prediction.outputs ?? {})) {
    const at = values.findIndex((value) => !Number.isFinite(value));
    if (at < 0) continue;
    const [item, value] = [Math.floor(at / (values.length / prediction.items)), String(values[at])];
    throw new TerabagError('unsupported', `values of an output are not finite: ${output}, item ${item}, ${value}`, { output, item, value });
  }
  const at = firstNotFinite(prediction);
  if (at === null) return;
  const { scores, scoreDim } = prediction;
  const [item, score, value] = [Math.floor(at / scoreDim), at % scoreDim, String(scores[at])];
  throw new TerabagError('unsupported', `scores are not finite: item ${item}, score ${score}, ${value}`, { item, score, value });
}

/**
 * A prediction as JSON: scores are [items, scoreDim] row-major; scoreDim is told when it is not 1. Further outputs, if the model has some, likewise by
 * name.
 */
export function predictionToJson({ scores, scoreDim, outputs, degraded, missingTables }: Prediction): object {
  const further = outputs && Object.fromEntries(Object.entries(outputs).map(([name, values]) => [name, Array.from(values)]));
  return {
    ...(scoreDim > 1 && { scoreDim }),
    scores: Array.from(scores),
    ...(further && { outputs: further }),
    ...(degraded && { degraded, missingTables }),
  };
}
