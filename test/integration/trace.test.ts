import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type Cluster,
  type ConnectOptions,
  chromeTrace,
  connect,
  latencyStack,
  launchCluster,
  openLocal,
  type Predictor,
  stacksAtQuantile,
  type TracedRequest,
  Tracer,
  writePlan,
} from '../../src/index.js';
import { demoShape } from '../../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../../src/lab/generate/request-generator.js';
import { requestShape } from '../../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../../src/lab/generate/synthetic-bundle.js';
import { embeddedStack, remotePart, serviceTime } from '../../src/observe/stacks.js';
import { capacityPlan } from '../reference/plans.js';
import { expectValidTrace } from '../unit/observe/valid-trace.js';

const shape = demoShape(2 ** 22);
const ITEMS = 256;
let dir: string;
let bundle: string;
let cluster: Cluster;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-trace-'));
  bundle = join(dir, 'model');
  const spec = await writeSyntheticBundle(bundle, shape);
  cluster = await launchCluster(capacityPlan(spec, 3), { bundle, ephemeralPorts: true });
});
afterAll(async () => {
  await cluster.stop();
  await rm(dir, { recursive: true });
});

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** Serial requests, timed from outside. */
async function trace(predictor: Predictor, tracer: Tracer, count: number): Promise<{ requests: TracedRequest[]; outsideUs: number[] }> {
  const generator = new RequestGenerator(requestShape(shape), 3);
  const outsideUs: number[] = [];
  for (let n = 0; n < count; n++) {
    const request = generator.next(ITEMS);
    const startedAt = performance.now();
    await predictor.predict(request, { deadlineMs: 30_000 });
    outsideUs.push((performance.now() - startedAt) * 1000);
  }
  await new Promise((resolve) => setImmediate(resolve));
  const requests = tracer.requests();
  tracer.enabled = false;
  await predictor.close();
  return { requests, outsideUs };
}

const sharded = (tracer: Tracer, options: Partial<ConnectOptions>): Promise<Predictor> =>
  connect(cluster.plan, { deadlineMs: 10_000, bundle, trace: tracer, ...options });

test.each<[string, (tracer: Tracer) => Promise<Predictor>, number]>([
  ['local', (tracer) => openLocal(bundle, { deadlineMs: 10_000, trace: tracer }), 0],
  ['coalesced', (tracer) => sharded(tracer, {}), 3],
  ['paper', (tracer) => sharded(tracer, { rpc: 'paper', batchItems: 64 }), 12],
])('stages of requests, %s: they add up to what was measured outside, and little is unattributed', async (_, open, rpcs) => {
  const tracer = new Tracer({ spans: 128, cpu: true });
  const { requests, outsideUs } = await trace(await open(tracer), tracer, 60);
  expect(requests.length).toBe(60);
  const differences: number[] = [];
  for (const [n, request] of requests.entries()) {
    expect(request).toMatchObject({ error: null, complete: true, alone: true, items: ITEMS });
    expect(request.rpcs.length).toBe(rpcs);
    expect(request.mainCpuUs).toBeGreaterThan(0);
    const { layers } = latencyStack(request);
    const outside = outsideUs[n] as number;
    differences.push(Math.abs(sum(Object.values(layers)) / outside - 1));
    expect(sum(Object.values(layers))).toBeLessThanOrEqual(outside);
    for (const rpc of request.rpcs) {
      const { startUs, serializedUs, sentUs, receivedUs, endUs } = rpc;
      const stamps = [request.startUs, startUs, serializedUs, sentUs, receivedUs, endUs, request.endUs] as number[];
      expect(stamps).toEqual([...stamps].sort((a, b) => a - b));
      expect(rpc.stages?.poolUs).toBeGreaterThan(0);
      expect(rpc.stages?.poolCpuUs).toBeGreaterThan(0);
      expect(rpc.stages?.serializeUs).toBeGreaterThan(0);
      // The service lies within the RPC, whose clock ticks alike: nothing is cut.
      expect(serviceTime(rpc)).toBeLessThan((receivedUs as number) - (serializedUs as number));
      const { sendingUs, wayUs, scale } = remotePart(rpc);
      expect(scale).toBe(1);
      expect(sendingUs + wayUs + serviceTime(rpc)).toBeCloseTo((receivedUs as number) - (serializedUs as number), 6);
    }
    const embedded = embeddedStack(request);
    expect(sum(Object.values(embedded.layers))).toBeCloseTo(embedded.totalUs, 3);
  }
  // The kernel may stop a process between the two clocks: the median tells.
  expect(differences.sort((a, b) => a - b)[30]).toBeLessThan(0.01);
  const { latency, compute } = stacksAtQuantile(requests, 0.5, 0.2);
  expect(latency.layers.unattributed / latency.totalUs).toBeLessThan(0.05);
  expect(latency.layers.dense).toBeGreaterThan(0);
  expect(latency.layers.interaction).toBeGreaterThan(0);
  // A single request may have spent all of it while other batches were computed.
  expect(sum(requests.map((request) => latencyStack(request).layers.embedded))).toBeGreaterThan(0);
  expect(compute.layers.sparse).toBeGreaterThan(0);
  expectValidTrace(JSON.parse(JSON.stringify(chromeTrace(requests))));
});

