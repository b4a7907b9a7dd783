import type { ModelSpec } from '../../model/spec.js';
import type { PredictRequest } from '../../predictor/predictor.js';
import { RequestGenerator } from './request-generator.js';
import { requestShapeOfSpec } from './request-shape.js';

export interface SpecRequestOptions {
  /** Items of every request. */
  readonly items: number;
  readonly seed: number;
}

/** Random requests for any bundle, as requestShapeOfSpec has them, without end; the same seed gives the same ones. */
export function* requestsOfSpec(spec: ModelSpec, { items, seed }: SpecRequestOptions): Generator<PredictRequest, never> {
  const generator = new RequestGenerator(requestShapeOfSpec(spec), seed);
  for (;;) yield generator.next(items);
}
