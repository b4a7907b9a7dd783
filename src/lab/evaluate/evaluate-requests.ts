import { TerabagError } from '../../errors.js';
import type { Prediction, PredictOptions, PredictRequest } from '../../predictor/predictor.js';
import { locatedError, readRequests } from '../requests/request-file.js';
import { type Label, LabelReader } from './labels.js';
import { ItemCollector, type ScoredItems, type ScoreKind } from './scored-items.js';

/** What scores requests. */
export interface Scorer {
  predict(request: PredictRequest, options?: PredictOptions): Promise<Prediction>;
}

export interface EvaluateOptions {
  readonly requests: string;
  /** A file of labels; see LabelReader. Null: there are none, and every item counts as negative. */
  readonly labels: string | null;
  /** Of each request. */
  readonly deadlineMs: number;
  /** Requests in flight. */
  readonly concurrency: number;
  /** Name of the further output that has the scores; default the model's first. */
  readonly output?: string | undefined;
  /** Which of several scores of an item, from 0; needed when there are several. */
  readonly score?: number | undefined;
  /** Default probability. */
  readonly kind?: ScoreKind | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Bytes of a file of lines, or requests. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

const NO_LABELS = {
  take: async (_request: number, items: number): Promise<Label[]> => new Array<Label>(items).fill(0),
  end: async (_requests: number): Promise<void> => undefined,
  close: async (): Promise<void> => undefined,
};

/**
 * Scores a file of requests and puts the labels beside the scores. The first request that fails ends it: what is left out would count in no number.
 */
export async function scoreRequests(scorer: Scorer, options: EvaluateOptions): Promise<ScoredItems> {
  const { requests: path, deadlineMs, concurrency, signal, onProgress } = options;
  const labels = options.labels === null ? NO_LABELS : new LabelReader(options.labels);
  const collector = new ItemCollector(options.kind);
  const inFlight: { readonly line: number; readonly answer: Promise<Prediction> }[] = [];
  let requests = 0;
  const takeFirst = async (): Promise<void> => {
    const { line, answer } = inFlight.shift() as (typeof inFlight)[number];
    const located = (error: unknown): never => {
      throw locatedError(path, line, error);
    };
    const prediction = await answer.catch(located);
    const given = await labels.take(++requests, prediction.items);
    try {
      collector.add(chosenScores(prediction, options), given);
    } catch (error) {
      located(error);
    }
  };
  try {
    for await (const read of readRequests(path, onProgress)) {
      if (signal?.aborted) throw new TerabagError('aborted', 'evaluating was interrupted');
      if ('error' in read) throw read.error;
      const answer = scorer.predict(read.request, { deadlineMs });
      // It may fail while an earlier one is awaited.
      answer.catch(() => undefined);
      inFlight.push({ line: read.line, answer });
      if (inFlight.length >= concurrency) await takeFirst();
    }
    while (inFlight.length > 0) await takeFirst();
    await labels.end(requests);
  } finally {
    await labels.close();
    await Promise.allSettled(inFlight.map(({ answer }) => answer));
  }
  return collector.items();
}

/** One score for each item. */
function chosenScores(prediction: Prediction, { output, score }: EvaluateOptions): ArrayLike<number> {
  const { items } = prediction;
  if (items === 0) return [];
  const { scores, scoreDim } = output === undefined ? prediction : furtherOutput(prediction, output);
  if (scoreDim === 1 && (score ?? 0) === 0) return scores;
  if (score === undefined)
    throw new TerabagError(
      'invalid_argument',
      `an item has ${scoreDim} scores; say which one the labels are of: --score 0 to ${scoreDim - 1}`,
      {
        field: 'score',
      },
    );
  if (score >= scoreDim)
    throw new TerabagError('invalid_argument', `there is no such score: ${score}; an item has ${scoreDim}, from 0`, { field: 'score' });
  return Float64Array.from({ length: items }, (_, item) => scores[item * scoreDim + score] as number);
}

function furtherOutput({ outputs = {}, items }: Prediction, name: string): Pick<Prediction, 'scores' | 'scoreDim'> {
  const scores = Object.hasOwn(outputs, name) ? outputs[name] : undefined;
  if (scores !== undefined) return { scores, scoreDim: scores.length / items };
  const names = Object.keys(outputs).join(', ') || 'none';
  throw new TerabagError('invalid_argument', `there is no such further output: ${name}; the model has ${names}`, { field: 'output' });
}
