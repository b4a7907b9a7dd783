import { expect, test } from 'vitest';
import { arrivalTimes } from '../../../../src/lab/load/arrivals.js';

const COUNT = 20_000;
/** Critical value of the Kolmogorov-Smirnov statistic at the 1 % level, for many samples: 1.63 / sqrt(n). */
const CRITICAL = 1.63 / Math.sqrt(COUNT);

function take(process: 'poisson' | 'constant', qps: number, seed: number): number[] {
  const times = arrivalTimes({ process, qps, seed });
  return Array.from({ length: COUNT }, () => times.next().value);
}

const gapsOf = (times: readonly number[]): number[] => times.map((at, n) => at - (times[n - 1] ?? 0));

/** Largest distance between the samples' distribution and the exponential one with this mean. */
function distance(gaps: readonly number[], mean: number): number {
  const ascending = [...gaps].sort((a, b) => a - b);
  return ascending.reduce((most, gap, n) => {
    const expected = 1 - Math.exp(-gap / mean);
    return Math.max(most, expected - n / COUNT, (n + 1) / COUNT - expected);
  }, 0);
}

test.each([1, 2, 3, 12_345])('gaps of Poisson arrivals are exponential (Kolmogorov-Smirnov, 1 %%), seed %i', (seed) => {
  const gaps = gapsOf(take('poisson', 250, seed));
  expect(distance(gaps, 4)).toBeLessThan(CRITICAL);
  // The test tells a rate that is 3 % off, and gaps that depend on each other.
  expect(distance(gaps, 4 * 1.03)).toBeGreaterThan(CRITICAL);
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / COUNT;
  const covariance = gaps.slice(1).reduce((sum, gap, n) => sum + (gap - mean) * ((gaps[n] as number) - mean), 0) / COUNT;
  expect(Math.abs(covariance / mean ** 2)).toBeLessThan(3 / Math.sqrt(COUNT));
});

test('the same seed gives the same times, another seed others', () => {
  expect(take('poisson', 100, 5)).toEqual(take('poisson', 100, 5));
  expect(take('poisson', 100, 5)).not.toEqual(take('poisson', 100, 6));
});

test('constant arrivals are evenly spaced, and do not drift', () => {
  const times = take('constant', 3, 1);
  expect(times[0]).toBeCloseTo(1000 / 3, 9);
  expect(times.at(-1)).toBeCloseTo((COUNT * 1000) / 3, 6);
});

test.each([0, -1, Number.NaN, 200_001, 1e308, Number.POSITIVE_INFINITY])('a rate of %d is refused', (qps) => {
  expect(() => arrivalTimes({ process: 'constant', qps, seed: 1 }).next()).toThrow(/qps has to be above 0, and at most 200000/);
});
