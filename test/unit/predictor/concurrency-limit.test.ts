import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ConcurrencyLimit, type EndedRequest } from '../../../src/predictor/concurrency-limit.js';
import { outcomesOf, type QueueLoad, simulateQueue } from '../../reference/overloaded-queue.js';

const MOST = 1024;
const seeds = fc.integer({ min: 1, max: 2 ** 30 });

/** A service of which a deadline holds 20 to 200; events are bounded by how long it runs. */
const services = fc.record({
  servers: fc.integer({ min: 1, max: 8 }),
  serviceMs: fc.double({ min: 0.5, max: 5, noNaN: true }),
  deadlines: fc.integer({ min: 20, max: 200 }),
  networkShare: fc.double({ min: 0, max: 0.3, noNaN: true }),
  seed: seeds,
});

test('stays between 1 and the most, and lets a request in when nothing is in flight, whatever is told to it', () => {
  const ended = fc.record({
    tookMs: fc.double({ min: 0, max: 1e6, noNaN: true }),
    waitMs: fc.double({ min: 0, max: 1e5, noNaN: true }),
    deadlineMs: fc.double({ min: 1e-3, max: 2 ** 31, noNaN: true }),
    size: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    beside: fc.nat({ max: 2000 }),
  });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5000 }), fc.array(ended, { maxLength: 300 }), (most, all) => {
      const limit = new ConcurrencyLimit(most);
      let now = 0;
      for (const { tookMs, waitMs, deadlineMs, size, beside } of all) {
        expect(limit.admits(0, deadlineMs)).toBe(true);
        limit.admits(beside, deadlineMs);
        now += waitMs;
        limit.ended({ startedAt: now - tookMs, endedAt: now, deadlineMs, size, beside });
        expect(limit.limit).toBeGreaterThanOrEqual(1);
        expect(limit.limit).toBeLessThanOrEqual(most);
      }
    }),
  );
});

test('under overload, servers are kept busy with requests that are answered by their deadlines', () => {
  fc.assert(
    fc.property(services, fc.double({ min: 1.2, max: 6, noNaN: true }), ({ servers, serviceMs, deadlines, networkShare, seed }, times) => {
      const deadlineMs = deadlines * serviceMs;
      const capacity = servers / serviceMs;
      // More than the hard limit would be in flight on such a network.
      fc.pre(capacity * deadlineMs * networkShare < MOST / 2);
      const durationMs = 40 * deadlineMs + 1500;
      const load: QueueLoad = {
        ...{ limit: new ConcurrencyLimit(MOST), servers, durationMs, seed, networkMs: networkShare * deadlineMs },
        ...{ rate: () => times * capacity, serviceMs: () => serviceMs, deadlineMs: () => deadlineMs },
      };
      const settled = outcomesOf(simulateQueue(load), durationMs / 2, durationMs);
      expect(settled.goodput).toBeGreaterThan(0.9 * capacity);
      expect(settled.late).toBeLessThan(0.01);
    }),
    { numRuns: 20 },
  );
});

test('refuses nothing while servers keep up, from the first request on', () => {
  fc.assert(
    fc.property(
      services,
      fc.double({ min: 0.05, max: 0.6, noNaN: true }),
      ({ servers, serviceMs, deadlines, networkShare, seed }, times) => {
        const deadlineMs = deadlines * serviceMs;
        const capacity = servers / serviceMs;
        fc.pre(times * capacity * (networkShare * deadlineMs + 20 * serviceMs) < MOST / 4);
        const load: QueueLoad = {
          ...{ limit: new ConcurrencyLimit(MOST), servers, durationMs: 2000 * serviceMs, seed, networkMs: networkShare * deadlineMs },
          ...{ rate: () => times * capacity, serviceMs: () => serviceMs, deadlineMs: () => deadlineMs },
        };
        expect(outcomesOf(simulateQueue(load), 0, 2000 * serviceMs)).toMatchObject({ refused: 0, late: 0 });
      },
    ),
    { numRuns: 40 },
  );
});

const QUICK = { servers: 2, serviceMs: () => 0.5, deadlineMs: () => 100 };
const CAPACITY = 4;

test('first requests that are slow, as after opening, do not make it refuse those that follow', () => {
  const rate = (): number => 0.5 * CAPACITY;
  const slowAtFirst = (now: number): number => (now < 200 ? 5 : 0.5);
  const requests = simulateQueue({ ...QUICK, limit: new ConcurrencyLimit(MOST), rate, serviceMs: slowAtFirst, durationMs: 3000 });
  expect(outcomesOf(requests, 1200, 3000)).toMatchObject({ refused: 0, late: 0 });
});

