import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Due } from '../../../../src/rpc/due-list.js';
import { Hedging, LatencyWindow } from '../../../../src/rpc/replicas/hedging.js';
import { FakeClock } from '../fakes.js';

test('the delay is the P95 of the latest 512 latencies, up to the width of a bucket, and at least 1 ms', () => {
  const latency = fc.double({ min: 0, max: 2000, noNaN: true });
  fc.assert(
    fc.property(fc.array(latency, { minLength: 20, maxLength: 1200 }), (latencies) => {
      const window = new LatencyWindow();
      // As of the last look, one in 32 answers.
      const seen = latencies.slice(0, 20 + 32 * Math.floor((latencies.length - 20) / 32));
      for (const ms of latencies) window.add(ms);
      const sorted = seen.slice(-512).sort((a, b) => a - b);
      const p95 = sorted[Math.ceil(0.95 * sorted.length) - 1] as number;
      expect(window.delayMs).toBeGreaterThanOrEqual(Math.max(1, p95));
      expect(window.delayMs).toBeLessThanOrEqual(Math.max(1, p95 * 2 ** (1 / 8) * 1.0001));
    }),
    { numRuns: 200 },
  );
});

test('before 20 answers the delay is 50 ms', () => {
  const window = new LatencyWindow();
  for (let n = 0; n < 19; n++) window.add(3);
  expect(window.delayMs).toBe(50);
  window.add(3);
  expect(window.delayMs).toBeLessThan(3.3);
});

class Item extends Due {
  constructor(readonly startedAt: number) {
    super();
  }
}

test('an attempt is told when half of its deadline is over at the latest, though answers took longer than that', () => {
  const clock = new FakeClock();
  const told: number[] = [];
  const hedging = new Hedging<Item>(clock, (_, now) => told.push(now));
  for (let n = 0; n < 512; n++) hedging.answered(2000);
  const start = clock.now();
  hedging.watch(new Item(start), start, 100);
  clock.pass(100);
  expect(told).toEqual([start + 50]);
  hedging.close();
});

test('an attempt is told once its delay is over, unless it has ended; one that could not be hedged again after twice its time', () => {
  const clock = new FakeClock();
  const told: [Item, number][] = [];
  const hedging: Hedging<Item> = new Hedging(clock, (attempt, now) => {
    told.push([attempt, now - attempt.startedAt]);
    if (attempt === stuck) hedging.watchOn(attempt, now);
  });
  for (let n = 0; n < 20; n++) hedging.answered(10);
  const [stuck, answered, slow] = [new Item(clock.now()), new Item(clock.now()), new Item(clock.now())];
  for (const attempt of [stuck, answered, slow]) hedging.watch(attempt, clock.now(), 1000);
  hedging.unwatch(answered);
  clock.pass(100);
  expect(told.filter(([attempt]) => attempt === slow)).toHaveLength(1);
  expect(told.filter(([attempt]) => attempt === answered)).toHaveLength(0);
  const waits = told.filter(([attempt]) => attempt === stuck).map(([, ms]) => ms);
  expect(waits[0]).toBeGreaterThanOrEqual(10);
  expect(waits[0]).toBeLessThan(11);
  expect(waits.slice(1)).toEqual(waits.slice(0, -1).map((ms) => 2 * ms));
  hedging.close();
  expect(clock.numTimers).toBe(0);
});
