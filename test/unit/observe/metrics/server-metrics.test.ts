import { expect, test } from 'vitest';
import { BatchMeter } from '../../../../src/observe/batch-meter.js';
import { type EndedRequest, ServerMetrics } from '../../../../src/observe/metrics/server-metrics.js';
import { PredictorMeter } from '../../../../src/observe/predictor-meter.js';
import { meteredShards, seriesOf, typesOf } from '../../../reference/metered.js';
import { hasPromtool, promtool } from '../../../reference/promtool.js';

const ended = (given: Partial<EndedRequest>): EndedRequest => ({
  ...{ model: 'ranker', version: '1', protocol: 'http', code: 'ok', ms: 3, items: 64 },
  ...given,
});

function watching(shards: number): ServerMetrics {
  const metrics = new ServerMetrics();
  const batching = new BatchMeter();
  metrics.watchPredictor({ model: 'ranker', version: '1', meter: meteredShards(shards), batching });
  batching.enqueued();
  batching.enqueued();
  batching.dequeued(0.0015);
  batching.ran(3);
  return metrics;
}

test('requests are counted by model, version, protocol and code; durations and items are those of answered ones', async () => {
  const metrics = watching(0);
  metrics.requestEnded(ended({}));
  metrics.requestEnded(ended({ ms: 30, items: 8 }));
  metrics.requestEnded(ended({ code: 'overloaded' }));
  metrics.requestEnded(ended({ protocol: 'grpc', code: 'deadline_exceeded' }));
  const { contentType, body } = await metrics.renderMetrics();
  expect(contentType).toBe('text/plain; version=0.0.4; charset=utf-8');
  const series = seriesOf(body);
  const of = (name: string, labels: string) => series.get(`${name}{model="ranker",version="1",${labels}}`);
  expect(of('terabag_requests_total', 'protocol="http",code="ok"')).toBe(2);
  expect(of('terabag_requests_total', 'protocol="http",code="overloaded"')).toBe(1);
  expect(of('terabag_requests_total', 'protocol="grpc",code="deadline_exceeded"')).toBe(1);
  expect(of('terabag_request_items_total', 'protocol="http"')).toBe(72);
  const buckets = ['0.002', '0.005', '0.02', '0.05', '+Inf'].map((le) =>
    of('terabag_request_duration_seconds_bucket', `protocol="http",le="${le}"`),
  );
  expect(buckets).toEqual([0, 1, 1, 2, 2]);
  expect(of('terabag_request_duration_seconds_sum', 'protocol="http"')).toBeCloseTo(0.033, 9);
});

test('names that are not served make no series of their own', async () => {
  const metrics = watching(0);
  for (let n = 0; n < 3; n++) metrics.requestEnded(ended({ model: `stranger-${n}`, code: 'not_found' }));
  metrics.requestEnded(ended({ version: '7', code: 'not_found' }));
  const { body } = await metrics.renderMetrics();
  expect(body).not.toMatch(/stranger|version="7"/);
  expect(seriesOf(body).get('terabag_requests_total{model="",version="",protocol="http",code="not_found"}')).toBe(4);
});

test("a predictor's own counts, its shards and replicas, stages and batches are read when they are asked for", async () => {
  const metrics = watching(2);
  const series = seriesOf((await metrics.renderMetrics()).body);
  const of = (name: string, labels = '') => series.get(`${name}{model="ranker",version="1"${labels}}`);
  expect(of('terabag_predict_in_flight')).toBe(2);
  expect(of('terabag_predict_degraded_total')).toBe(3);
  expect(of('terabag_unseen_ids_total', String.raw`,table="a \"table\"\\"`)).toBe(4);
  expect(of('terabag_table_resident_bytes')).toBe(2 ** 19);
  expect(of('terabag_rpc_sent_total', ',shard="shard-1"')).toBe(100);
  expect(of('terabag_rpc_unresolved_total', ',shard="shard-1"')).toBe(116);
  expect(of('terabag_rpc_replicas_ready', ',shard="shard-0"')).toBe(2);
  expect(of('terabag_replica_in_flight', ',shard="shard-0",replica="tcp://shard-0-1:5000"')).toBe(1);
  expect(of('terabag_model_ready')).toBe(1);
  expect(of('terabag_model_info', `,model_hash="${'ab'.repeat(32)}",plan_hash="${'cd'.repeat(32)}",epoch="3"`)).toBe(1);
  expect(of('terabag_stage_duration_seconds_count', ',stage="shards"')).toBe(0);
  expect(of('terabag_batch_requests_sum')).toBe(3);
  expect(of('terabag_batch_waiting')).toBe(1);
  expect(of('terabag_batch_wait_seconds_bucket', ',le="0.002"')).toBe(1);
});