test('requests side by side keep their stamps apart, and their trace nests', async () => {
  const tracer = new Tracer({ spans: 128 });
  const predictor = await sharded(tracer, { rpc: 'paper', batchItems: 16 });
  const generator = new RequestGenerator(requestShape(shape), 4);
  await Promise.all(Array.from({ length: 12 }, (_, n) => predictor.predict(generator.next(n * 5 + 1), { deadlineMs: 30_000 })));
  const requests = tracer.requests();
  expect(requests.map(({ items }) => items)).toEqual(Array.from({ length: 12 }, (_, n) => n * 5 + 1));
  for (const { items, rpcs, alone } of requests) {
    expect(rpcs.length).toBe(3 * Math.ceil(items / 16));
    expect(alone).toBe(false);
  }
  for (const request of requests) {
    const { totalUs, layers } = latencyStack(request);
    expect(sum(Object.values(layers))).toBeCloseTo(totalUs, 3);
  }
  expectValidTrace(JSON.parse(JSON.stringify(chromeTrace(requests))));
  tracer.enabled = false;
  await predictor.close();
});

test('a request that a shard refuses, and one whose shard is away, leave closed records with RPCs that were not answered', async () => {
  const spec = await writeSyntheticBundle(join(dir, 'own'), shape);
  const own = await launchCluster(capacityPlan(spec, 2), {
    bundle: join(dir, 'own'),
    ephemeralPorts: true,
  });
  const tracer = new Tracer();
  const predictor = await connect(own.plan, { deadlineMs: 10_000, bundle: join(dir, 'own'), trace: tracer });
  const good = new RequestGenerator(requestShape(shape), 5).next(4);
  const [name = '', bags] = Object.entries(good.sparse)[0] ?? [];
  const indices = Int32Array.from(bags?.indices as Int32Array);
  indices[0] = 2 ** 30;
  const bad = { ...good, sparse: { ...good.sparse, [name]: { ...bags, indices } } } as typeof good;
  await expect(predictor.predict(bad)).rejects.toMatchObject({ code: 'index_out_of_range' });
  await own.stop();
  await expect(predictor.predict(good, { deadlineMs: 300 })).rejects.toMatchObject({ code: 'shard_unavailable' });
  const requests = tracer.requests();
  expect(requests.map(({ error }) => error)).toEqual(['index_out_of_range', 'shard_unavailable']);
  for (const request of requests) {
    expect(request.rpcs.some(({ receivedUs, stages }) => receivedUs === null && stages === null)).toBe(true);
    const { totalUs, layers } = latencyStack(request);
    expect(sum(Object.values(layers))).toBeCloseTo(totalUs, 3);
  }
  expectValidTrace(JSON.parse(JSON.stringify(chromeTrace(requests))));
  tracer.enabled = false;
  await predictor.close();
});

test('predict --trace writes a trace of its requests, local and over shards', async () => {
  const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
  const generator = new RequestGenerator(requestShape(shape), 6);
  const plain = (_key: string, value: unknown): unknown => (ArrayBuffer.isView(value) ? Array.from(value as Float32Array) : value);
  const lines = Array.from({ length: 9 }, (_, n) => `${JSON.stringify(generator.next(n + 1), plain)}\n`);
  await writeFile(join(dir, 'requests.jsonl'), lines.join(''));
  await writePlan(join(dir, 'plan.json'), cluster.plan);
  for (const where of [[], ['--plan', 'plan.json']]) {
    const args = ['predict', 'requests.jsonl', '--bundle', 'model', '-o', 'scores.jsonl', '--trace', 'trace.json', ...where];
    const { status, stderr } = spawnSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
    const trace = JSON.parse(await readFile(join(dir, 'trace.json'), 'utf8'));
    expectValidTrace(trace);
    const spans = trace.traceEvents.filter(({ cat }: { cat?: string }) => cat === 'request');
    expect(spans.map(({ args: { items } }: { args: { items: number } }) => items)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const pools = trace.traceEvents.filter(({ name }: { name: string }) => name === 'shard: pool');
    expect(pools.length).toBe(where.length === 0 ? 0 : 27);
  }
});
