import fc from 'fast-check';
import { expect, test } from 'vitest';
import { cachedShare, lookupCost } from '../../../../src/plan/predict/lookup-cost.js';
import { PLAIN_COSTS } from '../../../reference/costs.js';

test('between measured dims a row costs in proportion to its bytes, beyond them likewise', () => {
  expect(lookupCost(PLAIN_COSTS, 'fp32', 4)).toEqual({ ns: 10, inCacheNs: 1 });
  expect(lookupCost(PLAIN_COSTS, 'fp32', 6)).toEqual({ ns: 15, inCacheNs: 1.5 });
  expect(lookupCost(PLAIN_COSTS, 'fp32', 24)).toEqual({ ns: 60, inCacheNs: 6 });
  // A short row waits for memory as long as the shortest that was measured.
  expect(lookupCost(PLAIN_COSTS, 'fp32', 1)).toEqual({ ns: 10, inCacheNs: 1 });
});

test('a format that was not measured costs what rows of as many bytes do', () => {
  expect(lookupCost(PLAIN_COSTS, 'int8', 16).ns).toBe(15);
});

test('the more a cache holds, the more lookups it takes: none without room, all with room for all, the hot share with 1 %', () => {
  expect([cachedShare(1000, 0, 0.5), cachedShare(1000, 1000, 0.5), cachedShare(1000, 1e9, 0)]).toEqual([0, 1, 1]);
  expect(cachedShare(1000, 10, 0.5)).toBeCloseTo(0.5, 12);
  fc.assert(
    fc.property(fc.nat(1e6), fc.nat(1e6), fc.nat(1e6), fc.double({ min: 0, max: 1, noNaN: true }), (bytes, room, more, hot) => {
      const [less, greater] = [cachedShare(bytes, room, hot), cachedShare(bytes, room + more, hot)];
      expect(less).toBeLessThanOrEqual(greater + 1e-12);
      expect(Math.min(less, 1 - greater)).toBeGreaterThanOrEqual(-1e-12);
    }),
  );
});
