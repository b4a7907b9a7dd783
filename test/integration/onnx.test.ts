import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  type Cluster,
  type ConnectOptions,
  computeStack,
  connect,
  latencyStack,
  launchCluster,
  openLocal,
  openModel,
  type Plan,
  type Predictor,
  publish,
  Tracer,
} from '../../src/index.js';
import { readModelSpec, verifyBundle } from '../../src/model/bundle.js';
import { verifyPublished } from '../../src/plan/file/publish/verify-published.js';
import type { PredictRequest } from '../../src/predictor/predictor.js';
import {
  DLRM,
  denseOnly,
  NEEDS_RUNTIME,
  type OnnxModels,
  onnxFixture,
  onnxRuntimeDirectory,
  withOnnx,
  writeOnnxModels,
} from '../reference/onnx-model.js';
import { capacityPlan } from '../reference/plans.js';
import { DENSE, random, referenceScores, smallRequest } from '../reference/small-model.js';

const runtime = onnxRuntimeDirectory();
let models: OnnxModels;
const directories: string[] = [];
const opened: Predictor[] = [];

beforeAll(async () => {
  models = await writeOnnxModels(5);
  directories.push(models.dir, models.onnxDir);
});
afterEach(async () => {
  for (const predictor of opened.splice(0)) await predictor.close();
});
afterAll(async () => {
  for (const dir of directories) await rm(dir, { recursive: true, force: true });
});

async function open(dir: string, options: Parameters<typeof openLocal>[1] = {}): Promise<Predictor> {
  const predictor = await openLocal(dir, { deadlineMs: 10_000, ...options });
  opened.push(predictor);
  return predictor;
}

/** The small model's tables with a fixture that reads the dense feature alone. */
async function bundleOf(fixture: string, onnx = denseOnly()): Promise<string> {
  const dir = await withOnnx(models.dir, onnxFixture(fixture), onnx);
  directories.push(dir);
  return dir;
}

/** Ids and weights that dense parts of the dense feature do not read. */
const NO_BAGS: PredictRequest['sparse'] = {
  sum: { indices: [], offsets: [0, 0] },
  mean: { indices: [], offsets: [0, 0] },
  weighted: { indices: [], offsets: [0, 0], weights: [] },
};
/** Runs so many products of matrices: some milliseconds each. */
const slowRequest = (turns: number, items = 2): PredictRequest => ({
  items,
  dense: { dense: Float32Array.from({ length: items * DENSE }, (_, at) => (at === 0 ? turns : at / 8)) },
  sparse: NO_BAGS,
});
const slowScores = (turns: number, items = 2): number[] =>
  Array.from({ length: items }, (_, item) => {
    const { dense } = slowRequest(turns, items).dense as { dense: Float32Array };
    return dense.subarray(item * DENSE, (item + 1) * DENSE).reduce((sum, value) => sum + value, 0);
  });

function expectClose(scores: Float32Array, expected: readonly number[]): void {
  expect(scores.length).toBe(expected.length);
  for (const [item, score] of scores.entries()) expect(Math.abs(score - (expected[item] as number))).toBeLessThan(1e-6);
}

const fails = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'succeeds',
    (error: unknown) => error,
  );

