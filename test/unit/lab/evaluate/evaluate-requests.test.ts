import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import { evaluate, LEAST_REQUESTS, riseOver } from '../../../../src/lab/evaluate/evaluate.js';
import { type EvaluateOptions, type Scorer, scoreRequests } from '../../../../src/lab/evaluate/evaluate-requests.js';
import type { ScoredItems } from '../../../../src/lab/evaluate/scored-items.js';
import { writeRequests } from '../../../../src/lab/requests/request-file.js';
import type { PredictRequest } from '../../../../src/predictor/predictor.js';

let dir: string;
const ITEMS = [3, 1, 0, 2, 4];
const requests = ITEMS.map(
  (items): PredictRequest => ({
    items,
    dense: { score: Float32Array.from({ length: items }, (_, at) => (items + at) / 8) },
    sparse: {},
  }),
);

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
  for (const file of ['requests.jsonl', 'requests.safetensors']) await writeRequests(join(dir, file), requests);
  await writeFile(join(dir, 'labels.jsonl'), '[1,0,1]\n[0]\n[]\n[null,1]\n[1,0,0,null]\n');
});
afterAll(() => rm(dir, { recursive: true }));

/** Scores are the dense values; later requests are answered first. */
const scorer = (scoreDim: number, most: { inFlight: number } = { inFlight: 0 }): Scorer => {
  let inFlight = 0;
  return {
    async predict({ items = 0, dense }) {
      most.inFlight = Math.max(most.inFlight, ++inFlight);
      await sleep(12 - 2 * items);
      inFlight--;
      const score = dense['score'] as readonly number[];
      const scores = Float32Array.from(
        { length: items * scoreDim },
        (_, at) => (score[Math.floor(at / scoreDim)] as number) + (at % scoreDim) / 64,
      );
      return { scores, items, scoreDim, modelHash: '' };
    },
  };
};
const options = (change: Partial<EvaluateOptions> = {}): EvaluateOptions => ({
  requests: join(dir, 'requests.jsonl'),
  labels: join(dir, 'labels.jsonl'),
  deadlineMs: 1000,
  concurrency: 3,
  ...change,
});

test.each(['requests.jsonl', 'requests.safetensors'])('scores stand beside their labels, in the order of %s', async (file) => {
  const most = { inFlight: 0 };
  const items = await scoreRequests(scorer(1, most), options({ requests: join(dir, file) }));
  expect([...items.scores]).toEqual([3, 4, 5, 1, 3, 4, 5, 6].map((eighths) => eighths / 8));
  expect([...items.labels]).toEqual([1, 0, 1, 0, 1, 1, 0, 0]);
  expect([...items.requests]).toEqual([0, 0, 0, 1, 2, 3, 3, 3]);
  expect(most.inFlight).toBe(3);
  const { requests: counted, positiveRequests, negativeRequests, positives, baseRate } = await evaluate(items, { resamples: 200 });
  expect({ counted, positiveRequests, negativeRequests }).toEqual({ counted: 4, positiveRequests: 3, negativeRequests: 3 });
  expect({ positives, baseRate }).toEqual({ positives: 4, baseRate: 0.5 });
});

/** Of as many requests with two positive items each, and with two negative ones. */
function itemsOf(positiveRequests: number, negativeRequests: number): ScoredItems {
  const numRequests = positiveRequests + negativeRequests;
  const count = 2 * numRequests;
  const requestOf = Uint32Array.from({ length: count }, (_, item) => Math.floor(item / 2));
  return {
    scores: Float64Array.from({ length: count }, (_, item) => (1 + ((item * 7) % 13)) / 15),
    labels: Uint8Array.from(requestOf, (request) => (request < positiveRequests ? 1 : 0)),
    requests: requestOf,
    numRequests,
  };
}

test.each([
  [LEAST_REQUESTS, LEAST_REQUESTS, true],
  [LEAST_REQUESTS - 1, 100, false],
  [100, LEAST_REQUESTS - 1, false],
  [1, 1, false],
])('of %i requests with positive and %i with negative labels there are intervals: %s', async (positive, negative, intervals) => {
  const items = itemsOf(positive, negative);
  const other = { ...items, scores: items.scores.map((score) => score ** 2) };
  const { accuracy, ...counts } = await evaluate(items, { resamples: 200 });
  expect(counts).toMatchObject({ positiveRequests: positive, negativeRequests: negative });
  for (const { value, low, high } of [...Object.values(accuracy), await riseOver(other, items, { resamples: 200 })]) {
    expect(value).toBeTypeOf('number');
    if (!intervals) expect([low, high]).toEqual([null, null]);
    else {
      expect(low).toBeLessThan(value);
      expect(high).toBeGreaterThan(value);
    }
  }
});

test('one of several scores is chosen', async () => {
  const items = await scoreRequests(scorer(3), options({ score: 2 }));
  expect(items.scores[0]).toBe(3 / 8 + 2 / 64);
  await expect(scoreRequests(scorer(3), options())).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(/^line 1: an item has 3 scores; say which/),
  });
  await expect(scoreRequests(scorer(3), options({ score: 3 }))).rejects.toMatchObject({ details: { field: 'score', line: 1 } });
});

test('the scores of a further output are chosen by its name', async () => {
  const outputs = (score: readonly number[]) => ({
    sale: Float32Array.from(score, (value) => value / 2),
    both: Float32Array.from([...score, ...score]),
  });
  const several: Scorer = {
    predict: async (request, given) => ({
      ...(await scorer(1).predict(request, given)),
      outputs: outputs(request.dense['score'] as readonly number[]),
    }),
  };
  const sale = await scoreRequests(several, options({ output: 'sale' }));
  expect([...sale.scores]).toEqual([3, 4, 5, 1, 3, 4, 5, 6].map((eighths) => eighths / 16));
  const both = await scoreRequests(several, options({ output: 'both', score: 1 }));
  // Rows of the first request: 3, 4; 5, 3; 4, 5.
  expect([...both.scores.subarray(0, 3)]).toEqual([4, 3, 5].map((eighths) => eighths / 8));
  await expect(scoreRequests(several, options({ output: 'both' }))).rejects.toMatchObject({
    message: expect.stringMatching(/has 2 scores/),
  });
  await expect(scoreRequests(several, options({ output: 'toString' }))).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(/^line 1: there is no such further output: toString; the model has sale, both$/),
    details: { field: 'output', line: 1 },
  });
  await expect(scoreRequests(scorer(1), options({ output: 'sale' }))).rejects.toMatchObject({
    message: expect.stringMatching(/the model has none$/),
  });
});

test('a request that fails ends it, with its line', async () => {
  const failing: Scorer = {
    predict: async (request, given) => {
      if (request.items === 2) throw new TerabagError('index_out_of_range', 'no such id');
      return scorer(1).predict(request, given);
    },
  };
  await expect(scoreRequests(failing, options())).rejects.toMatchObject({ code: 'index_out_of_range', message: 'line 4: no such id' });
});

test('labels and requests that do not match are refused', async () => {
  const labels = join(dir, 'short.jsonl');
  await writeFile(labels, '[1,0,1]\n[0]\n');
  await expect(scoreRequests(scorer(1), options({ labels }))).rejects.toMatchObject({
    message: expect.stringMatching(/labels end before request 3/),
  });
});

test('an interruption ends it', async () => {
  await expect(scoreRequests(scorer(1), options({ signal: AbortSignal.abort() }))).rejects.toMatchObject({ code: 'aborted' });
});
