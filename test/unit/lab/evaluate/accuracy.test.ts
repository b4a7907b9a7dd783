import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AccuracyMeter, CLIP } from '../../../../src/lab/evaluate/accuracy.js';
import { ItemCollector, type ScoredItems } from '../../../../src/lab/evaluate/scored-items.js';

interface Item {
  readonly score: number;
  readonly label: 0 | 1;
  readonly request: number;
}

const itemsOf = (items: readonly Item[], numRequests: number): ScoredItems => ({
  scores: Float64Array.from(items, ({ score }) => score),
  labels: Uint8Array.from(items, ({ label }) => label),
  requests: Uint32Array.from(items, ({ request }) => request),
  numRequests,
});

/** By the definitions, pair by pair, of items that are repeated as often as they count. */
function reference(items: readonly Item[]) {
  const positives = items.filter(({ label }) => label === 1);
  const negatives = items.filter(({ label }) => label === 0);
  let won = 0;
  for (const positive of positives)
    for (const negative of negatives) won += positive.score > negative.score ? 1 : positive.score === negative.score ? 0.5 : 0;
  const loss = items.reduce((sum, { score, label }) => {
    const probability = Math.min(1 - CLIP, Math.max(CLIP, score));
    return sum - Math.log(label === 1 ? probability : 1 - probability);
  }, 0);
  const rate = positives.length / items.length;
  const logLoss = loss / items.length;
  return {
    auc: won / (positives.length * negatives.length),
    logLoss,
    ne: logLoss / -(rate * Math.log(rate) + (1 - rate) * Math.log(1 - rate)),
    calibration: items.reduce((sum, { score }) => sum + score, 0) / positives.length,
  };
}

const item = fc.record({
  // A few values that come often, for ties, and the ends.
  score: fc.oneof(fc.constantFrom(0, 0.25, 0.5, 1), fc.double({ min: 0, max: 1, noNaN: true }).map(Math.fround)),
  label: fc.constantFrom(0 as const, 1 as const),
  request: fc.nat(7),
});

test('accuracies are those of their definitions, of items that count any number of times', () => {
  fc.assert(
    fc.property(fc.array(item, { maxLength: 40 }), fc.array(fc.nat(3), { minLength: 8, maxLength: 8 }), (items, counts) => {
      const repeated = items.flatMap((each) => new Array<Item>(counts[each.request] as number).fill(each));
      const found = new AccuracyMeter(itemsOf(items, 8)).weighted(counts);
      if (new Set(repeated.map(({ label }) => label)).size < 2) {
        expect(found).toBeNull();
        return;
      }
      const expected = reference(repeated);
      for (const [name, value] of Object.entries(expected)) expect(found?.[name as keyof typeof expected]).toBeCloseTo(value, 9);
    }),
    { numRuns: 500 },
  );
});

test('order alone decides the area under the curve', () => {
  const of = (scores: readonly number[], labels: readonly (0 | 1)[]): number =>
    new AccuracyMeter(
      itemsOf(
        scores.map((score, at) => ({ score, label: labels[at] as 0 | 1, request: 0 })),
        1,
      ),
    ).accuracy().auc;
  expect(of([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])).toBe(1);
  expect(of([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0])).toBe(0);
  expect(of([0.3, 0.3, 0.3, 0.3], [1, 0, 1, 0])).toBe(0.5);
  expect(of([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])).toBe(0.75);
});

test('a model that always says the share of positives has a normalized entropy and a calibration of 1', () => {
  const items = Array.from({ length: 100 }, (_, at): Item => ({ score: 0.2, label: at % 5 === 0 ? 1 : 0, request: at }));
  const { ne, calibration } = new AccuracyMeter(itemsOf(items, 100)).accuracy();
  expect(ne).toBeCloseTo(1, 12);
  expect(calibration).toBeCloseTo(1, 12);
});

test.each([
  [[0, 0, 0], /0 positive, 3 negative$/],
  [[1, 1], /2 positive, 0 negative$/],
  [[], /0 positive, 0 negative$/],
])('labels of one class are refused: %j', (labels, message) => {
  const items = labels.map((label): Item => ({ score: 0.5, label: label as 0 | 1, request: 0 }));
  expect(() => new AccuracyMeter(itemsOf(items, 1)).accuracy()).toThrow(
    expect.objectContaining({ code: 'invalid_argument', message: expect.stringMatching(message) }),
  );
});

test('scores at 0 and 1 cost what the nearest that the log loss takes cost, and are counted', () => {
  const meter = new AccuracyMeter(
    itemsOf(
      [
        { score: 0, label: 1, request: 0 },
        { score: 1, label: 0, request: 0 },
        { score: 0.5, label: 1, request: 0 },
      ],
      1,
    ),
  );
  expect(meter.clipped).toBe(2);
  expect(meter.accuracy().logLoss).toBeCloseTo((-2 * Math.log(CLIP) + Math.log(2)) / 3, 9);
});

test('items without a label do not count, nor do requests without one', () => {
  const collector = new ItemCollector();
  collector.add([0.1, 0.2], [null, 1]);
  collector.add([0.3], [null]);
  collector.add([], []);
  collector.add([0.4, 0.5, 0.6], [0, null, 1]);
  const { scores, labels, requests, numRequests } = collector.items();
  expect([[...scores], [...labels], [...requests], numRequests]).toEqual([[0.2, 0.4, 0.6], [1, 0, 1], [0, 1, 1], 2]);
});

test('any number of items is kept', () => {
  const collector = new ItemCollector();
  for (let request = 0; request < 3000; request++) collector.add([request / 4000, 0.5], [1, 0]);
  const { scores, requests } = collector.items();
  expect(scores.length).toBe(6000);
  expect([scores[5998], requests[5998], requests[5999]]).toEqual([2999 / 4000, 2999, 2999]);
});

test('logits are made probabilities; what is neither is refused', () => {
  const collector = new ItemCollector('logit');
  collector.add([0, -2, 800], [1, 0, 1]);
  expect([...collector.items().scores]).toEqual([0.5, 1 / (1 + Math.exp(2)), 1]);
  expect(() => new ItemCollector().add([0.5, 1.5], [1, 0])).toThrow(
    expect.objectContaining({ code: 'invalid_argument', message: expect.stringMatching(/--logits: item 1, 1.5$/) }),
  );
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY])
    for (const kind of ['probability', 'logit'] as const)
      expect(() => new ItemCollector(kind).add([bad], [1])).toThrow(expect.objectContaining({ code: 'unsupported' }));
  // It is not looked at.
  new ItemCollector().add([7], [null]);
});
