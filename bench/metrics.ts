import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { Counter, Registry } from 'prom-client';
import { native } from '../src/engine/native.js';
import { demoShape } from '../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import { MetricsServer } from '../src/observe/metrics/metrics-server.js';
import { ServerMetrics } from '../src/observe/metrics/server-metrics.js';
import { PredictorMeter } from '../src/observe/predictor-meter.js';
import type { Predictor, PredictRequest } from '../src/predictor/predictor.js';
import { meteredShards } from '../test/reference/metered.js';
import { type Line, median, quartileSpread, type Suite, type SuiteOptions } from './suite.js';
import { openLocalTarget } from './targets.js';

const SHARDS = 1000;
/** Of a scrape of that many shards of two replicas. */
const SERIES = 25 * SHARDS;
const ITEMS = [8, 64] as const;
/** Requests between two switches; see the suite stages. */
const BLOCK = 8;
const TURNS = 32;
const DEADLINE_MS = 10_000;

export const metricsSuite: Suite = {
  name: 'metrics',
  description: `how long a scrape of ${SHARDS} shards holds the event loop in one turn, in CPU time of its thread; what metering costs a request`,
  async *run(options) {
    if (options.wanted.test('scrape')) yield* scrapes(options);
    if (options.wanted.test('predict')) yield* metering(options);
  },
};

const line = (name: string, metric: string, unit: string, samples: readonly number[], peer: Line['peer'] = null): Line => ({
  ...{ suite: 'metrics', case: name, params: { shards: SHARDS }, metric, unit, value: median(samples), peer, ratio: null },
  spread: median(samples) === 0 ? null : quartileSpread(samples) / median(samples),
  ...{ isa: native.isa, threads: 1, residency: 'none' },
});

/** The longest turns of the event loop while something runs, us of its thread's CPU time: what others do on the machine is not in them. */
async function turnsDuring(run: () => Promise<unknown>): Promise<{ longest: number; turns: number }> {
  let over = false;
  let longest = 0;
  let turns = 0;
  let since = native.threadCpuUs();
  const turn = (): void => {
    const now = native.threadCpuUs();
    longest = Math.max(longest, now - since);
    turns++;
    since = native.threadCpuUs();
    if (!over) setImmediate(turn);
  };
  setImmediate(turn);
  const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  await nextTurn();
  await run();
  await nextTurn();
  over = true;
  await nextTurn();
  return { longest, turns };
}

/** Another thread asks. */
function client(url: string): { get(): Promise<number>; close(): Promise<unknown> } {
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    parentPort.on('message', () => fetch(workerData).then((a) => a.text()).then((text) => parentPort.postMessage(text.length)));`;
  const worker = new Worker(code, { eval: true, workerData: url });
  return {
    get: () =>
      new Promise((resolve) => {
        worker.once('message', resolve);
        worker.postMessage(null);
      }),
    close: () => worker.terminate(),
  };
}

async function* scrapes({ quick, rounds }: SuiteOptions): AsyncGenerator<Line> {
  const metrics = new ServerMetrics();
  metrics.watchPredictor({ model: 'ranker', version: '1', meter: meteredShards(SHARDS) });
  const registry = new Registry();
  for (let c = 0; c < SERIES / SHARDS; c++) {
    const counter = new Counter({ name: `terabag_${c}_total`, help: 'As many series.', labelNames: ['shard'], registers: [registry] });
    for (let shard = 0; shard < SHARDS; shard++) counter.inc({ shard: `shard-${shard}` }, shard);
  }
  const server = await MetricsServer.listen({ host: '127.0.0.1', port: 0, pieces: () => metrics.pieces(), ready: () => true });
  const [scraper, prober] = [client(`${server.url}/metrics`), client(`${server.url}/v2/health/live`)];
  const contenders = {
    scrape: { run: () => scraper.get(), peer: null },
    'another-request': { run: () => prober.get(), peer: null },
    rendering: {
      run: async () => {
        for await (const _ of metrics.pieces());
      },
      peer: null,
    },
    serializer: { run: () => registry.metrics(), peer: 'prom-client' },
  } as const;
  try {
    const held: Record<string, number[]> = {};
    const turned: number[] = [];
    // Until all of it runs as compiled code.
    const warmUp = quick ? 2 : 20;
    for (let round = -warmUp; round < rounds * 3; round++) {
      for (const [name, { run }] of Object.entries(contenders)) {
        const { longest, turns } = await turnsDuring(run);
        if (round < 0) continue;
        held[name] = [...(held[name] ?? []), longest];
        if (name === 'scrape') turned.push(turns);
      }
    }
    for (const [name, { peer }] of Object.entries(contenders)) yield line(name, 'longest turn', 'us', held[name] as number[], peer);
    yield line('turns-of-a-scrape', 'turns of the event loop', '', turned);
  } finally {
    await Promise.all([scraper.close(), prober.close(), server.close()]);
  }
}

const ARMS = ['off', 'on', 'control'] as const;
type Arm = (typeof ARMS)[number];

/** control is off once more, with a predictor of its own. */
async function* metering({ quick, dir, rounds }: SuiteOptions): AsyncGenerator<Line> {
  const shape = demoShape(quick ? 2 ** 24 : 2 ** 29);
  const bundle = join(dir, 'model');
  await writeSyntheticBundle(bundle, shape);
  const open = async (meter?: PredictorMeter) => openLocalTarget(bundle, meter === undefined ? {} : { meter });
  const targets = { off: await open(), on: await open(new PredictorMeter()), control: await open() };
  try {
    for (const items of ITEMS) {
      const generator = new RequestGenerator(requestShape(shape), items);
      const requests = Array.from({ length: TURNS }, () => generator.next(items));
      const [p50s, cpus] = [arms(), arms()];
      for (let round = -1; round < rounds; round++) {
        const [samples, cpu] = [arms(), arms()];
        for (let block = 0; block < (round < 0 ? (quick ? 4 : 300) : quick ? 4 : 40); block++) {
          const same = Array.from({ length: BLOCK }, (_, n) => requests[(block * BLOCK + n) % TURNS] as PredictRequest);
          for (let turn = 0; turn < ARMS.length; turn++) {
            const arm = ARMS[(block + turn) % ARMS.length] as Arm;
            await runBlock(targets[arm].predictor, same, samples[arm], cpu[arm]);
          }
        }
        if (round < 0) continue;
        for (const arm of ARMS) {
          p50s[arm].push(median(samples[arm]));
          cpus[arm].push(median(cpu[arm]));
        }
      }
      const over = (of: Record<Arm, number[]>, arm: Arm): number[] => of[arm].map((value, round) => value / (of.off[round] as number));
      yield line(`predict-items${items}`, 'P50 without metrics', 'us', p50s.off);
      for (const arm of ['on', 'control'] as const) {
        yield line(`predict-items${items}-${arm}`, 'P50 over that without', 'x', over(p50s, arm));
        yield line(`predict-items${items}-${arm}-cpu`, "CPU of main's thread over that without", 'x', over(cpus, arm));
      }
    }
  } finally {
    for (const { close } of Object.values(targets)) await close();
  }
}

const arms = (): Record<Arm, number[]> => ({ off: [], on: [], control: [] });

async function runBlock(predictor: Predictor, requests: readonly PredictRequest[], samples: number[], cpu: number[]): Promise<void> {
  for (const request of requests) {
    const [startedAt, cpuAt] = [performance.now(), native.threadCpuUs()];
    await predictor.predict(request, { deadlineMs: DEADLINE_MS });
    samples.push((performance.now() - startedAt) * 1000);
    cpu.push(native.threadCpuUs() - cpuAt);
  }
}
