import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LatencyHistogram } from '../../../src/observe/latency-histogram.js';

const QUANTILES = [0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1];
/** Nanoseconds, so that samples are what the histogram counts. */
const samples = fc.array(
  fc.oneof(
    fc.integer({ min: 1, max: 5000 }),
    fc.integer({ min: 1, max: 3_600_000_000_000 }),
    fc.nat(40).map((power) => 2 ** power),
  ),
  { minLength: 1, maxLength: 400 },
);

const recorded = (nanoseconds: readonly number[]): LatencyHistogram => {
  const histogram = new LatencyHistogram();
  for (const value of nanoseconds) histogram.record(value / 1e6);
  return histogram;
};

/** Nearest rank on the sorted samples, ms. */
const exact = (nanoseconds: readonly number[], q: number): number =>
  ([...nanoseconds].sort((a, b) => a - b)[Math.max(1, Math.ceil(q * nanoseconds.length - 1e-9)) - 1] as number) / 1e6;

function expectExact(histogram: LatencyHistogram, nanoseconds: readonly number[]): void {
  for (const q of QUANTILES) {
    const value = histogram.quantile(q) as number;
    const reference = exact(nanoseconds, q);
    expect(value).toBeGreaterThanOrEqual(reference * (1 - 1e-12));
    expect(value).toBeLessThanOrEqual(reference * (1 + 1 / 1024) + 1e-9);
  }
}

test('quantiles are the exact ones, rounded up by at most 1/1024', () => {
  fc.assert(fc.property(samples, (nanoseconds) => expectExact(recorded(nanoseconds), nanoseconds)));
});

test('merged histograms, also through their JSON text, are the histogram of all samples', () => {
  fc.assert(
    fc.property(fc.array(samples, { minLength: 1, maxLength: 4 }), (repeats) => {
      const merged = new LatencyHistogram();
      for (const repeat of repeats) {
        const { hdr } = JSON.parse(JSON.stringify(recorded(repeat))) as { hdr: string };
        merged.merge(LatencyHistogram.decode(hdr));
      }
      expect(merged.count).toBe(repeats.flat().length);
      expect(merged.summary()).toEqual(recorded(repeats.flat()).summary());
      expectExact(merged, repeats.flat());
    }),
    { numRuns: 15 },
  );
});

test('an empty histogram has no quantile, a negative duration is 0, and one beyond an hour is an hour', () => {
  const histogram = new LatencyHistogram();
  expect(histogram.summary()).toEqual({ count: 0, mean: null, p50: null, p90: null, p99: null, p999: null, max: null });
  histogram.record(-0.001);
  expect(histogram.quantile(1)).toBe(0);
  histogram.record(1e12);
  expect((histogram.quantile(1) as number) / 3_600_000 - 1).toBeLessThan(1 / 1024);
  expect(() => LatencyHistogram.decode('bm90IGEgaGlzdG9ncmFt')).toThrow(/not a compressed histogram/);
});
