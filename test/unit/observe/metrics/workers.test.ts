import { EventEmitter } from 'node:events';
import { expect, test } from 'vitest';
import { rendered, type Section, Slices } from '../../../../src/observe/metrics/render.js';
import { ServerMetrics } from '../../../../src/observe/metrics/server-metrics.js';
import { answerPrimary, answerWorker, type Channel, piecesOfPrimary, sectionsOfWorkers } from '../../../../src/observe/metrics/workers.js';
import { PredictorMeter } from '../../../../src/observe/predictor-meter.js';
import { meteredShards, seriesOf, textOf } from '../../../reference/metered.js';

/** Both ends of a channel, over which messages are JSON, as between processes. */
function channel(): { readonly worker: Channel; readonly primary: Channel } {
  const [here, there] = [new EventEmitter(), new EventEmitter()];
  const end = (own: EventEmitter, other: EventEmitter): Channel => ({
    send: (message) => setImmediate(() => other.emit('message', JSON.parse(JSON.stringify(message)))),
    on: (event, listener) => own.on(event, listener),
    off: (event, listener) => own.off(event, listener),
  });
  return { worker: end(here, there), primary: end(there, here) };
}

const merged = (workers: readonly Channel[], timeoutMs?: number): Promise<string> =>
  textOf(rendered(sectionsOfWorkers(workers, timeoutMs), new Slices()));

function serving(requests: number): ServerMetrics {
  const metrics = new ServerMetrics();
  metrics.watchPredictor({ model: 'ranker', version: '1', meter: meteredShards(20, { ready: requests > 1 }) });
  for (let n = 0; n < requests; n++) metrics.requestEnded({ model: 'ranker', version: '1', protocol: 'http', code: 'ok', ms: 3, items: 8 });
  return metrics;
}

test('metrics of workers are one: sums, the least readiness, tables that are mapped once', async () => {
  const ends = [1, 2].map((requests) => {
    const { worker, primary } = channel();
    const metrics = serving(requests);
    answerPrimary((slices) => metrics.sections(slices), worker);
    return primary;
  });
  const series = seriesOf(await merged(ends));
  const of = (name: string, labels = '') => series.get(`${name}{model="ranker",version="1"${labels}}`);
  expect(of('terabag_requests_total', ',protocol="http",code="ok"')).toBe(3);
  expect(of('terabag_request_duration_seconds_bucket', ',protocol="http",le="0.005"')).toBe(3);
  expect(of('terabag_rpc_sent_total', ',shard="shard-3"')).toBe(600);
  expect(of('terabag_model_ready')).toBe(0);
  expect(of('terabag_replica_ready', ',shard="shard-3",replica="tcp://shard-3-1:5000"')).toBe(0);
  expect(of('terabag_table_bytes')).toBe(2 ** 20);
  expect(of('terabag_predict_in_flight')).toBe(4);
  expect(series.has('process_start_time_seconds')).toBe(false);
  expect(series.get('process_resident_memory_bytes')).toBeGreaterThan(0);
});

test('of one worker, they are what it says', async () => {
  const { worker, primary } = channel();
  const metrics = serving(2);
  answerPrimary((slices) => metrics.sections(slices), worker);
  const ours = (body: string) => [...seriesOf(body)].filter(([series]) => /^terabag_(?!gc|event)/.test(series));
  expect(ours(await merged([primary]))).toEqual(ours((await metrics.renderMetrics()).body));
});

test('a worker that says nothing is left out, and so is one that is gone', async () => {
  const { worker, primary } = channel();
  const metrics = serving(1);
  answerPrimary((slices) => metrics.sections(slices), worker);
  const gone: Channel = {
    send: () => {
      throw new Error('ERR_IPC_CHANNEL_CLOSED');
    },
    on: () => undefined,
    off: () => undefined,
  };
  const series = seriesOf(await merged([channel().primary, gone, primary], 1000));
  expect(series.get('terabag_requests_total{model="ranker",version="1",protocol="http",code="ok"}')).toBe(1);
});

test('averages are those of workers that told one', async () => {
  const ends = [2, 6].map((value) => {
    const { worker, primary } = channel();
    const section: Section = {
      ...{ name: 'a', help: 'An average.', type: 'gauge', aggregator: 'average' },
      *sample(samples) {
        samples.add('a', '', value);
        yield;
      },
    };
    answerPrimary(async function* () {
      yield section;
    }, worker);
    return primary;
  });
  expect(await merged(ends)).toBe('# HELP a An average.\n# TYPE a gauge\na 4\n');
});

test('a worker that is scraped gets the text of all from its primary', async () => {
  const channels = [1, 2].map((requests) => {
    const ends = channel();
    const metrics = serving(requests);
    answerPrimary((slices) => metrics.sections(slices), ends.worker);
    return ends;
  });
  for (const { primary } of channels) answerWorker(primary, () => channels.map((ends) => ends.primary));
  const [first] = channels;
  const series = seriesOf(await textOf(piecesOfPrimary(first?.worker)));
  expect(series.get('terabag_requests_total{model="ranker",version="1",protocol="http",code="ok"}')).toBe(3);
  await expect(textOf(piecesOfPrimary(channel().worker, 50))).rejects.toMatchObject({ code: 'deadline_exceeded' });
});

test('a predictor that is not open yet tells nothing, in a worker too', async () => {
  const { worker, primary } = channel();
  const metrics = new ServerMetrics();
  metrics.watchPredictor({ model: 'ranker', version: '1', meter: new PredictorMeter() });
  answerPrimary((slices) => metrics.sections(slices), worker);
  const series = seriesOf(await merged([primary]));
  expect(series.get('terabag_model_ready{model="ranker",version="1"}')).toBe(0);
  expect(series.has('terabag_predict_in_flight{model="ranker",version="1"}')).toBe(false);
});
