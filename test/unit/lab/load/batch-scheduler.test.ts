import fc from 'fast-check';
import { expect, test } from 'vitest';
import { scheduleBatches } from '../../../../src/lab/load/batch-scheduler.js';

const ITEMS = 512;
const CORES = 8;

/**
 * Requests a second of a simulated server: a batch costs a call and its items, a request's batches run on all cores at once, and the P99 bound
 * leaves the room that is not taken by the request itself.
 */
function simulated(callMs: number, itemMs: number, boundMs: number): (items: number) => number {
  return (items) => {
    const batches = Math.ceil(ITEMS / items);
    const batchMs = callMs + itemMs * Math.min(items, ITEMS);
    const latencyMs = Math.ceil(batches / CORES) * batchMs;
    const capacity = (CORES * 1000) / (batches * batchMs);
    return latencyMs >= boundMs ? 0 : capacity * (1 - latencyMs / boundMs);
  };
}

test.each([
  { callMs: 0.5, itemMs: 0.05, boundMs: 20 },
  { callMs: 0.05, itemMs: 0.05, boundMs: 15 },
  { callMs: 2, itemMs: 0.02, boundMs: 50 },
  { callMs: 0.1, itemMs: 0.1, boundMs: 1000 },
])('the batch size with the highest rate is found on a simulated server: %o', async ({ callMs, itemMs, boundMs }) => {
  const qps = simulated(callMs, itemMs, boundMs);
  const { best, measured } = await scheduleBatches({ measure: async (items) => qps(items), mostItems: ITEMS });
  const exhaustive = Math.max(...Array.from({ length: ITEMS }, (_, n) => qps(n + 1)));
  expect(best.qps / exhaustive).toBeGreaterThan(0.93);
  expect(best.qps).toBe(qps(best.items));
  expect(measured.length).toBeLessThan(18);
  expect(measured).toContainEqual(best);
});

test('on any curve with one peak, the size is as close to the peak as wanted', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 2000 }),
      fc.integer({ min: 1, max: 2000 }),
      fc.integer({ min: 1, max: 4096 }),
      async (peak, mostItems, firstItems) => {
        const sizes: number[] = [];
        const measure = async (items: number): Promise<number> => {
          sizes.push(items);
          return 1000 / (1 + Math.abs(Math.log2(items / peak)));
        };
        const { best } = await scheduleBatches({ measure, mostItems, firstItems });
        const ratio = best.items / Math.min(peak, mostItems);
        expect(Math.abs(Math.log2(ratio))).toBeLessThanOrEqual(Math.log2(1.25) + 1e-9);
        expect(new Set(sizes).size).toBe(sizes.length);
        expect(Math.max(...sizes)).toBeLessThanOrEqual(mostItems);
        expect(Math.min(...sizes)).toBeGreaterThanOrEqual(1);
      },
    ),
  );
});

test('a signal ends the climb with the best so far, and without the size that it cut short', async () => {
  const ended = new AbortController();
  const measure = async (items: number): Promise<number> => {
    if (items >= 256) ended.abort();
    return items;
  };
  const { best, measured } = await scheduleBatches({ measure, mostItems: 4096, signal: ended.signal });
  expect(measured.map(({ items }) => items)).toEqual([64, 128]);
  expect(best).toEqual({ items: 128, qps: 128 });
});
