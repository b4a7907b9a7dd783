import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type CapacityOptions, findMaxQps, searchHighest } from '../../../../src/lab/load/capacity-search.js';
import { QueueingServer, VirtualTime } from '../../../reference/virtual-time.js';

const SERVICE_MS = 2;

function search(options: Partial<CapacityOptions> = {}, prepare: (time: VirtualTime) => void = () => undefined) {
  const time = new VirtualTime();
  prepare(time);
  return findMaxQps({
    predictor: new QueueingServer({ time, serviceMs: () => SERVICE_MS }),
    requests: [{ items: 1, dense: {}, sparse: {} }],
    ...{ bound: { quantile: 0.99, ms: 10 }, process: 'poisson', seed: 1, firstQps: 40, repeats: 3 },
    ...{ warmUpMs: 500, durationMs: 20_000, tolerance: 0.02, pacer: time },
    ...options,
  });
}

/**
 * The share of requests that wait longer than t in M/D/1 at utilization u, by Erlang's series (service time 1):
 * P(W <= t) = (1 - u) * sum over k <= t of (u (k - t))^k / k! * exp(u (t - k)).
 */
function waitsLonger(u: number, t: number): number {
  let sum = 0;
  let factorial = 1;
  for (let k = 0; k <= Math.floor(t); k++) {
    factorial *= Math.max(1, k);
    sum += ((u * (k - t)) ** k / factorial) * Math.exp(u * (t - k));
  }
  return 1 - (1 - u) * sum;
}

/** The utilization at which 1 % of the requests wait longer than t. */
function knee(t: number): number {
  let [low, high] = [0.01, 0.99];
  while (high - low > 1e-6) {
    const middle = (low + high) / 2;
    if (waitsLonger(middle, t) < 0.01) low = middle;
    else high = middle;
  }
  return low;
}

test('the rate found on an M/D/1 server is the one that queueing theory gives', async () => {
  // 10 ms less the service time: a wait of 4 service times.
  const expected = (knee(4) * 1000) / SERVICE_MS;
  const { qps, probes, limitedBy } = await search();
  expect(expected).toBeGreaterThan(250);
  expect(Math.abs((qps as number) / expected - 1)).toBeLessThan(0.05);
  expect(limitedBy).toBe('bound');
  const rates = probes.map((probe) => probe.qps);
  expect(rates).toEqual([...rates].sort((a, b) => a - b));
  expect(probes.map(({ meetsBound }) => meetsBound).lastIndexOf(true)).toBe(rates.indexOf(qps as number));
  // The knee: P99 grows with the rate.
  const p99s = probes.map(({ run }) => run.latency.quantile(0.99) as number);
  expect(p99s.at(-1)).toBeGreaterThan(3 * (p99s[0] as number));
}, 60_000);

test('constant arrivals are served up to the full rate', async () => {
  const { qps } = await search({ process: 'constant', repeats: 1, durationMs: 5000 });
  expect(qps).toBeGreaterThan(490);
  expect(qps).toBeLessThan(510);
});

test('a bound that no rate meets gives none, and requests that fail do not meet it', async () => {
  expect(await search({ bound: { quantile: 0.99, ms: 1 }, durationMs: 10, fewestRequests: 10, repeats: 1 })).toMatchObject({
    qps: null,
    limitedBy: 'bound',
  });
  // Where requests do not meet any more, a lower rate would take its time and find the same.
  const { probes } = await search({ bound: { quantile: 0.99, ms: 1 }, durationMs: 10, fewestRequests: 10, repeats: 1, firstQps: 250 });
  expect(probes.map(({ qps }) => qps)).toEqual([15.625, 31.25, 62.5, 125, 250]);
  const failing = await search({ deadlineMs: 1, bound: { quantile: 0.99, ms: 10 }, durationMs: 10, fewestRequests: 10, repeats: 1 });
  expect(failing.qps).toBeNull();
  expect(failing.probes.every(({ meetsBound }) => !meetsBound)).toBe(true);
});

test('runs at low rates take longer, for enough requests, but no longer than a minute', async () => {
  const { probes } = await search({ bound: { quantile: 0.99, ms: 1 }, warmUpMs: 0, durationMs: 10, repeats: 1, firstQps: 16 });
  const seconds = probes.map(({ run }) => run.measuredMs / 1000);
  expect(probes.map(({ qps }) => qps)).toEqual([1, 2, 4, 8, 16]);
  [60, 60, 60, 300 / 8, 300 / 16].forEach((expected, i) => expect(Math.abs((seconds[i] as number) - expected)).toBeLessThan(2));
});

test('runs that the generator spoils do not count as met, and the result says who limited it', async () => {
  const { qps, limitedBy } = await search({ repeats: 1, durationMs: 500, fewestRequests: 10 }, (time) => {
    time.oversleepMs = 2;
  });
  expect([qps, limitedBy]).toEqual([null, 'generator']);
});

test('the search ends with its signal and keeps what it has', async () => {
  const ended = new AbortController();
  const { qps, limitedBy, probes } = await search({
    ...{ signal: ended.signal, repeats: 1, durationMs: 500, onProbe: ({ qps: rate }) => rate > 100 && ended.abort() },
  });
  expect(probes.map((probe) => probe.qps)).toEqual([40, 80, 160]);
  expect([qps, limitedBy]).toEqual([160, 'search']);
});

test('the highest rate that a threshold lets through is found from either side', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.double({ min: 1, max: 50_000, noNaN: true }),
      fc.double({ min: 1, max: 50_000, noNaN: true }),
      async (limit, first) => {
        let calls = 0;
        const meets = async (qps: number): Promise<boolean> => ++calls > 0 && qps <= limit;
        const { best, ended } = await searchHighest(meets, first, 0.05);
        expect(ended).toBe(true);
        expect(best).toBeLessThanOrEqual(limit);
        expect(best).toBeGreaterThanOrEqual(limit / 1.05);
        expect(calls).toBeLessThan(25);
      },
    ),
  );
});
