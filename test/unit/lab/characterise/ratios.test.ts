import fc from 'fast-check';
import { expect, test } from 'vitest';
import { compareRatios, compareWithBaseline } from '../../../../src/lab/characterise/compare-ratios.js';
import { pairRounds, ratioOf } from '../../../../src/lab/characterise/ratios.js';
import type { LoadRun } from '../../../../src/lab/load/load-run.js';
import { LatencyHistogram } from '../../../../src/observe/latency-histogram.js';
import { about } from './made-up-results.js';

/** A round in which every request took so many ms, and so much CPU. */
function round(ms: number, cpu: { readonly mainMs: number; readonly shardsMs: number | null }, failed = 0): LoadRun {
  const latency = new LatencyHistogram();
  const count = 10;
  for (let n = 0; n < count; n++) latency.record(ms);
  const of = (each: number | null): number | null => (each === null ? null : each * 1000 * count);
  return {
    ...{ offeredQps: null, measuredMs: 100, latency, fromSend: latency, lag: new LatencyHistogram() },
    errors: failed > 0 ? { deadline_exceeded: failed } : {},
    cost: {
      ...{ mainCpuUs: of(cpu.mainMs) ?? 0, shardCpuUs: of(cpu.shardsMs), collections: 0, collectionMs: 0 },
      loopDelayMs: { p50: 0, p99: 0, max: 0 },
    },
    ...{ waitingCpuUs: 0, invalid: [] },
  };
}

test('the median of ratios is that of a sorted list, between the lowest and the highest', () => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0.01, max: 100, noNaN: true }), { minLength: 1, maxLength: 9 }), (ratios) => {
      const { median, low, high } = ratioOf(ratios) ?? about(Number.NaN);
      expect([low, high]).toEqual([Math.min(...ratios), Math.max(...ratios)]);
      // As many are at most the median as are at least the median.
      const half = ratios.length / 2;
      expect(ratios.filter((each) => each <= median).length).toBeGreaterThanOrEqual(half);
      expect(ratios.filter((each) => each >= median).length).toBeGreaterThanOrEqual(half);
    }),
  );
  expect(ratioOf([])).toBeNull();
  expect(ratioOf([1, 2, 4, 100])?.median).toBe(3);
});

test('rounds are compared with the same round of the baseline, so that what drifts cancels out', () => {
  const cpu = { mainMs: 1, shardsMs: null };
  const baseline = { runs: [round(10, cpu), round(20, cpu), round(40, cpu)], shards: 0 };
  const own = { runs: [11, 22, 44].map((ms) => round(ms, { mainMs: 1, shardsMs: 0.5 })), shards: 2 };
  const pairs = pairRounds(own, baseline);
  expect(pairs?.pairs).toBe(3);
  for (const quantile of ['p50', 'p90', 'p99'] as const) expect(pairs?.[quantile].median).toBeCloseTo(1.1, 2);
  expect(pairs?.cpu?.median).toBeCloseTo(1.5, 6);
});

test('a round in which the quantile failed, or a shard did not tell its CPU, is no pair', () => {
  const cpu = { mainMs: 1, shardsMs: 1 };
  const baseline = { runs: [round(10, cpu), round(10, cpu)], shards: 0 };
  // Half of 20 requests failed: P99 is beyond any answer.
  const second = pairRounds({ runs: [round(10, cpu, 10), round(12, cpu)], shards: 1 }, baseline)?.p99;
  expect([second?.low, second?.high]).toEqual([expect.closeTo(1.2, 2), expect.closeTo(1.2, 2)]);
  expect(pairRounds({ runs: [round(10, cpu, 10)], shards: 1 }, baseline)).toBeNull();
  expect(pairRounds({ runs: [round(10, { mainMs: 1, shardsMs: null })], shards: 1 }, baseline)?.cpu).toBeNull();
});

test('a round whose load generator was late by itself is no pair, on either side', () => {
  const cpu = { mainMs: 1, shardsMs: 1 };
  const late = { ...round(90, cpu), invalid: ['the load generator was late by itself'] };
  const own = { runs: [late, round(20, cpu), round(30, cpu)], shards: 1 };
  const pairs = pairRounds(own, { runs: [round(10, cpu), late, round(10, cpu)], shards: 0 });
  expect([pairs?.pairs, pairs?.p99.median, pairs?.p99.high]).toEqual([1, expect.closeTo(3, 2), expect.closeTo(3, 2)]);
  expect(pairRounds({ runs: [late], shards: 1 }, { runs: [round(10, cpu)], shards: 0 })).toBeNull();
});

test('ratios differ when their medians are further apart than half of either spread', () => {
  expect(compareRatios(about(1.1, 0.05), about(1.2, 0.05))).toBe('lower');
  expect(compareRatios(about(1.2, 0.05), about(1.1, 0.05))).toBe('higher');
  expect(compareRatios(about(1.1, 0.2), about(1.2, 0.05))).toBe('equal');
  expect(compareWithBaseline(about(0.9, 0.05))).toBe('lower');
  expect(compareWithBaseline(about(0.97, 0.05))).toBe('equal');
});