describe('without onnxruntime-node', () => {
  test('a model is planned and published, and opening it says what to install', async () => {
    const model = await openModel(models.onnxDir);
    expect(model.model).toMatchObject({ layers: [], outputDim: 1, onnx: { file: 'dense.onnx' } });
    const plan = capacityPlan(model.spec, 2);
    const out = await mkdtemp(join(tmpdir(), 'terabag-test-'));
    directories.push(out);
    await publish(plan, models.onnxDir, out);
    expect((await readdir(join(out, 'main'))).toSorted()).toEqual(['dense.onnx', 'model.json']);
    expect(await verifyPublished(out, models.onnxDir)).toEqual([]);
    const named = process.env['TERABAG_ONNXRUNTIME'];
    process.env['TERABAG_ONNXRUNTIME'] = join(out, 'nothing');
    try {
      expect(await fails(openLocal(models.onnxDir))).toMatchObject({
        code: 'unsupported',
        message: expect.stringMatching(/npm install onnxruntime-node$/),
        details: { file: 'dense.onnx', package: 'onnxruntime-node' },
      });
    } finally {
      if (named === undefined) delete process.env['TERABAG_ONNXRUNTIME'];
      else process.env['TERABAG_ONNXRUNTIME'] = named;
    }
  });

  test.each([
    ['fixed-items.onnx', /input dense of dense.onnx takes 4 rows/],
    ['float64.onnx', /dense of dense.onnx has to be float32: float64/],
    ['external-data.onnx', /tensor bottom.weight lies in another file/],
    ['dense.safetensors', /no sound ONNX model/],
    ['generate.py', /no sound ONNX model/],
    ['dlrm.onnx', /has no value for inputs of dense.onnx: sum, mean, weighted/],
  ])('%s is refused when it is opened, and by verify', async (fixture, message) => {
    const dir = await bundleOf(fixture);
    expect(await fails(openModel(dir))).toMatchObject({ code: 'bad_model', message: expect.stringMatching(message) });
    expect(await verifyBundle(dir)).toEqual([expect.stringMatching(message)]);
  });

  test('a file that was changed is found by its checksum', async () => {
    const dir = await bundleOf('dlrm.onnx', DLRM);
    const spec = await readModelSpec(dir);
    const path = join(dir, 'dense.onnx');
    const bytes = await readFile(path);
    const weight = bytes.indexOf(new Uint8Array((models.weights.get('top.weight') as { data: Float32Array }).data.buffer));
    bytes[weight] = (bytes[weight] as number) ^ 1;
    await writeFile(path, bytes);
    expect(spec.files['dense.onnx']?.bytes).toBe(bytes.length);
    expect(await fails(openLocal(dir))).toMatchObject({ code: 'checksum_mismatch', details: { file: 'dense.onnx' } });
  });
});

