import { dirname, join } from 'node:path';
import { TerabagError } from '../errors.js';
import { requestsOfFile } from '../lab/requests/request-file.js';
import { openLocal } from '../predictor/local.js';
import type { Prediction } from '../predictor/predictor.js';
import { readSafetensorsHeader, readTensor } from '../tables/safetensors.js';
import { warn } from './warn.js';

/** Where an export leaves what PyTorch said, relative to the bundle. */
export const DEFAULT_SCORES = join('check', 'scores.safetensors');
const REQUESTS = 'requests.jsonl';
/** Tensors of that file: the scores, and those of further outputs. */
const SCORES = 'scores';
const FURTHER = 'outputs.';
/** Of a score, relative to the root mean square of all: below it, what is lost in the additions before is more than the score. */
const FLOOR = 0.1;
const DEADLINE_MS = 10_000;

/** How far scores are from those that are expected. */
export interface ScoreDifference {
  readonly compared: number;
  /** Of the difference, relative to the expected score or, if that is more, to a tenth of the root mean square of all expected scores. */
  readonly maxRelative: number;
  readonly maxAbsolute: number;
  /** Where the largest relative one is, with the two scores; null when nothing differs. */
  readonly worst: { readonly position: number; readonly score: number; readonly expected: number } | null;
}

/** Of one output. */
export interface OutputDifference extends ScoreDifference {
  /** scores, or outputs.NAME of a further output. */
  readonly name: string;
}

/** Compares scores one by one; what is no number in one of the two is infinitely far. */
export function scoreDifference(scores: Float32Array, expected: Float32Array): ScoreDifference {
  const squares = expected.reduce((sum, value) => sum + value * value, 0);
  const floor = FLOOR * Math.sqrt(squares / Math.max(1, expected.length));
  let [maxRelative, maxAbsolute, position] = [0, 0, -1];
  for (let at = 0; at < expected.length; at++) {
    const wanted = expected[at] as number;
    const difference = Math.abs((scores[at] as number) - wanted);
    const absolute = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
    const relative = absolute === 0 ? 0 : absolute / Math.max(Math.abs(wanted), floor);
    maxAbsolute = Math.max(maxAbsolute, absolute);
    if (relative > maxRelative) [maxRelative, position] = [relative, at];
  }
  const worst = position < 0 ? null : { position, score: scores[position] as number, expected: expected[position] as number };
  return { compared: expected.length, maxRelative, maxAbsolute, worst };
}

/** Scores the requests beside the file of scores with a bundle, and compares each output. */
export async function verifyScores(bundle: string, file: string, requests = join(dirname(file), REQUESTS)): Promise<OutputDifference[]> {
  const expected = await readScores(file);
  const scores = await predictAll(bundle, requests, [...expected.keys()]);
  return [...expected].map(([name, wanted]) => {
    const given = scores.get(name) as Float32Array;
    if (given.length === wanted.length) return { name, ...scoreDifference(given, wanted) };
    throw new TerabagError(
      'invalid_argument',
      `${requests} and ${file} do not belong together: ${name}, scores ${given.length}, expected ${wanted.length}`,
      { path: file, scores: given.length, expected: wanted.length },
    );
  });
}

/** By tensor: scores, and outputs.NAME of further outputs. */
async function readScores(file: string): Promise<ReadonlyMap<string, Float32Array>> {
  const header = await readSafetensorsHeader(file);
  if (!header.tensors.has(SCORES)) throw badScores(file, `has to have a tensor ${SCORES}: ${[...header.tensors.keys()].join(', ')}`);
  const tensors = new Map<string, Float32Array>();
  for (const [name, tensor] of header.tensors) {
    if (tensor.dtype !== 'F32') throw badScores(file, `tensors have to be F32: ${name} is ${tensor.dtype}`);
    tensors.set(name, new Float32Array((await readTensor(header, tensor)).buffer));
  }
  return tensors;
}

const badScores = (path: string, what: string): TerabagError => new TerabagError('invalid_argument', `${what}: ${path}`, { path });

async function predictAll(bundle: string, requests: string, names: readonly string[]): Promise<ReadonlyMap<string, Float32Array>> {
  const predictor = await openLocal(bundle, { onWarning: warn });
  const predictions: Prediction[] = [];
  try {
    for await (const request of requestsOfFile(requests)) predictions.push(await predictor.predict(request, { deadlineMs: DEADLINE_MS }));
  } finally {
    await predictor.close();
  }
  return new Map(
    names.map((name) => [name, Float32Array.from(predictions.flatMap((prediction) => Array.from(valuesOf(prediction, name))))]),
  );
}

function valuesOf({ scores, outputs }: Prediction, name: string): Float32Array {
  if (name === SCORES) return scores;
  const found = name.startsWith(FURTHER) ? outputs?.[name.slice(FURTHER.length)] : undefined;
  if (found !== undefined) return found;
  const known = Object.keys(outputs ?? {}).map((output) => FURTHER + output);
  throw new TerabagError('invalid_argument', `the model has no such output: ${name}; it has ${[SCORES, ...known].join(', ')}`, { name });
}
