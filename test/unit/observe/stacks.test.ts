import fc from 'fast-check';
import { expect, test } from 'vitest';
import { stacksAtQuantile } from '../../../src/observe/quantile-stacks.js';
import { computeStack, embeddedStack, latencyStack, serviceTime } from '../../../src/observe/stacks.js';
import type { TracedRequest } from '../../../src/observe/traced-request.js';
import { anyRequest, stagesOf } from './random-requests.js';

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

const EMPTY: TracedRequest = {
  ...{ number: 1, items: 4, startUs: 0, endUs: 1000, error: null, complete: true, alone: true, mainCpuUs: 0 },
  ...{ phases: [], jobs: [], rpcs: [], collections: [] },
};
const at = { batch: 0, round: 0 };

/** One request by hand: two shards, the bottom layers while the RPCs travel, a collection, and a loop that was busy for a while. */
const byHand: TracedRequest = {
  ...EMPTY,
  mainCpuUs: 400,
  phases: [
    { ...at, kind: 'admission', startUs: 0, endUs: 10 },
    { ...at, kind: 'check', startUs: 10, endUs: 30 },
    { ...at, kind: 'partition', startUs: 30, endUs: 100 },
    { ...at, kind: 'place', startUs: 720, endUs: 750 },
    { ...at, kind: 'finish', startUs: 985, endUs: 995 },
  ],
  rpcs: [
    {
      ...{ ...at, shard: 'a', startUs: 100, serializedUs: 120, sentUs: 130, receivedUs: 500, endUs: 510 },
      ...{ idleUs: 200, idleSentUs: 5000, idleReceivedUs: 5200, stages: stagesOf(10, 5, 20, 100, 15, 30, 90) },
    },
    {
      ...{ ...at, shard: 'b', startUs: 130, serializedUs: 160, sentUs: 170, receivedUs: 700, endUs: 715 },
      ...{ idleUs: 360, idleSentUs: 5000, idleReceivedUs: 5360, stages: stagesOf(12, 6, 22, 200, 18, 32, 190) },
    },
  ],
  jobs: [
    { ...at, kind: 'dense', startUs: 170, endUs: 230, queuedUs: 5, ranUs: 50, cpuUs: 48, interactionShare: 0, onThread: false },
    { ...at, kind: 'dense', startUs: 750, endUs: 980, queuedUs: 20, ranUs: 200, cpuUs: 180, interactionShare: 0.25, onThread: true },
  ],
  collections: [{ startUs: 300, endUs: 340 }],
};

test('a request by hand has the latency stack that was worked out on paper', () => {
  const { totalUs, layers } = latencyStack(byHand);
  expect(totalUs).toBe(1000);
  // Waiting: 130 to 700 without the second encoding and sending (40), the bottom layers (50; their hops lie within the wait), the collection
  // (40) and the first answer's decoding (10). Of these 430 the loop slept 360.
  const interaction = 250 * (50 / 250);
  expect(layers).toEqual({
    dense: 250 - interaction,
    interaction,
    embedded: expect.closeTo(360, 9),
    serialization: 20 + 30 + 10 + 15,
    service: 10 + 10 + 30,
    overhead: 100 + 5 + 5 + 10,
    collection: 40,
    eventLoop: expect.closeTo(70 + 20 + 10, 9),
    unattributed: 5,
  });
});

test('a request by hand has the embedded-portion stack of the shard that answered last', () => {
  const { bounding, totalUs, layers } = embeddedStack(byHand);
  expect(bounding).toEqual(['b']);
  expect(totalUs).toBe(715 - 130);
  expect(serviceTime(byHand.rpcs[1]!)).toBe(290);
  expect(layers).toEqual({
    // 530 between sent and received, without the service, the collection and the busy loop.
    network: expect.closeTo(530 - 290 - 40 - 70, 9),
    sparse: 200,
    serialization: 30 + 15 + 12 + 32,
    queueing: 22 + 18,
    overhead: 10 + 6,
    collection: 40,
    eventLoop: expect.closeTo(70, 9),
  });
});

