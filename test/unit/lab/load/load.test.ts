import { expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import {
  answeredQps,
  collectRequests,
  cpuMsPerRequest,
  failures,
  latencyAt,
  mergeRuns,
  runAsJson,
} from '../../../../src/lab/load/load-run.js';
import { type OpenLoopOptions, runOpenLoopLoad } from '../../../../src/lab/load/open-loop-load.js';
import { LoopPacer, type Pacer } from '../../../../src/lab/load/pacer.js';
import { runSerialLoad } from '../../../../src/lab/load/serial-load.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest } from '../../../../src/predictor/predictor.js';
import { QueueingServer, VirtualTime } from '../../../reference/virtual-time.js';

const requests: PredictRequest[] = [{ items: 1, dense: {}, sparse: {} }];
/** Among a thousand requests of 1 ms, one that takes 200. */
const STALLED_AT = 600;
const stalling = (n: number): number => (n === STALLED_AT ? 200 : 1);

const open = (time: VirtualTime, predictor: Predictor, options: Partial<OpenLoopOptions> = {}) =>
  runOpenLoopLoad({
    ...{ predictor, requests, warmUpMs: 200, durationMs: 2000, pacer: time },
    arrivals: { process: 'constant', qps: 500, seed: 1 },
    ...options,
  });

test('a stall that serial load hides from P99 shows in latencies from the intended send time', async () => {
  const serialTime = new VirtualTime();
  const predictor = new QueueingServer({ time: serialTime, serviceMs: stalling });
  const serial = await runSerialLoad({ predictor, requests, warmUpMs: 200, durationMs: 2000, clock: serialTime });
  expect(serial.latency.count).toBeGreaterThan(1500);
  expect(serial.latency.quantile(0.99)).toBeLessThan(1.01);
  expect(serial.latency.quantile(1)).toBeGreaterThan(200);

  const time = new VirtualTime();
  // One connection that waits for its answer, as closed-loop generators have: only their way of counting hides the stall.
  const run = await open(time, new QueueingServer({ time, serviceMs: stalling }), { maxInFlight: 1 });
  expect(run.fromSend.quantile(0.99)).toBeLessThan(1.01);
  // 2 ms between requests, 1 ms of work: the queue of 200 ms shrinks by 1 ms per request, and 1000 requests are measured.
  const exact = Array.from({ length: 1000 }, (_, n) => Math.max(1, n < 200 ? 200 - n : 1)).sort((a, b) => a - b);
  expect((run.latency.quantile(0.99) as number) / (exact[989] as number)).toBeCloseTo(1, 2);
  expect(run.invalid).toEqual([]);

  const unbounded = new VirtualTime();
  const many = await open(unbounded, new QueueingServer({ time: unbounded, serviceMs: stalling }));
  expect(many.latency.quantile(0.99)).toBeCloseTo(run.latency.quantile(0.99) as number, 6);
});

test('a predictor that blocks the event loop makes its requests late, not the run invalid', async () => {
  const time = new VirtualTime();
  const server = new QueueingServer({ time, serviceMs: () => 0.1 });
  const predictor: Predictor = Object.assign(Object.create(server) as Predictor, {
    predict: (request: PredictRequest, options: PredictOptions): Promise<Prediction> => {
      if (server.requests === STALLED_AT) time.block(200);
      return server.predict(request, options);
    },
  });
  const run = await open(time, predictor);
  expect(run.invalid).toEqual([]);
  expect(run.latency.quantile(0.99)).toBeGreaterThan(170);
  // The hundred that are sent at once afterwards wait for each other, 0.1 ms each.
  expect(run.fromSend.quantile(0.99)).toBeLessThan(11);
  expect(run.lag.quantile(1)).toBeGreaterThan(190);
});

test('a run whose generator oversleeps is invalid, and says so', async () => {
  const time = new VirtualTime();
  time.oversleepMs = 3;
  const run = await open(time, new QueueingServer({ time, serviceMs: () => 1 }));
  expect(run.invalid).toEqual([expect.stringMatching(/generator was late by itself: \d+ of \d+ sends by more than 1 ms/)]);
  expect(mergeRuns([run, { ...run, invalid: [] }]).invalid).toEqual([expect.stringMatching(/^repeat 1: /)]);
});

test('a generator that oversleeps in the middle of a long wait is late too', async () => {
  const time = new VirtualTime();
  // 120 ms between requests are waited for in two pieces, the first of which ends 40 ms too late.
  const arrivals = { process: 'constant', qps: 1000 / 120, seed: 1 } as const;
  const pacer: Pacer = {
    now: () => time.now(),
    until: async (at) => {
      const lateMs = at - time.now() < 100 ? 0 : 60;
      await time.at(Math.max(at, time.now()) + lateMs);
      return lateMs;
    },
    waitingCpuUs: () => 0,
  };
  const run = await open(time, new QueueingServer({ time, serviceMs: () => 1 }), { arrivals, pacer });
  expect(run.invalid).toEqual([expect.stringMatching(/generator was late by itself/)]);
});

test('warm-up counts for nothing, the rest all: latencies, and errors by code', async () => {
  const time = new VirtualTime();
  const server = new QueueingServer({ time, serviceMs: () => 1 });
  const predictor: Predictor = Object.assign(Object.create(server) as Predictor, {
    predict: async (request: PredictRequest, options: PredictOptions): Promise<Prediction> => {
      const n = server.requests;
      const answer = await server.predict(request, options);
      if (n % 10 === 3) throw new TerabagError('shard_unavailable', 'away');
      if (n % 100 === 7) throw new Error('of no kind that is known');
      return answer;
    },
  });
  const run = await open(time, predictor);
  expect(server.requests).toBe(1099);
  // Requests 99 to 1098: sent at 200 ms, 202 ms, ...
  expect(run.errors).toEqual({ shard_unavailable: 100, internal: 10 });
  expect([run.latency.count, run.measuredMs]).toEqual([890, 2000]);
  expect(latencyAt(run, 0.5)).toBeCloseTo(1, 2);
  // 11 % failed: they are slower than all others.
  expect(latencyAt(run, 0.89)).toBeCloseTo(1, 2);
  expect(latencyAt(run, 0.9)).toBe(Number.POSITIVE_INFINITY);
  const twice = mergeRuns([run, run]);
  expect([twice.latency.count, failures(twice), twice.measuredMs, twice.offeredQps]).toEqual([1780, 220, 4000, 500]);
  expect(JSON.parse(JSON.stringify(runAsJson(twice)))).toMatchObject({
    answered: 1780,
    answeredQps: 445,
    errors: { shard_unavailable: 200, internal: 20 },
  });
});

test('a server that is asked for more than it can do has answered no more a second than it can', async () => {
  const time = new VirtualTime();
  // 100 a second of the 500 that are meant; the last of 1000 is answered long after the last was sent.
  const run = await open(time, new QueueingServer({ time, serviceMs: () => 10 }), { warmUpMs: 0, deadlineMs: 60_000 });
  expect(run.latency.count).toBe(999);
  expect(answeredQps(run)).toBeCloseTo(100, 0);
});

test('no more requests than allowed are in flight, and one held beyond its deadline fails unsent', async () => {
  const time = new VirtualTime();
  let most = 0;
  let inFlight = 0;
  const deadlines: number[] = [];
  const slow: Predictor = Object.assign(Object.create(new QueueingServer({ time, serviceMs: () => 0 })) as Predictor, {
    predict: async (_: PredictRequest, { deadlineMs = 0 }: PredictOptions) => {
      deadlines.push(deadlineMs);
      most = Math.max(most, ++inFlight);
      await time.at(time.now() + 20);
      inFlight--;
      return { scores: new Float32Array(0), items: 0, scoreDim: 1, modelHash: '' };
    },
  });
  // 3 at a time, 20 ms each: 150 of the 500 a second.
  const run = await open(time, slow, { maxInFlight: 3, deadlineMs: 100 });
  expect(most).toBe(3);
  expect(run.latency.count + failures(run)).toBe(1000);
  expect(run.latency.count).toBeGreaterThan(280);
  expect(run.errors).toEqual({ deadline_exceeded: 1000 - run.latency.count });
  // What was held has that much less left.
  expect(Math.min(...deadlines)).toBeLessThan(20);
  expect(run.latency.quantile(1)).toBeLessThan(120.2);
});

test('a signal ends the run; what was measured stays, and what fails because of it is no failure', async () => {
  const time = new VirtualTime();
  const ended = new AbortController();
  const server = new QueueingServer({ time, serviceMs: () => 50 });
  void time.at(1201).then(() => ended.abort());
  const run = await open(time, server, { signal: ended.signal, deadlineMs: 100, arrivals: { process: 'constant', qps: 10, seed: 1 } });
  expect(server.requests).toBeLessThan(13);
  expect(run.latency.count).toBeGreaterThan(8);
  expect(run.errors).toEqual({});
  expect(run.measuredMs).toBeLessThan(1200);
});

test('serial load sends one at a time and takes failures as they come', async () => {
  const time = new VirtualTime();
  let inFlight = 0;
  const server = new QueueingServer({ time, serviceMs: (n) => 1 + (n % 2) });
  const predictor: Predictor = Object.assign(Object.create(server) as Predictor, {
    predict: async (request: PredictRequest, options: PredictOptions) => {
      expect(++inFlight).toBe(1);
      const answer = await server.predict(request, options).finally(() => inFlight--);
      if (server.requests % 4 === 0) throw new TerabagError('overloaded', 'too many');
      return answer;
    },
  });
  const run = await runSerialLoad({ predictor, requests, warmUpMs: 60, durationMs: 600, clock: time });
  expect(run.measuredMs).toBeCloseTo(600, -1);
  expect(failures(run)).toBe(100);
  expect(run.latency.count).toBe(300);
  expect(run.errors).toEqual({ overloaded: 100 });
});

test('CPU per request takes the waiting of the generator out, and the shards in', async () => {
  const time = new VirtualTime();
  let asked = 0;
  const shardCpu = async (): Promise<number> => 5_000_000 * ++asked;
  const run = await open(time, new QueueingServer({ time, serviceMs: () => 1 }), { shardCpu });
  expect(run.cost.shardCpuUs).toBe(5_000_000);
  expect(cpuMsPerRequest({ ...run, cost: { ...run.cost, mainCpuUs: 3_000_000 }, waitingCpuUs: 1_000_000 })).toEqual({ main: 2, shards: 5 });
  const away = await open(new VirtualTime(), new QueueingServer({ time, serviceMs: () => 1 }), {
    pacer: time,
    shardCpu: () => Promise.reject(new TerabagError('shard_unavailable', 'away')),
  });
  expect(away.cost.shardCpuUs).toBeNull();
});

test('requests are taken from iterables of both kinds, not more than wanted, and there has to be one', async () => {
  async function* endless(): AsyncGenerator<PredictRequest> {
    for (;;) yield requests[0] as PredictRequest;
  }
  expect(await collectRequests(endless(), 7)).toHaveLength(7);
  expect(await collectRequests(requests, 7)).toEqual(requests);
  await expect(collectRequests([])).rejects.toThrow(/at least one request/);
});

test('the pacer is never early, handles what comes meanwhile, and does not take the blame for a blocked loop', async () => {
  const pacer = new LoopPacer();
  for (const ms of [0, 0.2, 1, 2.7, 6]) {
    const at = pacer.now() + ms;
    await pacer.until(at);
    expect(pacer.now()).toBeGreaterThanOrEqual(at);
  }
  expect(pacer.waitingCpuUs()).toBeGreaterThan(0);
  const at = pacer.now() + 20;
  let blocked = false;
  setTimeout(() => {
    const until = performance.now() + 60;
    while (performance.now() < until);
    blocked = true;
  }, 5);
  const idleLateMs = await pacer.until(at);
  expect(blocked).toBe(true);
  expect(pacer.now() - at).toBeGreaterThan(40);
  expect(idleLateMs).toBeLessThan(20);
});
