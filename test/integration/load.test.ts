import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, launchCluster, openLocal, type Plan, type Predictor, type PredictRequest, writePlan } from '../../src/index.js';
import { requestsOfSpec } from '../../src/lab/generate/spec-requests.js';
import { collectRequests } from '../../src/lab/load/load-run.js';
import { runOpenLoopLoad } from '../../src/lab/load/open-loop-load.js';
import { runSerialLoad } from '../../src/lab/load/serial-load.js';
import { writeRequests } from '../../src/lab/requests/request-file.js';
import { SplittingPredictor, splitRequest } from '../../src/lab/requests/split-request.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { LatencyHistogram } from '../../src/observe/latency-histogram.js';
import { capacityPlan } from '../reference/plans.js';
import { DENSE, type SmallModel, writeSmallModel } from '../reference/small-model.js';
import { validRequest } from '../reference/small-requests.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const FEATURES = [{ name: 'dense', dim: DENSE }];

let model: SmallModel;
let plan: Plan;
let local: Predictor;
let dir: string;
beforeAll(async () => {
  model = await writeSmallModel(61);
  local = await openLocal(model.dir, { deadlineMs: 10_000 });
  const spec = await readModelSpec(model.dir);
  plan = capacityPlan(spec, 2);
  dir = mkdtempSync(join(tmpdir(), 'terabag-load-'));
  await writePlan(join(dir, 'plan.json'), plan);
});
afterAll(async () => {
  await local?.close();
  rmSync(model.dir, { recursive: true });
  rmSync(dir, { recursive: true });
});

test('a shard that stops for 300 ms shows in P99 from the intended send time, and hides from P99 of one request at a time', async () => {
  const cluster = await launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error', restart: false });
  const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
  try {
    const requests = await collectRequests(requestsOfSpec(await readModelSpec(model.dir), { items: 4, seed: 1 }), 50);
    const load = { predictor, requests, warmUpMs: 300, durationMs: 2400, deadlineMs: 5000 };
    const stallOnce = (): void => {
      setTimeout(() => {
        cluster.kill('shard-0', 'SIGSTOP');
        setTimeout(() => cluster.kill('shard-0', 'SIGCONT'), 300);
      }, 1000);
    };
    const arrivals = { process: 'poisson', qps: 200, seed: 3 } as const;
    stallOnce();
    const open = await runOpenLoopLoad({ ...load, arrivals });
    stallOnce();
    // The same arrivals, sent by a generator that waits for each answer.
    const waiting = await runOpenLoopLoad({ ...load, arrivals, maxInFlight: 1 });
    stallOnce();
    const serial = await runSerialLoad(load);
    for (const { errors, latency } of [open, waiting, serial]) expect([errors, latency.count > 300]).toEqual([{}, true]);
    // An eighth of the time was stalled, and its requests waited 150 ms on average.
    expect(open.latency.quantile(0.99)).toBeGreaterThan(200);
    expect(waiting.latency.quantile(0.99)).toBeGreaterThan(200);
    for (const { fromSend } of [waiting, serial]) {
      expect(fromSend.quantile(0.99)).toBeLessThan(100);
      expect(fromSend.quantile(1)).toBeGreaterThan(200);
    }
  } finally {
    await predictor.close();
    await cluster.stop();
  }
});

test('a request that is split gives the scores of the whole', async () => {
  await fc.assert(
    fc.asyncProperty(validRequest({ minItems: 1, minIds: 0 }), fc.integer({ min: 1, max: 10 }), async ({ items, request }, batch) => {
      const pieces = splitRequest(request, batch, FEATURES);
      expect(pieces.length).toBe(Math.ceil(items / batch));
      const whole = await local.predict(request);
      expect(await new SplittingPredictor(local, batch, FEATURES).predict(request)).toEqual(whole);
    }),
  );
});

