import { rm } from 'node:fs/promises';
import { trace } from '@opentelemetry/api';
import {
  AlwaysOnSampler,
  InMemorySpanExporter,
  NodeTracerProvider,
  ParentBasedSampler,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-node';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import {
  type Cluster,
  connect,
  launchCluster,
  openLocal,
  type Predictor,
  readModelSpec,
  type ServingServer,
  serve,
} from '../../../src/index.js';
import { inferBody, tensorsOf } from '../../reference/infer-body.js';
import { capacityPlan } from '../../reference/plans.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';

const exporter = new InMemorySpanExporter();
const provider = new NodeTracerProvider({
  sampler: new ParentBasedSampler({ root: new AlwaysOnSampler() }),
  spanProcessors: [new SimpleSpanProcessor(exporter)],
});
let model: SmallModel;
let cluster: Cluster;
let predictor: Predictor;
let server: ServingServer;
beforeAll(async () => {
  // What a user's --import does.
  provider.register();
  model = await writeSmallModel(12);
  cluster = await launchCluster(capacityPlan(await readModelSpec(model.dir), 2), {
    bundle: model.dir,
    ephemeralPorts: true,
    logLevel: 'error',
  });
  predictor = await connect(cluster.plan, { bundle: model.dir, deadlineMs: 10_000 });
  server = await serve(predictor, { http: '127.0.0.1:0' });
});
afterAll(async () => {
  await server.close();
  await predictor.close();
  await cluster.stop();
  await provider.shutdown();
  trace.disable();
  await rm(model.dir, { recursive: true });
});
beforeEach(() => exporter.reset());

const body = inferBody(tensorsOf(smallRequest(random(1_234_567), 4), { dense: DENSE }), () => true);
const infer = (headers: Record<string, string> = {}, path = '/v2/models/model/infer'): Promise<Response> =>
  fetch(server.url + path, { method: 'POST', body: body.body, headers: { ...body.headers, ...headers } });

const startMs = ({ startTime: [s, ns] }: ReadableSpan): number => s * 1000 + ns / 1e6;
const endMs = ({ endTime: [s, ns] }: ReadableSpan): number => s * 1000 + ns / 1e6;
const parentOf = (span: ReadableSpan): ReadableSpan | undefined =>
  exporter.getFinishedSpans().find((other) => other.spanContext().spanId === span.parentSpanContext?.spanId);

test('a request is a child of its client, and has predict, its stages and each RPC with what the shard did below it, in time', async () => {
  const [traceId, parentId] = ['0af7651916cd43dd8448eb211c80319c', 'b7ad6b7169203331'];
  const before = Date.now();
  const response = await infer({ traceparent: `00-${traceId}-${parentId}-01` });
  const spans = exporter.getFinishedSpans();
  const root = spans.find(({ name }) => name === 'terabag request') as ReadableSpan;
  expect(root.parentSpanContext?.spanId).toBe(parentId);
  expect(root.attributes).toMatchObject({
    'terabag.model': 'model',
    'terabag.code': 'ok',
    'terabag.items': 4,
    'network.protocol.name': 'http',
  });
  expect(response.headers.get('traceresponse')).toBe(`00-${traceId}-${root.spanContext().spanId}-01`);
  expect(startMs(root)).toBeGreaterThan(before - 100);
  for (const span of spans) {
    expect(span.spanContext().traceId).toBe(traceId);
    if (span === root) continue;
    const parent = parentOf(span) as ReadableSpan;
    expect([span.name, startMs(span) >= startMs(parent) - 0.01, endMs(span) <= endMs(parent) + 0.01]).toEqual([span.name, true, true]);
  }
  const below = (name: string): string[] => spans.filter((span) => parentOf(span)?.name === name).map((span) => span.name);
  expect(below('terabag request')).toEqual(['predict']);
  expect(below('predict')).toEqual(expect.arrayContaining(['check', 'partition', 'finish', 'dense', 'shard shard-0', 'shard shard-1']));
  expect(below('shard shard-1')).toEqual(expect.arrayContaining(['shard-1 pool', 'shard-1 queue']));
});

test('what the client does not want sampled makes no span, and a failure is one with its code', async () => {
  const response = await infer({ traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00' });
  expect([response.status, response.headers.get('traceresponse')]).toEqual([200, null]);
  expect(exporter.getFinishedSpans()).toEqual([]);
  expect((await infer({}, '/v2/models/other/infer')).status).toBe(404);
  const bad = inferBody([], () => true);
  await fetch(`${server.url}/v2/models/model/infer`, { method: 'POST', body: bad.body, headers: bad.headers });
  expect(exporter.getFinishedSpans().map(({ name, attributes }) => [name, attributes['terabag.code']])).toEqual([
    ['terabag request', 'invalid_argument'],
  ]);
});

test('requests side by side have spans of their own, of a local predictor too', async () => {
  const local = await openLocal(model.dir);
  const other = await serve(local, { http: '127.0.0.1:0' });
  const ask = (): Promise<Response> =>
    fetch(`${other.url}/v2/models/model/infer`, { method: 'POST', body: body.body, headers: body.headers });
  const answers = await Promise.all(Array.from({ length: 8 }, ask));
  expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(200));
  const spans = exporter.getFinishedSpans();
  expect(spans.filter(({ name }) => name === 'predict')).toHaveLength(8);
  expect(new Set(spans.map((span) => span.spanContext().traceId)).size).toBe(8);
  await other.close();
  await local.close();
});
