import fc from 'fast-check';
import { expect, test } from 'vitest';
import { scoreDifference } from '../../../src/cli/verify-scores.js';

const floats = (...values: number[]): Float32Array => Float32Array.from(values);

test('a difference is relative to the score that is expected, or to a tenth of the root mean square of all', () => {
  expect(scoreDifference(floats(1, 2.002), floats(1, 2))).toMatchObject({
    compared: 2,
    maxRelative: expect.closeTo(0.001, 6),
    maxAbsolute: expect.closeTo(0.002, 6),
    worst: { position: 1, expected: 2 },
  });
  // The root mean square of 3 and 0 is 2.12: a difference of 0.003 from 0 is 0.014 of its tenth.
  expect(scoreDifference(floats(3, 0.003), floats(3, 0)).maxRelative).toBeCloseTo(0.003 / (Math.sqrt(4.5) / 10), 6);
});

test('what is no number is infinitely far, also where nothing but zero is expected', () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    expect(scoreDifference(floats(1, bad), floats(1, 2)).maxRelative).toBe(Number.POSITIVE_INFINITY);
    expect(scoreDifference(floats(0, bad), floats(0, 0)).maxRelative).toBe(Number.POSITIVE_INFINITY);
  }
  expect(scoreDifference(floats(1e-9), floats(0)).maxRelative).toBe(Number.POSITIVE_INFINITY);
  expect(scoreDifference(floats(0), floats(0))).toEqual({ compared: 1, maxRelative: 0, maxAbsolute: 0, worst: null });
  expect(scoreDifference(floats(), floats())).toMatchObject({ compared: 0, maxRelative: 0 });
});

test('no score is further than the largest difference says', () => {
  const numbers = fc.array(fc.tuple(fc.float({ noNaN: true, min: -9, max: 9 }), fc.float({ noNaN: true, min: -9, max: 9 })), {
    minLength: 1,
  });
  fc.assert(
    fc.property(numbers, (pairs) => {
      const [scores, expected] = [0, 1].map((of) => Float32Array.from(pairs, (pair) => pair[of] as number)) as [Float32Array, Float32Array];
      const { maxRelative, maxAbsolute } = scoreDifference(scores, expected);
      const rms = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0) / expected.length);
      for (const [at, score] of scores.entries()) {
        const absolute = Math.abs(score - (expected[at] as number));
        expect(absolute).toBeLessThanOrEqual(maxAbsolute);
        expect(absolute).toBeLessThanOrEqual(maxRelative * Math.max(Math.abs(expected[at] as number), rms / 10) * (1 + 1e-9) + 1e-30);
      }
    }),
  );
});
