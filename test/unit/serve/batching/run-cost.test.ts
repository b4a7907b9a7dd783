import { expect, test } from 'vitest';
import { RunCost } from '../../../../src/serve/batching/run-cost.js';

const learnt = (runs: readonly (readonly [items: number, ms: number])[]): RunCost => {
  const cost = new RunCost();
  for (const [items, ms] of runs) cost.add(items, ms);
  return cost;
};
const runsOf = (fixedMs: number, perItemMs: number, count = 40) =>
  Array.from({ length: count }, (_, n) => [1 + (n % 7) * 8, fixedMs + perItemMs * (1 + (n % 7) * 8)] as const);

test('what a run takes is learnt as a part of its own and one of each item', () => {
  const cost = learnt(runsOf(0.4, 0.02));
  expect(cost.fixedMs).toBeCloseTo(0.4, 6);
  expect(cost.perItemMs).toBeCloseTo(0.02, 6);
  expect(cost.expectedMs(100)).toBeCloseTo(2.4, 6);
  expect(cost.enoughItems).toBe(300);
});

test('costs that change are learnt anew', () => {
  const cost = learnt([...runsOf(4, 0.2, 100), ...runsOf(0.4, 0.02, 600)]);
  expect(cost.expectedMs(50)).toBeCloseTo(1.4, 1);
});

test('a run that something held up changes little', () => {
  const cost = learnt([...runsOf(0.4, 0.02, 100), [9, 500]]);
  expect(cost.expectedMs(9)).toBeLessThan(0.65);
});

test('of runs that are alike, of few runs and of runs without items nothing is concluded about items', () => {
  for (const runs of [Array.from({ length: 50 }, () => [8, 1] as const), runsOf(0, 1, 15)])
    expect(learnt(runs).enoughItems).toBe(Number.POSITIVE_INFINITY);
  expect(learnt([[8, 1]]).expectedMs(80)).toBe(1);
  expect(learnt([[0, 7]]).expectedMs(1)).toBe(0);
});

test('neither part is negative, whatever was seen', () => {
  const falling = learnt(Array.from({ length: 40 }, (_, n) => [1 + (n % 5), 6 - (n % 5)] as const));
  expect([falling.perItemMs, falling.fixedMs >= 0]).toEqual([0, true]);
  const steep = learnt(Array.from({ length: 40 }, (_, n) => [1 + (n % 5), (1 + (n % 5)) ** 2] as const));
  expect(steep.fixedMs).toBeGreaterThanOrEqual(0);
  expect(steep.perItemMs).toBeGreaterThan(0);
});
