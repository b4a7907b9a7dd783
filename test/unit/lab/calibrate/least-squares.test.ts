import fc from 'fast-check';
import { expect, test } from 'vitest';
import { nonNegativeLeastSquares, type Observation } from '../../../../src/lab/calibrate/least-squares.js';

const amount = fc.double({ min: 0, max: 10, noNaN: true });
const observations = fc.integer({ min: 1, max: 4 }).chain((unknowns) =>
  fc.array(
    fc.record({
      amounts: fc.array(amount, { minLength: unknowns, maxLength: unknowns }),
      value: fc.double({ min: -20, max: 20, noNaN: true }),
      scale: fc.double({ min: 0.5, max: 10, noNaN: true }),
    }),
    { minLength: 1, maxLength: 8 },
  ),
);

const squaredError = (all: readonly Observation[], values: readonly number[]): number =>
  all.reduce(
    (sum, { amounts, value, scale }) => sum + ((amounts.reduce((total, one, u) => total + one * values[u]!, 0) - value) / scale) ** 2,
    0,
  );

test('no small step that keeps values at 0 or more lowers the error', () => {
  fc.assert(
    fc.property(observations, (all) => {
      const values = nonNegativeLeastSquares(all);
      const error = squaredError(all, values);
      for (const [u, value] of values.entries()) {
        expect(value).toBeGreaterThanOrEqual(0);
        for (const step of [-1e-3, 1e-3]) {
          const tried = values.with(u, Math.max(0, value + step));
          expect(squaredError(all, tried)).toBeGreaterThanOrEqual(error - 1e-6 * Math.max(1, error));
        }
      }
    }),
  );
});

test('costs that explain every observation are found', () => {
  const costs = [3, 0, 0.25];
  const all = [
    [1, 0, 0],
    [1, 5, 8],
    [2, 1, 40],
    [1, 9, 1],
  ].map((amounts) => {
    const value = amounts.reduce((sum, one, u) => sum + one * costs[u]!, 0);
    return { amounts, value, scale: value };
  });
  for (const [u, value] of nonNegativeLeastSquares(all).entries()) expect(value).toBeCloseTo(costs[u]!, 5);
});
