import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RetryBudget } from '../../../../src/rpc/replicas/retry-budget.js';

/** From docs/wire.md: 20 % of the requests of the latest 10 s, and 3 a second; 30 at once. */
const WINDOW_MS = 10_000;
/** More than any budget here. */
const MANY = 5000;
const step = fc.record({
  afterMs: fc.oneof(fc.nat(5), fc.nat(1000), fc.nat(30_000)),
  requests: fc.nat(60),
  retries: fc.nat(60),
  hedges: fc.nat(20),
});

test('retries never exceed 20 % of the requests of the window and 3 a second, in any span of time', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) => {
      let now = 5_000;
      const budget = new RetryBudget(now);
      const requested: number[] = [];
      const retried: number[] = [];
      for (const { afterMs, requests, retries, hedges } of steps) {
        now += afterMs;
        for (let n = 0; n < requests; n++) {
          budget.deposit(now);
          requested.push(now);
        }
        for (let n = 0; n < hedges; n++) if (budget.takeHedge(now)) retried.push(now);
        for (let n = 0; n < retries; n++) if (budget.take(now)) retried.push(now);
      }
      for (const from of new Set(retried)) {
        for (const to of new Set(retried)) {
          if (to < from) continue;
          const within = (times: readonly number[], start: number): number => times.filter((at) => at >= start && at <= to).length;
          const paid = within(requested, from - WINDOW_MS) / 5;
          expect(within(retried, from)).toBeLessThanOrEqual(paid + 30 + ((to - from) * 3) / 1000 + 1e-6);
        }
      }
    }),
    { numRuns: 200 },
  );
});

test('a retry is refused only when the requests of the latest 9 s have paid for no more, and 3 a second are used up', () => {
  fc.assert(
    fc.property(fc.nat(2000), fc.nat(8999), (requests, afterMs) => {
      const budget = new RetryBudget(0);
      for (let n = 0; n < requests; n++) budget.deposit(0);
      let retries = 0;
      while (retries < MANY && budget.take(afterMs)) retries++;
      expect(retries).toBe(Math.floor(requests / 5) + 30);
      expect(budget.take(afterMs + 333)).toBe(false);
      expect(budget.take(afterMs + 334)).toBe(true);
    }),
    { numRuns: 100 },
  );
});

test('requests pay for 10 s, and not for longer', () => {
  const budget = new RetryBudget(0);
  for (let n = 0; n < 1000; n++) budget.deposit(0);
  let retries = 0;
  while (retries < MANY && budget.take(10_000)) retries++;
  expect(retries).toBe(30);
});

test('hedged requests leave half of the free retries to retries', () => {
  const budget = new RetryBudget(0);
  for (let n = 0; n < 50; n++) budget.deposit(0);
  let [hedges, retries] = [0, 0];
  while (hedges < MANY && budget.takeHedge(0)) hedges++;
  while (retries < MANY && budget.take(0)) retries++;
  expect([hedges, retries]).toEqual([10 + 15, 15]);
});