test('a request by hand has the compute stack of main and both shards', () => {
  const { totalUs, layers } = computeStack(byHand);
  // Steps of the main thread: 75 of serialization, 50 of service, 110 of overhead; 400 of CPU, 48 of them in the layers that did not hop.
  expect(layers).toEqual({
    dense: 48 + 180 * 0.75,
    interaction: 180 * 0.25,
    sparse: 90 + 190,
    serialization: 75 + 10 + 30 + 12 + 32,
    service: 50 + 5 + 6,
    overhead: 110,
    other: 400 - 48 - 235,
  });
  expect(totalUs).toBeCloseTo(400 + 180 + 280 + 95, 9);
});

test('steps of a main thread that was interrupted are cut to its CPU time, and those of requests side by side are not', () => {
  const interrupted = computeStack({ ...byHand, mainCpuUs: 48 + 47 }).layers;
  expect(interrupted).toMatchObject({ overhead: 110 / 5, other: 0 });
  expect(computeStack({ ...byHand, alone: false, mainCpuUs: 95 }).layers).toMatchObject({ overhead: 110, other: 0 });
});

/** The latency stack moment by moment: whoever comes first in the list of precedence has it. Shares no code with src/. */
function sampledShares(request: TracedRequest, moment: number): string {
  const has = (from: number, to: number): boolean => from <= moment && moment < to;
  const { phases, jobs, rpcs, collections } = request;
  const dense = jobs.filter((job) => job.kind === 'dense');
  if (dense.some((job) => has(job.startUs + job.queuedUs, Math.min(job.endUs, job.startUs + job.queuedUs + job.ranUs)))) return 'layers';
  if (collections.some((pause) => has(pause.startUs, pause.endUs))) return 'collection';
  for (const rpc of rpcs) {
    if (has(rpc.startUs, rpc.serializedUs ?? rpc.endUs)) return 'serialization';
    if (rpc.receivedUs !== null && has(rpc.receivedUs, rpc.endUs)) return 'serialization';
  }
  const placing = phases.some((phase) => phase.kind === 'place' && has(phase.startUs, phase.endUs));
  if (placing || rpcs.some((rpc) => rpc.serializedUs !== null && has(rpc.serializedUs, rpc.sentUs ?? rpc.serializedUs))) return 'service';
  return 'rest';
}

test('whatever the record, layers are never negative, add up to the request, and agree with samples of its moments', () => {
  fc.assert(
    fc.property(anyRequest, (request) => {
      const { totalUs, layers } = latencyStack(request);
      expect(totalUs).toBe(request.endUs - request.startUs);
      expect(Math.min(...Object.values(layers))).toBeGreaterThanOrEqual(-1e-9);
      expect(sum(Object.values(layers))).toBeCloseTo(totalUs, 6);
      // A sample a microsecond is off by at most one for every edge.
      const counts: Record<string, number> = {};
      for (let moment = 0.5; moment < totalUs; moment++) {
        const share = sampledShares(request, request.startUs + moment);
        counts[share] = (counts[share] ?? 0) + 1;
      }
      const edges = 2 * (request.phases.length + 3 * request.jobs.length + 4 * request.rpcs.length + request.collections.length);
      for (const layer of ['collection', 'serialization', 'service'] as const)
        expect(Math.abs((counts[layer] ?? 0) - layers[layer])).toBeLessThanOrEqual(edges);
      expect(Math.abs((counts['layers'] ?? 0) - layers.dense - layers.interaction)).toBeLessThanOrEqual(edges);
    }),
    { numRuns: 200 },
  );
});

test('whatever the record, the embedded-portion stack adds up to the bounding RPCs, and the compute stack to at least the CPU time of the jobs', () => {
  fc.assert(
    fc.property(anyRequest, (request) => {
      const embedded = embeddedStack(request);
      expect(Math.min(...Object.values(embedded.layers))).toBeGreaterThanOrEqual(-1e-9);
      expect(sum(Object.values(embedded.layers))).toBeCloseTo(embedded.totalUs, 6);
      const compute = computeStack(request);
      expect(Math.min(...Object.values(compute.layers))).toBeGreaterThanOrEqual(-1e-9);
      const jobs = sum(request.jobs.map(({ cpuUs }) => cpuUs)) + sum(request.rpcs.map(({ stages }) => stages?.poolCpuUs ?? 0));
      expect(compute.totalUs).toBeGreaterThanOrEqual(jobs - 1e-6);
    }),
    { numRuns: 1000 },
  );
});