test('a shard without a replica that takes requests makes its model not ready', async () => {
  const metrics = new ServerMetrics();
  metrics.watchPredictor({ model: 'ranker', version: '1', meter: meteredShards(2, { ready: false, ejected: true }) });
  const series = seriesOf((await metrics.renderMetrics()).body);
  expect(series.get('terabag_model_ready{model="ranker",version="1"}')).toBe(0);
  expect(series.get('terabag_rpc_replicas_ready{model="ranker",version="1",shard="shard-1"}')).toBe(0);
  expect(series.get('terabag_rpc_replicas{model="ranker",version="1",shard="shard-1"}')).toBe(2);
  expect(series.get('terabag_replica_ejected{model="ranker",version="1",shard="shard-1",replica="tcp://shard-1-0:5000"}')).toBe(1);
});

test('a model that is unloaded has no series any more, and one whose predictor is not open yet has some', async () => {
  const metrics = new ServerMetrics();
  const unwatch = metrics.watchPredictor({ model: 'ranker', version: '2', meter: new PredictorMeter() });
  metrics.requestEnded(ended({ version: '2' }));
  const series = 'terabag_requests_total{model="ranker",version="2",protocol="http",code="ok"}';
  expect(seriesOf((await metrics.renderMetrics()).body).get(series)).toBe(1);
  unwatch();
  expect((await metrics.renderMetrics()).body).not.toMatch(/version="2"/);
});

test("the text is that of prom-client's own serializer", async () => {
  const metrics = watching(3);
  metrics.requestEnded(ended({}));
  const lines = (text: string) => text.split('\n').filter((line) => /^(# \w+ )?terabag_(?!gc|event_loop)/.test(line));
  const ours = lines((await metrics.renderMetrics()).body);
  expect(ours.length).toBeGreaterThan(200);
  expect(ours).toEqual(lines(await metrics.registry.metrics()));
});

test('every family has help, and every sample is of the family before it', async () => {
  const { body } = await watching(2).renderMetrics();
  const types = typesOf(body);
  let current = '';
  for (const line of body.trimEnd().split('\n')) {
    const [, help] = /^# HELP (\S+) ./.exec(line) ?? [];
    if (help !== undefined) current = help;
    else if (!line.startsWith('#'))
      expect(line.replace(/[{ ].*/s, '').replace(/_(bucket|sum|count)$/, '')).toBe(current.replace(/_count$/, ''));
  }
  expect([...types.keys()].filter((name) => !/^(terabag|process|nodejs)_/.test(name))).toEqual([]);
});

test.skipIf(!hasPromtool)('promtool finds nothing to say about the metrics of main', async () => {
  const metrics = watching(2);
  metrics.requestEnded(ended({}));
  expect(promtool(['check', 'metrics'], (await metrics.renderMetrics()).body)).toEqual({ status: 0, output: '' });
});

test('each piece of many series has a turn of the event loop of its own, also of several scrapes', async () => {
  const metrics = watching(1000);
  const all: number[] = [];
  const scrape = async (): Promise<number> => {
    const turns: number[] = [];
    let text = '';
    for await (const piece of metrics.pieces()) {
      turns.push((performance.nodeTiming as unknown as { uvMetricsInfo: { loopCount: number } }).uvMetricsInfo.loopCount);
      text += Buffer.from(piece).toString();
    }
    expect(new Set(turns).size).toBe(turns.length);
    all.push(...turns);
    return [...seriesOf(text).keys()].filter((series) => series.includes(',shard="')).length;
  };
  expect(await Promise.all([scrape(), scrape()])).toEqual([25_000, 25_000]);
  expect(all.length).toBeGreaterThan(100);
  // A file that was read may be told of in another phase of the same turn.
  expect(all.length - new Set(all).size).toBeLessThan(all.length / 20);
});