test('what serves may stall and become slower or faster: within a second as much is answered as can be', () => {
  const serviceMs = (now: number): number => (now < 2000 ? 0.5 : now < 3000 ? 200 : now < 5000 ? 2.5 : 0.5);
  const requests = simulateQueue({ ...QUICK, limit: new ConcurrencyLimit(MOST), rate: () => 3 * CAPACITY, serviceMs, durationMs: 8000 });
  for (const [fromMs, toMs, capacity] of [
    [1000, 1900, 4],
    [4200, 5000, 0.8],
    [6000, 8000, 4],
  ] as const) {
    const { goodput, late } = outcomesOf(requests, fromMs, toMs);
    expect(goodput).toBeGreaterThan(0.85 * capacity);
    expect(late).toBeLessThan(0.02);
  }
});

test('minutes of overload change nothing: the queue is not taken for the service', () => {
  const requests = simulateQueue({ ...QUICK, limit: new ConcurrencyLimit(MOST), rate: () => 1.5 * CAPACITY, durationMs: 120_000 });
  const [early, last] = [outcomesOf(requests, 1000, 5000), outcomesOf(requests, 100_000, 120_000)];
  expect(last.longestMs).toBeLessThan(1.1 * early.longestMs);
  expect(last.late).toBe(0);
  expect(last.goodput).toBeGreaterThan(0.95 * CAPACITY);
});

test('a deadline of seconds allows a queue as long as the most that may be in flight', () => {
  const limit = new ConcurrencyLimit(MOST);
  const requests = simulateQueue({ ...QUICK, limit, rate: () => 3 * CAPACITY, deadlineMs: () => 2000, durationMs: 5000 });
  expect(limit.limit).toBe(MOST);
  expect(outcomesOf(requests, 1000, 5000)).toMatchObject({ late: 0 });
});

test('large requests beside small ones are answered by their deadlines, and let in as often', () => {
  const isLarge = (share: number): boolean => share < 0.05;
  const serviceMs = (_: number, share: number): number => (isLarge(share) ? 30 : 0.5);
  const mean = 0.05 * 30 + 0.95 * 0.5;
  const servers = 16;
  const requests = simulateQueue({
    ...{ limit: new ConcurrencyLimit(MOST), servers, serviceMs, deadlineMs: () => 50, durationMs: 20_000 },
    ...{ rate: () => (3 * servers) / mean, sizeOf: (share) => (isLarge(share) ? 30_000 : 500) },
  });
  const [large, small] = [true, false].map((kind) =>
    outcomesOf(
      requests.filter(({ share }) => isLarge(share) === kind),
      5000,
      20_000,
    ),
  ) as [ReturnType<typeof outcomesOf>, ReturnType<typeof outcomesOf>];
  expect(large.late).toBeLessThan(0.02);
  expect(small.late).toBeLessThan(0.01);
  expect(large.refused).toBeLessThan(1.05 * small.refused);
  expect(large.goodput + small.goodput).toBeGreaterThan((0.85 * servers) / mean);
});

test('a deadline that is too short for the queue is refused, one that is longer than usual let in', () => {
  const limit = new ConcurrencyLimit(MOST);
  simulateQueue({ ...QUICK, limit, rate: () => 3 * CAPACITY, durationMs: 3000 });
  expect(limit.limit).toBeLessThan(MOST / 2);
  expect([limit.admits(limit.limit, 100), limit.admits(limit.limit - 1, 100)]).toEqual([false, true]);
  expect([limit.admits(limit.limit >> 1, 20), limit.admits(0, 20)]).toEqual([false, true]);
  expect(limit.admits(MOST - 1, 10_000)).toBe(true);
});

test('callers who can wait are let in for as long as they ask, whatever limit shorter deadlines had before, which have it again afterwards', () => {
  const limit = new ConcurrencyLimit(MOST);
  let now = 0;
  // Each phase is a simulation of its own, whose times start anew.
  const phase = (load: Pick<QueueLoad, 'rate' | 'deadlineMs' | 'durationMs'>) => {
    const from = now;
    now += load.durationMs + 20_000;
    const shifted = {
      admits: (inFlight: number, deadlineMs: number) => limit.admits(inFlight, deadlineMs),
      ended: (request: EndedRequest) => limit.ended({ ...request, startedAt: from + request.startedAt, endedAt: from + request.endedAt }),
    };
    return simulateQueue({ ...QUICK, ...load, limit: shifted });
  };
  phase({ rate: () => 3 * CAPACITY, deadlineMs: () => 50, durationMs: 3000 });
  const learnt = limit.limit;
  expect(learnt).toBeLessThan(100);
  expect(outcomesOf(phase({ rate: () => 0.9 * CAPACITY, deadlineMs: () => 10_000, durationMs: 3000 }), 0, 3000).refused).toBe(0);
  const again = phase({ rate: () => 3 * CAPACITY, deadlineMs: () => 50, durationMs: 1000 });
  expect(outcomesOf(again, 0, 1000).late).toBeLessThan(0.2);
});