test('random requests of a spec fit the model, follow from the seed, and have what the spec says of sides and pooling', async () => {
  const spec = await readModelSpec(model.dir);
  const [first, second] = await collectRequests(requestsOfSpec(spec, { items: 5, seed: 9 }), 2);
  expect(first).not.toEqual(second);
  expect(await collectRequests(requestsOfSpec(spec, { items: 5, seed: 9 }), 2)).toEqual([first, second]);
  expect((await local.predict(first!)).items).toBe(5);
  const hinted = structuredClone(spec) as { nets: { layers: object[] }[] };
  for (const layer of hinted.nets[0]!.layers) if ('pooling' in layer) Object.assign(layer, { side: 'user', poolingFactor: 40 });
  const requests = await collectRequests(requestsOfSpec(hinted as typeof spec, { items: 5, seed: 9 }), 300);
  for (const { sparse } of requests) for (const { offsets } of Object.values(sparse)) expect(offsets.length).toBe(2);
  const sizes = requests.map(({ sparse }) => sparse['sum']?.indices.length as number);
  expect(sizes.reduce((sum, size) => sum + size, 0) / sizes.length).toBeGreaterThan(35);
  expect(sizes.reduce((sum, size) => sum + size, 0) / sizes.length).toBeLessThan(45);
  expect((await local.predict(requests[0]!)).items).toBe(5);
});

function bench(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const short = ['--duration', '300ms', '--warm-up', '100ms', '--repeats', '2', '--items', '8'];
  return spawnSync(process.execPath, [main, 'bench', '--bundle', model.dir, ...short, ...args], { cwd: dir, encoding: 'utf8' });
}

const written = () => JSON.parse(readFileSync(join(dir, 'results.json'), 'utf8'));

test('bench launches shards, measures at a rate, and writes results whose histograms can be read again', () => {
  const { status, stdout } = bench('--plan', 'plan.json', '--launch', '--qps', '100', '--json', 'results.json');
  const { results, shards, interrupted, machine } = written();
  expect([shards, interrupted, machine.cores > 0]).toEqual([2, false, true]);
  const [result] = results;
  expect(stdout).toContain('poisson 100 qps');
  expect(result.answered).toBeGreaterThan(30);
  expect(result.errors).toEqual({});
  expect(result.cpuMsPerRequest.shards).toBeGreaterThan(0);
  expect(result.repeats.length).toBe(2);
  const { hdr, ...summary } = result.latencyMs;
  expect(LatencyHistogram.decode(hdr).summary()).toEqual(summary);
  // A busy machine may make the generator late; then the exit code says so.
  expect(status).toBe(result.invalid.length === 0 ? 0 : 1);
});

test('bench sweeps batch sizes one request at a time, and sends requests of a file', () => {
  const request = {
    dense: { dense: [1, 2, 3, 4, 5] },
    sparse: {
      sum: { indices: [1], offsets: [0, 1] },
      mean: { indices: [1], offsets: [0, 1] },
      weighted: { indices: [1], offsets: [0, 1], weights: [1] },
    },
  };
  writeFileSync(join(dir, 'requests.jsonl'), `${JSON.stringify(request)}\n`);
  expect(bench('--serial', '--requests', 'requests.jsonl').status).toBe(0);
  expect(bench('--batch-sweep', '2,8', '--json', 'results.json').status).toBe(0);
  expect(
    written().results.map(({ batchItems, answered }: { batchItems: number; answered: number }) => [batchItems, answered > 10]),
  ).toEqual([
    [2, true],
    [8, true],
  ]);
});

test('bench finds a rate under the bound, and a batch size', () => {
  const search = ['--p99', '200ms', '--duration', '50ms', '--warm-up', '0s', '--repeats', '1'];
  expect(bench('--find-max-qps', ...search, '--json', 'results.json').stderr).toContain('give --duration 4s or more');
  const { probes, qps } = written().results[0].capacity;
  expect(qps).toBeGreaterThan(10);
  expect(probes.find((probe: { qps: number }) => probe.qps === qps)).toMatchObject({ meetsBound: true, invalid: [] });
  bench('--schedule', ...search, '--json', 'results.json');
  const { best, measured } = written().schedule;
  expect(measured).toContainEqual(best);
  expect(best.qps).toBe(Math.max(...measured.map((size: { qps: number }) => size.qps)));
});

test('bench sends requests of a safetensors file, such as a recording', async () => {
  const requests = await collectRequests(requestsOfSpec(await readModelSpec(model.dir), { items: 4, seed: 1 }), 5);
  await writeRequests(join(dir, 'requests.safetensors'), requests);
  expect(bench('--serial', '--requests', 'requests.safetensors', '--json', 'results.json').status).toBe(0);
  expect(written().results[0]).toMatchObject({ answered: expect.any(Number), errors: {} });
});

