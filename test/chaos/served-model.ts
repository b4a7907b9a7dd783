import { rm } from 'node:fs/promises';
import { type ModelSpec, modelHash, type Prediction, type PredictRequest, readModelSpec } from '../../src/index.js';
import { random, referenceScores, type SmallModelOptions, smallRequest, writeSmallModel } from '../reference/small-model.js';

/** A model on disk, requests to it, and what is right: scores in float64, by the reference that shares no code with what is served. */
export interface ServedModel {
  readonly dir: string;
  readonly spec: ModelSpec;
  readonly hash: string;
  readonly requests: readonly PredictRequest[];
  /** Aligned with the requests. */
  readonly expected: readonly (readonly number[])[];
}

const NUM_REQUESTS = 64;
const MOST_ITEMS = 8;
/** Scores are between 0 and 1, and sums of some 100 products in float32. */
const TOLERANCE = 1e-5;

export async function writeServedModel(seed: number, options: SmallModelOptions = {}): Promise<ServedModel> {
  const model = await writeSmallModel(seed, options);
  const spec = await readModelSpec(model.dir);
  const next = random(seed);
  const items = Array.from({ length: NUM_REQUESTS }, (_, at) => 1 + (at % MOST_ITEMS));
  const requests = items.map((count) => smallRequest(next, count, options.rows));
  const expected = requests.map((request, at) => referenceScores(model, request, items[at] as number));
  return { dir: model.dir, spec, hash: modelHash(spec), requests, expected };
}

export const removeModel = ({ dir }: ServedModel): Promise<void> => rm(dir, { recursive: true, force: true });

/** Whether an answer is that of the model that it says it is of: never of another, and never of several. */
export function isRight(models: readonly ServedModel[], at: number, { modelHash: hash, scores }: Prediction): boolean {
  const expected = models.find((model) => model.hash === hash)?.expected[at];
  if (expected === undefined || scores.length !== expected.length) return false;
  return expected.every((score, item) => Math.abs((scores[item] as number) - score) <= TOLERANCE);
}
