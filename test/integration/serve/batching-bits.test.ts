import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { native, type Precision } from '../../../src/engine/native.js';
import { type Cluster, connect, launchCluster, openLocal, type Predictor, type PredictRequest } from '../../../src/index.js';
import { type ModelShape, mapTables, tablesOf } from '../../../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../../../src/lab/generate/request-generator.js';
import { requestShape } from '../../../src/lab/generate/request-shape.js';
import { shapeByName } from '../../../src/lab/generate/shape-by-name.js';
import { writeSyntheticBundle } from '../../../src/lab/generate/synthetic-bundle.js';
import { readModelSpec } from '../../../src/model/bundle.js';
import type { Prediction } from '../../../src/predictor/predictor.js';
import { BatchingPredictor } from '../../../src/serve/batching/batching-predictor.js';
import { capacityPlan } from '../../reference/plans.js';
import { randomRequest, writeRandomModel } from '../../reference/random-model.js';
import { writeSequenceModel } from '../../reference/sequence-model.js';
import { requestOf, sequenceRequests } from '../../reference/sequence-requests.js';
import { random, writeSmallModel } from '../../reference/small-model.js';
import { validRequest } from '../../reference/small-requests.js';

const PATIENT = { deadlineMs: 60_000 };
let dir: string;
const closers: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
});
afterAll(async () => {
  for (const close of closers.reverse()) await close();
  await rm(dir, { recursive: true });
});

async function opened<P extends Predictor>(predictor: Promise<P>): Promise<P> {
  const open = await predictor;
  closers.push(() => open.close());
  return open;
}

const bitsOf = ({ scores, outputs = {}, items, scoreDim }: Prediction): unknown => [
  ...[items, scoreDim, Buffer.from(scores.buffer, scores.byteOffset, scores.byteLength).toString('hex')],
  ...Object.entries(outputs).map(([name, values]) => [
    name,
    Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('hex'),
  ]),
];

/** The first keeps the predictor busy, and the others run together. */
async function expectSameBits(predictor: Predictor, requests: readonly PredictRequest[], alone = predictor): Promise<void> {
  const batching = new BatchingPredictor(predictor, { ...PATIENT, maxDelayMs: 10_000 });
  const first = batching.predict(requests[0] as PredictRequest);
  const together = await Promise.all([first, ...requests.map((request) => batching.predict(request))]);
  const { mergedRequests, rerunRequests } = batching.batchingStats();
  const runnable = requests.filter(({ items }) => items !== 0).length;
  expect([mergedRequests, rerunRequests]).toEqual([runnable < 2 ? 0 : runnable, 0]);
  for (const [n, request] of requests.entries()) expect(bitsOf(together[n + 1]!)).toEqual(bitsOf(await alone.predict(request, PATIENT)));
}

/** Layers of the user's and the items' side, in all that models are made of here; user's bags large, and now and then empty. */
const SHAPES: readonly string[] = ['drm2', 'rmc1', 'ncf', 'wide-and-deep', 'multi-task-wide-and-deep', 'din', 'dien', 'mlperf-dcnv2'];

function small(name: string): ModelShape {
  const shape = mapTables(shapeByName(name, 1e-6), (table) => ({ ...table, rows: Math.max(40, Math.min(table.rows, 200)) }));
  // Of many tables every eleventh will do.
  if (tablesOf(shape).length < 100) return shape;
  return { ...shape, nets: shape.nets.map((net) => ({ ...net, tables: net.tables.filter((_, table) => table % 11 === 0) })) };
}

describe.each(SHAPES)('%s', (name) => {
  test.each(native.precisions())('has the bits of a run alone in %s, whoever else is in the run', async (precision) => {
    const shape = small(name);
    const bundle = join(dir, `${name}-${precision}`);
    await writeSyntheticBundle(bundle, shape);
    const local = await opened(openLocal(bundle, { ...PATIENT, precision: precision as Precision }));
    const generator = new RequestGenerator(requestShape(shape), 7);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.constantFrom(1, 1, 2, 3, 8, 40), { minLength: 2, maxLength: 9 }), (sizes) =>
        expectSameBits(
          local,
          sizes.map((items) => generator.next(items)),
        ),
      ),
      { numRuns: 8 },
    );
  });
});

test('random models of bags that are summed, averaged and weighted, of all formats, in two nets', async () => {
  for (let seed = 1; seed <= 4; seed++) {
    const bundle = join(dir, `random-${seed}`);
    const spec = await writeRandomModel(bundle, seed);
    const local = await opened(openLocal(bundle, PATIENT));
    const next = random(seed);
    for (let round = 0; round < 6; round++) {
      const requests = Array.from({ length: 2 + Math.floor(next() * 8) }, () => randomRequest(spec, next, 1 + Math.floor(next() * 9)));
      await expectSameBits(local, requests);
    }
  }
});

test('sequences, of users and of items, with ids in every form', async () => {
  const { dir: bundle } = await writeSequenceModel(3);
  closers.push(() => rm(bundle, { recursive: true }));
  const local = await opened(openLocal(bundle, PATIENT));
  await fc.assert(
    fc.asyncProperty(fc.array(sequenceRequests, { minLength: 2, maxLength: 6 }), (drawn) =>
      expectSameBits(
        local,
        drawn.map(({ items, given }) => requestOf(items, given)),
      ),
    ),
    { numRuns: 60 },
  );
});

describe('requests of every form', () => {
  const requests = fc.array(validRequest({ minItems: 0, minIds: 0 }), { minLength: 2, maxLength: 7 });
  let bundle: string;
  const clusters: Cluster[] = [];
  const targets: { name: string; predictor: Predictor }[] = [];

  beforeAll(async () => {
    ({ dir: bundle } = await writeSmallModel(31, { activation: 'sigmoid' }));
    closers.push(() => rm(bundle, { recursive: true }));
    const spec = await readModelSpec(bundle);
    const whole = capacityPlan(spec, 2);
    const split = { ...whole, tables: whole.tables.map(({ table }) => ({ table, parts: whole.shards.map(({ name }) => name) })) };
    const [one, two] = await Promise.all(
      [whole, split].map((plan) => launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'error' })),
    );
    clusters.push(one!, two!);
    closers.push(() => Promise.all(clusters.map((cluster) => cluster.stop())));
    targets.push({ name: 'local', predictor: await opened(openLocal(bundle, PATIENT)) });
    for (const [name, cluster, options] of [
      ['shards', one!, {}],
      ['shards and dedup', one!, { dedup: true }],
      ['a table on several shards', two!, {}],
      ['an RPC a net and batches of 3 items', one!, { rpc: 'paper', batchItems: 3 }],
    ] as const)
      targets.push({ name, predictor: await opened(connect(cluster.plan, { bundle, ...PATIENT, ...options })) });
  });

  test('here, on shards, with dedup, with tables that are split, and with batches of a request', async () => {
    for (const { predictor, name } of targets)
      await fc
        .assert(
          fc.asyncProperty(requests, (drawn) =>
            expectSameBits(
              predictor,
              drawn.map(({ request, items }) => ({ ...request, items })),
            ),
          ),
          { numRuns: name === 'local' ? 150 : 30 },
        )
        .catch((error: Error) => {
          throw new Error(`${name}: ${error.message}`, { cause: error });
        });
  });
});