test('bench finds the batch size of requests that do not say their items', async () => {
  const [request] = await collectRequests(requestsOfSpec(await readModelSpec(model.dir), { items: 6, seed: 1 }), 1);
  const { items: _, ...silent } = request as PredictRequest;
  await writeRequests(join(dir, 'silent.jsonl'), [silent]);
  const search = ['--p99', '200ms', '--duration', '50ms', '--warm-up', '0s', '--repeats', '1'];
  bench('--schedule', '--requests', 'silent.jsonl', ...search, '--json', 'results.json');
  expect(written().schedule.measured.map(({ items }: { items: number }) => items)).toContain(4);
});

test('bench exits with 1 when nothing is answered, and with 2 when the options contradict each other', () => {
  const bad = { dense: { dense: [1, 2, 3, 4, 5] }, sparse: {} };
  writeFileSync(join(dir, 'bad.jsonl'), `${JSON.stringify(bad)}\n`);
  expect(bench('--serial', '--requests', 'bad.jsonl', '--json', 'results.json')).toMatchObject({
    status: 1,
    stdout: expect.stringMatching(/\d+ invalid_argument/),
  });
  expect(written().results[0]).toMatchObject({ answered: 0, errors: { invalid_argument: expect.any(Number) } });
  expect(bench('--serial', '--requests', 'absent.jsonl')).toMatchObject({ status: 1, stderr: expect.stringContaining('absent.jsonl') });
  expect(bench()).toMatchObject({ status: 2, stderr: expect.stringContaining('choose a load') });
  expect(bench('--serial', '--qps', '3').status).toBe(2);
  expect(bench('--qps', '3', '--launch').status).toBe(2);
  const absent = { status: 1, stdout: '', stderr: expect.stringContaining('absent') };
  expect(bench('--serial', '--json', 'absent/results.json')).toMatchObject(absent);
  expect(bench('--qps', '1000000000')).toMatchObject({ status: 2, stderr: expect.stringContaining('at most 200000') });
  expect(bench('--qps', '3', '--duration', '10')).toMatchObject({ status: 2, stderr: expect.stringContaining('time with its unit') });
});

test('a search that is interrupted before its first rate claims none', async () => {
  const args = [main, 'bench', '--bundle', model.dir, '--schedule', '--duration', '60s', '--items', '8', '--json', 'results.json'];
  const child: ChildProcess = spawn(process.execPath, args, { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout?.on('data', (text) => {
    output += text;
  });
  await expect.poll(() => output, { timeout: 20_000 }).toContain('searching the highest rate');
  child.kill('SIGINT');
  const [code] = await once(child, 'exit');
  expect([code, output]).toEqual([130, expect.stringMatching(/no batch size was measured\n$/)]);
  expect(output).not.toContain('max qps');
  expect(written()).toMatchObject({ interrupted: true, results: [], schedule: { measured: [] } });
});

test('the help of bench shows times as they can be typed', () => {
  const { stdout } = bench('--help');
  const times = [...stdout.matchAll(/--(?:p99|duration|warm-up|deadline) <time>\s[^(]*\(default:\s+([^)]*)\)/g)].map(([, time]) => time);
  expect(times).toEqual(['20ms', '10s', '2s', '1s']);
});

test('SIGINT ends a bench cleanly with what was measured', async () => {
  // The command opens the pipe when its tables are read, and begins when it has a request.
  const pipe = join(dir, 'piped.jsonl');
  expect(spawnSync('mkfifo', [pipe]).status).toBe(0);
  const load = ['--requests', pipe, '--qps', '50', '--duration', '60s', '--warm-up', '0s'];
  const args = ['bench', '--bundle', model.dir, ...load, '--json', 'results.json'];
  const child: ChildProcess = spawn(process.execPath, [main, ...args], { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout?.on('data', (text) => {
    output += text;
  });
  const [request] = await collectRequests(requestsOfSpec(await readModelSpec(model.dir), { items: 8, seed: 1 }), 1);
  const startedAt = performance.now();
  await writeFile(
    pipe,
    `${JSON.stringify(request, (_, value) => (ArrayBuffer.isView(value) ? Array.from(value as Float32Array) : value))}\n`,
  );
  await new Promise((resolve) => setTimeout(resolve, 1500));
  child.kill('SIGINT');
  const [code] = await once(child, 'exit');
  expect(code).toBe(130);
  expect(output).toContain('poisson 50 qps');
  const { results, interrupted } = written();
  expect(interrupted).toBe(true);
  expect(results[0].answered).toBeGreaterThan(5);
  expect(results[0].measuredMs).toBeLessThan(performance.now() - startedAt);
});