test('a service that is longer than its RPC leaves no network, and is cut to it', () => {
  const rpc = { ...byHand.rpcs[1]!, stages: stagesOf(0, 0, 0, 1080, 0, 0, 0) };
  // 540 between the encoded message and its answer.
  expect(embeddedStack({ ...byHand, rpcs: [rpc] }).layers).toMatchObject({ network: 0, sparse: 540, overhead: 0, eventLoop: 0 });
});

test('a shard that serves while the call of send still runs keeps its stages, and what of the call lies within them is not counted twice', () => {
  const sendUs = (us: number) => ({ ...byHand.rpcs[1]!, sentUs: 160 + us, idleSentUs: 5360 });
  // 540 between the encoded message and its answer, 290 of them the service.
  const layersOf = (us: number) => embeddedStack({ ...byHand, collections: [], rpcs: [sendUs(us)] }).layers;
  expect(layersOf(200)).toMatchObject({ sparse: 200, overhead: 200 + 6, queueing: 40 });
  expect(layersOf(300)).toMatchObject({ sparse: 200, overhead: 250 + 6, queueing: 40, network: 0 });
  expect(layersOf(540)).toMatchObject({ sparse: 200, overhead: 250 + 6, queueing: 40, network: 0 });
});

test("when main's own tables take longest, they bound the round", () => {
  const own = {
    ...at,
    kind: 'pool',
    startUs: 170,
    endUs: 718,
    queuedUs: 100,
    ranUs: 400,
    cpuUs: 390,
    interactionShare: 0,
    onThread: true,
  } as const;
  expect(embeddedStack({ ...byHand, jobs: [...byHand.jobs, own] })).toMatchObject({
    bounding: ['main'],
    totalUs: 548,
    layers: { sparse: 400, queueing: 148, network: 0 },
  });
});

test('the stack at a quantile is the mean of the requests around it, and passes over what failed or was cut', () => {
  const requests = Array.from({ length: 200 }, (_, n) => ({ ...EMPTY, number: n, endUs: (n + 1) * 10 }));
  const spoiled = [
    { ...EMPTY, endUs: 1e9, error: 'deadline_exceeded' },
    { ...EMPTY, endUs: 1e9, complete: false },
  ];
  const shuffled = [...requests.slice(77), ...spoiled, ...requests.slice(0, 77)];
  // Rank 100 and two on either side.
  expect(stacksAtQuantile(shuffled, 0.5)).toMatchObject({ requests: 5, latency: { totalUs: 1000, layers: { unattributed: 1000 } } });
  // Rank 198, two below, and the two above.
  expect(stacksAtQuantile(shuffled, 0.99)).toMatchObject({ requests: 5, latency: { totalUs: 1980 } });
  expect(stacksAtQuantile(shuffled, 1)).toMatchObject({ requests: 3, latency: { totalUs: 1990 } });
  expect(stacksAtQuantile(shuffled.slice(0, 1), 0.5)).toMatchObject({ requests: 1, latency: { totalUs: 780 } });
  expect(() => stacksAtQuantile(spoiled, 0.5)).toThrow(/no traced request was answered/);
});

test('shards are counted by name, also those that are named as properties that every object inherits', () => {
  const bounded = ['constructor', '__proto__', 'constructor'].map((shard) => ({ ...byHand, rpcs: [{ ...byHand.rpcs[1]!, shard }] }));
  const { bounding } = stacksAtQuantile(bounded, 0.5, 3);
  expect(Object.entries(bounding).sort()).toEqual([
    ['__proto__', 1],
    ['constructor', 2],
  ]);
});