test('after overload, it forgets little by little what it learnt', () => {
  const limit = new ConcurrencyLimit(MOST);
  const rate = (now: number): number => (now < 3000 ? 3 : 0.3) * CAPACITY;
  simulateQueue({ ...QUICK, limit, rate, durationMs: 3100 });
  expect(limit.limit).toBeLessThan(MOST / 2);
  const forgetful = new ConcurrencyLimit(MOST);
  simulateQueue({ ...QUICK, limit: forgetful, rate, durationMs: 10_000 });
  expect(forgetful.limit).toBe(MOST);
});

test('few requests whose latencies vary are let in together while their deadlines are far off, also after some that were short', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 30, max: 100 }), { minLength: 20, maxLength: 20 }), (latencies) => {
      const limit = new ConcurrencyLimit(MOST);
      let now = 0;
      const end = (latencyMs: number, deadlineMs: number, size: number): void => {
        now += 100;
        limit.ended({ startedAt: now - latencyMs, endedAt: now, deadlineMs, size, beside: 0 });
      };
      for (let short = 0; short < 3000; short++) end(short % 2 === 0 ? 17 : 20, 20, 1);
      end(5, 500, 1000);
      end(2000, 3000, 1000);
      for (const latencyMs of latencies) end(latencyMs, 500, 1000);
      expect(limit.admits(1, 500)).toBe(true);
    }),
  );
});

test('where requests are few, what was slow a second ago refuses none', () => {
  const limit = new ConcurrencyLimit(MOST);
  let now = 0;
  const end = (times: number, afterMs: number, latencyMs: number, deadlineMs: number): void => {
    for (let n = 0; n < times; n++) {
      now += afterMs;
      limit.admits(2, deadlineMs);
      limit.ended({ startedAt: now - latencyMs, endedAt: now, deadlineMs, size: 1, beside: 0 });
    }
  };
  end(35, 6, 38, 2400);
  end(46, 43, 1110, 2300);
  end(47, 82, 212, 216);
  end(1, 1000, 2, 500);
  expect(limit.admits(1, 500)).toBe(true);
});

/** Tells of requests with a deadline of 100 ms that end one a millisecond; since: they started no earlier. */
function endOneAMs(limit: ConcurrencyLimit, from: number, latencies: readonly number[], since = Number.NEGATIVE_INFINITY): number {
  let now = from;
  for (const latencyMs of latencies) {
    now = Math.max(now + 1, since + latencyMs);
    limit.ended({ startedAt: now - latencyMs, endedAt: now, deadlineMs: 100, size: 1, beside: 0 });
  }
  return now;
}

const repeated = (latencyMs: number, times: number): number[] => Array<number>(times).fill(latencyMs);

test('requests that started before the limit changed do not change it again, those that started since do', () => {
  const limit = new ConcurrencyLimit(MOST);
  const changedAt = endOneAMs(limit, 1000, repeated(10, 32));
  expect(limit.limit).toBe(MOST);
  // Slow, as they were while more were in flight.
  const later = endOneAMs(limit, changedAt + 5, repeated(95, 89));
  expect(later - 95).toBeLessThan(changedAt);
  expect(limit.limit).toBe(MOST);
  endOneAMs(limit, later, repeated(95, 32), changedAt);
  expect(limit.limit).toBeLessThan(MOST / 2);
});

test('while requests are late, a shorter queue is allowed, and the usual one again once they are not', () => {
  const limit = new ConcurrencyLimit(MOST);
  const windows = (from: number, count: number, slowestMs: number): number => {
    let now = from;
    for (let window = 0; window < count; window++) now = endOneAMs(limit, now, [slowestMs, ...repeated(18, 31)], now);
    return now;
  };
  const first = endOneAMs(limit, 1000, repeated(10, 32));
  const inTime = windows(first, 20, 99);
  expect(limit.limit).toBe(MOST);
  const late = windows(inTime, 20, 100);
  expect(limit.limit).toBeLessThan(MOST / 8);
  windows(late, 100, 99);
  expect(limit.limit).toBe(MOST);
});
