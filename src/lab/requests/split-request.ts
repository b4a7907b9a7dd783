import type { ResolvedModel } from '../../model/graph.js';
import type { PredictorStats } from '../../observe/counters.js';
import type { BagsInput, Prediction, PredictOptions, Predictor, PredictRequest, Readiness } from '../../predictor/predictor.js';

/** Dims of the spec: a request alone does not tell one long row from several. */
export type DenseFeatures = readonly { readonly name: string; readonly dim: number }[];

/**
 * Cuts a request into requests of at most so many items each, in order; what is the user's goes to each. Values are views of the given arrays
 * where these are typed. A request without items stays whole.
 */
export function splitRequest(request: PredictRequest, items: number, dense: DenseFeatures): PredictRequest[] {
  const total = itemsOf(request, dense);
  if (total <= items) return [request];
  return Array.from({ length: Math.ceil(total / items) }, (_, piece) =>
    slice(request, total, piece * items, Math.min(total, (piece + 1) * items), dense),
  );
}

/** Candidate items of a request: as it says, else its largest number of bags or rows. */
export function itemsOf({ items, dense, sparse }: PredictRequest, features: DenseFeatures): number {
  if (items !== undefined) return items;
  const rows = features.map(({ name, dim }) => (Object.hasOwn(dense, name) ? (dense[name]?.length ?? 0) / dim : 0));
  return Math.max(0, ...rows, ...Object.values(sparse).map(({ offsets }) => offsets.length - 1));
}

function slice(request: PredictRequest, total: number, from: number, to: number, features: DenseFeatures): PredictRequest {
  const dense: Record<string, Float32Array | readonly number[]> = { ...request.dense };
  for (const { name, dim } of features) {
    const values = dense[name];
    if (Object.hasOwn(dense, name) && values?.length === total * dim) dense[name] = part(values, from * dim, to * dim);
  }
  const sparse = Object.entries(request.sparse).map(([name, bags]) => [
    name,
    bags.offsets.length - 1 === total ? sliceBags(bags, from, to) : bags,
  ]);
  return { items: to - from, dense, sparse: Object.fromEntries(sparse) };
}

function sliceBags({ indices, offsets, weights }: BagsInput, from: number, to: number): BagsInput {
  const [start, end] = [Number(offsets[from]), Number(offsets[to])];
  return {
    indices: part(indices, start, end),
    offsets: Uint32Array.from(part(offsets, from, to + 1) as readonly number[], (offset) => Number(offset) - start),
    ...(weights && { weights: part(weights, start, end) }),
  };
}

function part<T extends Int32Array | Uint32Array | BigInt64Array | Float32Array | readonly (number | bigint | string)[]>(
  values: T,
  from: number,
  to: number,
): T {
  return (ArrayBuffer.isView(values) ? (values as Int32Array).subarray(from, to) : values.slice(from, to)) as T;
}

/** Sends a request as several predict calls of at most so many items, all at once, and puts their scores together. */
export class SplittingPredictor implements Predictor {
  readonly modelHash: string;
  readonly model: ResolvedModel;

  constructor(
    private readonly predictor: Predictor,
    private readonly items: number,
    private readonly dense: DenseFeatures,
  ) {
    this.modelHash = predictor.modelHash;
    this.model = predictor.model;
  }

  async predict(request: PredictRequest, options?: PredictOptions): Promise<Prediction> {
    const answers = await Promise.all(splitRequest(request, this.items, this.dense).map((piece) => this.predictor.predict(piece, options)));
    const [first] = answers as [Prediction, ...Prediction[]];
    if (answers.length === 1) return first;
    const scores = new Float32Array(answers.reduce((sum, answer) => sum + answer.scores.length, 0));
    let at = 0;
    for (const answer of answers) {
      scores.set(answer.scores, at);
      at += answer.scores.length;
    }
    const missing = [...new Set(answers.flatMap(({ missingTables = [] }) => missingTables))];
    const degraded = missing.length === 0 ? {} : { degraded: true as const, missingTables: missing };
    return { ...first, ...degraded, scores, items: answers.reduce((sum, answer) => sum + answer.items, 0) };
  }

  readiness(): Readiness {
    return this.predictor.readiness();
  }

  stats(): PredictorStats {
    return this.predictor.stats();
  }

  close(): Promise<void> {
    return this.predictor.close();
  }
}
