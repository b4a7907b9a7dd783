import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { connect, type Plan, writePlan } from '../../src/index.js';
import { demoShape } from '../../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../../src/lab/generate/request-generator.js';
import { requestShape } from '../../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../../src/lab/generate/synthetic-bundle.js';
import { PredictorMeter } from '../../src/observe/predictor-meter.js';
import { seriesOf } from '../reference/metered.js';
import { capacityPlan } from '../reference/plans.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const shape = demoShape(2 ** 20);
let dir: string;
let plan: Plan;
const children: ChildProcess[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-shard-metrics-'));
  plan = capacityPlan(await writeSyntheticBundle(join(dir, 'model'), shape), 1);
  await writePlan(join(dir, 'plan.json'), plan);
});
afterAll(() => rm(dir, { recursive: true }));
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** Starts the shard; its lines of log, each as it comes. */
function shard(...args: readonly string[]): { child: ChildProcess; log: AsyncIterator<string> } {
  const command = [main, 'shard', 'plan.json', '--name', 'shard-0', '--bundle', 'model', '--listen', 'tcp://127.0.0.1:*', ...args];
  const child = spawn(process.execPath, command, { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(child);
  return { child, log: createInterface({ input: child.stderr as NonNullable<typeof child.stderr> })[Symbol.asyncIterator]() };
}

async function logged(log: AsyncIterator<string>, field: string): Promise<string> {
  for (;;) {
    const { value, done } = await log.next();
    if (done) throw new Error(`the shard ended without ${field}`);
    const told = String(value).startsWith('{') ? JSON.parse(String(value)) : {};
    if (typeof told[field] === 'string') return told[field];
  }
}

test('a shard tells over HTTP what it does, and that it is ready, until it ends', async () => {
  const { child, log } = shard('--metrics', '127.0.0.1:0');
  const url = await logged(log, 'metrics');
  expect((await fetch(`${url}/v2/health/live`)).status).toBe(200);
  const endpoint = await logged(log, 'endpoint');
  expect((await fetch(`${url}/v2/health/ready`)).status).toBe(200);
  const counted = async () => seriesOf(await (await fetch(`${url}/metrics`)).text());
  expect((await counted()).get('terabag_shard_requests_total{shard="shard-0"}')).toBe(0);

  const meter = new PredictorMeter();
  const here = { ...plan, shards: plan.shards.map((placed) => ({ ...placed, endpoints: [endpoint] })) };
  const predictor = await connect(here, { bundle: join(dir, 'model'), deadlineMs: 10_000, meter });
  const generator = new RequestGenerator(requestShape(shape), 3);
  for (let n = 0; n < 5; n++) await predictor.predict(generator.next(4));
  const series = await counted();
  expect(series.get('terabag_shard_requests_total{shard="shard-0"}')).toBe(5);
  expect(series.get('terabag_shard_connections{shard="shard-0"}')).toBe(1);
  expect(series.get('terabag_shard_table_bytes{shard="shard-0"}')).toBeGreaterThan(0);

  // The same requests, as main counts them.
  expect([meter.codes.get('ok'), meter.items.sum, meter.predictor?.version]).toEqual([5, 20, predictor.version]);
  expect(meter.predictor?.shards.map(({ name, counts, ready, replicas: _ }) => [name, counts.sent, ready])).toEqual([['shard-0', 5, true]]);
  expect(meter.predictor?.shards[0]?.replicas()).toMatchObject([{ endpoint, ready: true, ejected: false, inFlight: 0 }]);
  await predictor.close();

  child.kill('SIGTERM');
  expect(await once(child, 'exit')).toEqual([0, null]);
  await expect(fetch(`${url}/v2/health/live`)).rejects.toThrow();
});

test('an address that cannot be listened on ends the shard before it reads a table', async () => {
  const { child, log } = shard('--metrics', '127.0.0.1:0');
  const taken = new URL(await logged(log, 'metrics')).host;
  await logged(log, 'endpoint');
  for (const [address, why] of [
    [taken, /EADDRINUSE/],
    ['9400', /HOST:PORT/],
  ] as const) {
    const other = shard('--metrics', address);
    let said = '';
    for (let line = await other.log.next(); !line.done; line = await other.log.next()) said += line.value;
    expect(said).toMatch(why);
    expect(said).not.toMatch(/"ready"/);
    expect(other.child.exitCode ?? (await once(other.child, 'exit'))[0]).toBe(1);
  }
  child.kill('SIGKILL');
});