describe.skipIf(runtime === null)(`a model whose dense part is ONNX (${NEEDS_RUNTIME})`, () => {
  test.each([{}, { threads: 1 }, { threads: 2, workers: 3 }])(
    'has the scores of the float64 reference, and of the same layers here: %o',
    async (options) => {
      const [layers, onnx] = [await open(models.dir), await open(models.onnxDir, { onnx: options })];
      const next = random(3);
      const requests = [1, 2, 5, 33, 5].map((items) => smallRequest(next, items));
      // Side by side: each has buffers of its own.
      const answers = await Promise.all(
        requests.map(async (request) => [await onnx.predict(request), await layers.predict(request)] as const),
      );
      for (const [at, [{ scores, scoreDim }, ours]] of answers.entries()) {
        const request = requests[at] as PredictRequest;
        expect(scoreDim).toBe(1);
        expectClose(scores, referenceScores(models, request, request.items as number));
        expectClose(scores, [...ours.scores]);
      }
    },
  );

  test('an output of rank 1 is one score per item', async () => {
    const dir = await withOnnx(models.dir, onnxFixture('dlrm.onnx'), DLRM, ['logit']);
    directories.push(dir);
    const [onnx, request] = [await open(dir), smallRequest(random(8), 7)];
    const expected = referenceScores(models, request, 7).map((score) => Math.log(score / (1 - score)));
    expectClose((await onnx.predict(request)).scores, expected);
  });

  test('further outputs are given by their names', async () => {
    const dir = await withOnnx(models.dir, onnxFixture('dlrm.onnx'), DLRM, ['logit', 'top']);
    directories.push(dir);
    const [onnx, request] = [await open(dir), smallRequest(random(8), 7)];
    const expected = referenceScores(models, request, 7);
    const { scores, outputs } = await onnx.predict(request);
    expectClose(outputs?.['top'] as Float32Array, expected);
    expectClose(
      scores,
      expected.map((score) => Math.log(score / (1 - score))),
    );
  });

  test("a user's row is repeated for all items, and is itself where the input has one row", async () => {
    const repeated = await open(models.onnxDir);
    const next = random(17);
    const request = smallRequest(next, 4);
    const row = Array.from({ length: DENSE }, () => next());
    const items = (values: readonly number[]): number[] => [...values, ...values, ...values, ...values];
    const [once, perItem] = await Promise.all([
      repeated.predict({ ...request, dense: { dense: row } }),
      repeated.predict({ ...request, dense: { dense: items(row) } }),
    ]);
    expect(once.scores).toEqual(perItem.scores);
    const one = await open(
      await bundleOf('user-row.onnx', {
        file: 'parts/user.onnx',
        inputs: [
          { name: 'user', value: 'weighted' },
          { name: 'sum', value: 'sum' },
        ],
        outputs: [{ name: 'score', layer: 'top', dim: 1 }],
      }),
    );
    const bagSum = (table: number, name: string, bag: number): number => {
      const { indices, offsets, weights } = request.sparse[name] as { indices: Int32Array; offsets: number[]; weights?: Float32Array };
      let sum = 0;
      for (let at = offsets[bag] as number; at < (offsets[bag + 1] as number); at++) {
        const from = (indices[at] as number) * 12;
        const values = (models.tables[table] as Float32Array).subarray(from, from + 12);
        sum += (weights?.[at] ?? 1) * values.reduce((total, value) => total + value, 0);
      }
      return sum;
    };
    const { scores } = await one.predict(request);
    for (const [item, score] of scores.entries()) expect(score).toBeCloseTo(bagSum(0, 'sum', item) + 2 * bagSum(2, 'weighted', 0), 4);
    const perItemWeighted = { ...request, sparse: { ...request.sparse, weighted: { indices: [], offsets: [0, 0, 0, 0, 0], weights: [] } } };
    expect(await fails(one.predict(perItemWeighted))).toMatchObject({ code: 'invalid_argument', details: { field: 'weighted' } });
    expect((await one.predict({ ...request, items: 0, ...smallRequest(next, 0) })).scores).toEqual(new Float32Array(0));
  });

  test('has these scores on shards in every rpc mode, from what was published, and in batches', async () => {
    const spec = await readModelSpec(models.onnxDir);
    const whole = capacityPlan(spec, 2);
    const split: Plan = {
      ...whole,
      tables: whole.tables.map(({ table, parts }, t) => ({ table, parts: t === 2 ? ['shard-0', 'shard-1'] : parts })),
    };
    const modes: Partial<ConnectOptions>[] = [{}, { dedup: true }, { rpc: 'paper' }, { rpc: 'paper', batchItems: 3 }];
    const local = await open(models.onnxDir);
    const clusters: Cluster[] = [];
    try {
      for (const plan of [whole, split]) {
        const out = await mkdtemp(join(tmpdir(), 'terabag-test-'));
        directories.push(out);
        await publish(plan, models.onnxDir, out);
        const cluster = await launchCluster(plan, { bundle: out, ephemeralPorts: true, logLevel: 'error' });
        clusters.push(cluster);
        for (const mode of modes) {
          const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: out, ...mode });
          opened.push(predictor);
          const next = random(23);
          for (const items of [1, 4, 10]) {
            const request = smallRequest(next, items);
            const [{ scores }, ours] = [await predictor.predict(request), await local.predict(request)];
            expectClose(scores, referenceScores(models, request, items));
            expectClose(scores, [...ours.scores]);
          }
        }
      }
    } finally {
      for (const predictor of opened.splice(0)) await predictor.close();
      for (const cluster of clusters) await cluster.stop();
    }
  });

  test('a request ends at its deadline or abort while its run goes on beside the event loop, and the next have their own scores', async () => {
    const predictor = await open(await bundleOf('slow.onnx'), { onnx: { threads: 1 } });
    const calibrated = performance.now();
    expect([...(await predictor.predict(slowRequest(20), { deadlineMs: 60_000 })).scores]).toEqual(slowScores(20));
    const turns = Math.ceil((20 * 1500) / (performance.now() - calibrated));
    const startedAt = performance.now();
    let turnsOfLoop = 0;
    const timer = setInterval(() => turnsOfLoop++, 5);
    const abort = new AbortController();
    const errors = Promise.all([
      fails(predictor.predict(slowRequest(turns), { deadlineMs: 100 })),
      fails(predictor.predict(slowRequest(turns), { deadlineMs: 60_000, signal: abort.signal })),
      ...Array.from({ length: 20 }, () => fails(predictor.predict(slowRequest(turns), { deadlineMs: 150 }))),
    ]);
    setTimeout(() => abort.abort(), 120);
    const codes = (await errors).map((error) => (error as { code: string }).code);
    clearInterval(timer);
    expect(codes).toEqual(['deadline_exceeded', 'aborted', ...Array.from({ length: 20 }, () => 'deadline_exceeded')]);
    expect(performance.now() - startedAt).toBeLessThan(1000);
    // One run holds a loop for longer than all of this took.
    expect(turnsOfLoop).toBeGreaterThan(10);
    expect(predictor.stats()).toMatchObject({ inFlight: 0 });
    expect(predictor.stats().lingering).toBeGreaterThan(0);
    const answers = await Promise.all([1, 2, 3].map((items) => predictor.predict(slowRequest(1, items), { deadlineMs: 60_000 })));
    for (const [at, { scores }] of answers.entries()) expect([...scores]).toEqual(slowScores(1, at + 1));
    // Two had been handed to the thread; the others never ran.
    expect(performance.now() - startedAt).toBeLessThan(15_000);
    expect(predictor.stats()).toMatchObject({ inFlight: 0, lingering: 0 });
  });

  test('a run that fails is an error of its request alone', async () => {
    const predictor = await open(await bundleOf('three-items.onnx'));
    const [two, three] = await Promise.all([fails(predictor.predict(slowRequest(1, 2))), predictor.predict(slowRequest(1, 3))]);
    expect(two).toMatchObject({ code: 'bad_model', details: { file: 'dense.onnx' } });
    expect([...three.scores]).toEqual(slowScores(1, 3));
  });

  test('what onnxruntime refuses is refused when it is opened, with its reason', async () => {
    expect(await fails(openLocal(await bundleOf('unknown-operator.onnx')))).toMatchObject({
      code: 'bad_model',
      message: expect.stringMatching(/onnxruntime does not run dense.onnx: .*NoSuchOperator/),
    });
  });

  test.each([
    [{ onnx: { threads: 0 } }, 'onnx.threads'],
    [{ onnx: { threads: 1.5 } }, 'onnx.threads'],
    [{ onnx: { workers: 65 } }, 'onnx.workers'],
    [{ precision: 'bf16' as const }, 'precision'],
    [{ maxInFlight: 0 }, 'maxInFlight'],
  ])('options %o are refused, and leave no thread behind', async (options, field) => {
    const before = await threads();
    expect(await fails(openLocal(models.onnxDir, options))).toMatchObject({ code: 'invalid_argument', details: { field } });
    await expect.poll(threads).toBeLessThanOrEqual(before);
  });

  test('closing ends the threads and gives back the memory', async () => {
    const request = smallRequest(random(2), 9);
    const serve = async (): Promise<void> => {
      const predictor = await openLocal(models.onnxDir, { deadlineMs: 10_000, onnx: { threads: 2, workers: 2 } });
      await predictor.predict(request);
      await predictor.close();
      await predictor.close();
      expect(await fails(predictor.predict(request))).toMatchObject({ code: 'closed' });
    };
    for (let n = 0; n < 3; n++) await serve();
    const [before, rss] = [await threads(), process.memoryUsage.rss()];
    for (let n = 0; n < 12; n++) await serve();
    await expect.poll(threads).toBeLessThanOrEqual(before);
    expect(process.memoryUsage.rss() - rss).toBeLessThan(48 * 2 ** 20);
  });

  test('its run is the dense time of traces', async () => {
    const trace = new Tracer({ cpu: true });
    const predictor = await open(await bundleOf('slow.onnx'), { trace, onnx: { threads: 1 } });
    await predictor.predict(slowRequest(1), { deadlineMs: 60_000 });
    const startedAt = performance.now();
    await predictor.predict(slowRequest(40), { deadlineMs: 60_000 });
    const us = (performance.now() - startedAt) * 1000;
    await sleep(1);
    const traced = trace.requests()[1] as ReturnType<Tracer['requests']>[number];
    const [job] = traced.jobs.filter(({ kind }) => kind === 'dense');
    expect(job).toMatchObject({ onThread: true, interactionShare: 0 });
    const { layers, totalUs } = latencyStack(traced);
    expect(layers.dense).toBeGreaterThan(0.8 * totalUs);
    expect(layers.dense).toBeLessThan(us);
    expect(computeStack(traced).layers.dense).toBe(job?.ranUs);
  });

  const given = 'predictor.predict(request, { deadlineMs: 20 }).catch(() => undefined);';
  test.each(['', given, `${given} setTimeout(() => process.exit(0), 5);`, `${given} setTimeout(() => process.exit(0), 60);`])(
    'a process that does not close its predictor ends by itself: %s',
    async (program) => {
      const script = `
        import { openLocal } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
        const predictor = await openLocal(${JSON.stringify(await bundleOf('slow.onnx'))}, { deadlineMs: 10_000 });
        const request = { ...${JSON.stringify({ items: 1, dense: { dense: [60, 0, 0, 0, 0] }, sparse: NO_BAGS })} };
        ${program}
        console.log('ends');`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'pipe'] });
      let [printed, told] = ['', ''];
      child.stdout.on('data', (chunk: Buffer) => (printed += chunk.toString()));
      child.stderr.on('data', (chunk: Buffer) => (told += chunk.toString()));
      const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
      const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
      clearTimeout(timer);
      expect({ code, signal, printed, told }).toEqual({ code: 0, signal: null, printed: 'ends\n', told: '' });
    },
  );
});

/** Of this process. */
const threads = async (): Promise<number> => (await readdir('/proc/self/task')).length;
