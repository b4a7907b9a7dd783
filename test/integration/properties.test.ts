import { rm } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type Cluster,
  connect,
  launchCluster,
  openLocal,
  type Plan,
  type Predictor,
  type PredictRequest,
  TerabagError,
} from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { capacityPlan } from '../reference/plans.js';
import { random, referenceLogits, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';
import { brokenRequest, type ItemsRequest, validRequest } from '../reference/small-requests.js';

let model: SmallModel;
let clusters: Cluster[];
let local: Predictor;
/** Two shards with whole tables; three shards that hold a third of every table's rows. */
let tableWise: Predictor;
let rowWise: Predictor;

beforeAll(async () => {
  model = await writeSmallModel(31, { activation: 'none', exact: true });
  local = await openLocal(model.dir, { deadlineMs: 10_000 });
  const spec = await readModelSpec(model.dir);
  const plan = (shards: number): Plan => capacityPlan(spec, shards);
  const thirds = plan(3);
  const split = { ...thirds, tables: thirds.tables.map(({ table }) => ({ table, parts: thirds.shards.map(({ name }) => name) })) };
  clusters = await Promise.all(
    [plan(2), split].map((each) => launchCluster(each, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error', restart: false })),
  );
  [tableWise, rowWise] = (await Promise.all(
    clusters.map((cluster) => connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir })),
  )) as unknown as [Predictor, Predictor];
});

afterAll(async () => {
  await Promise.all([local, tableWise, rowWise].map((predictor) => predictor?.close()));
  await Promise.all(clusters?.map((cluster) => cluster.stop()) ?? []);
  await rm(model.dir, { recursive: true });
});

/** Rounding is relative to what was added up, not to what is left after cancellation. */
function expectReference(scores: Float32Array, { request, items }: ItemsRequest, tolerance = 1e-5): void {
  const { logits, scales } = referenceLogits(model, request, items);
  expect(scores.length).toBe(items);
  logits.forEach((logit, item) => {
    const score = scores[item] as number;
    if (Number.isFinite(logit)) expect(Math.abs(score - logit)).toBeLessThanOrEqual(tolerance * (scales[item] as number));
    else expect(score).toBe(logit);
  });
}

const bits = (scores: Float32Array): Uint32Array => new Uint32Array(scores.buffer, scores.byteOffset, scores.length);

test('every valid request gets the scores of the float64 reference, and table-wise shards give the bits of the local predictor', async () => {
  await fc.assert(
    fc.asyncProperty(validRequest({ minItems: 0, minIds: 0 }), async (valid) => {
      const [one, two, three] = await Promise.all([local, tableWise, rowWise].map((predictor) => predictor.predict(valid.request)));
      expectReference(one!.scores, valid);
      expect(bits(two!.scores)).toEqual(bits(one!.scores));
      expectReference(three!.scores, valid);
    }),
    { numRuns: 500 },
  );
});

test('every broken request ends in the same typed error everywhere, and the next valid one is answered right', async () => {
  const seen = new Set<string>();
  const next: ItemsRequest = { request: smallRequest(random(4), 3), items: 3 };
  await fc.assert(
    fc.asyncProperty(brokenRequest, async ({ what, request, code, details }) => {
      const errors = await Promise.all(
        [local, tableWise, rowWise].map((predictor) =>
          predictor.predict(request).then(
            () => expect.fail(`accepted: ${what}`),
            (error: unknown) => error,
          ),
        ),
      );
      for (const error of errors) {
        expect(error, what).toBeInstanceOf(TerabagError);
        expect(error, what).toMatchObject({ code, details });
        expect((error as TerabagError).message).toBe((errors[0] as TerabagError).message);
      }
      seen.add(code);
      for (const predictor of [local, tableWise, rowWise]) expectReference((await predictor.predict(next.request)).scores, next);
    }),
    { numRuns: 500 },
  );
  expect([...seen].sort()).toEqual(['bad_offsets', 'index_out_of_range', 'invalid_argument']);
});

test('a bag of a million ids is pooled right everywhere, and its last id is checked', async () => {
  const count = 1_000_000;
  const next = random(6);
  const indices = Int32Array.from({ length: count }, () => Math.floor(next() * 50));
  const request: PredictRequest = { ...smallRequest(next, 2), items: 2 };
  const big = { ...request, sparse: { ...request.sparse, sum: { indices, offsets: [0, count] } } };
  const bad = Int32Array.from(indices);
  bad[count - 1] = 50;
  for (const predictor of [local, tableWise, rowWise]) {
    const { scores } = await predictor.predict(big, { deadlineMs: 20_000 });
    // The tables' values are multiples of 1/128, so that even this sum is (nearly) exact, and few lost ids would show.
    expectReference(scores, { request: big, items: 2 }, 2e-7);
    await expect(
      predictor.predict({ ...big, sparse: { ...big.sparse, sum: { indices: bad, offsets: [0, count] } } }, { deadlineMs: 20_000 }),
    ).rejects.toMatchObject({ code: 'index_out_of_range', details: { table: 't0', bag: 0, position: count - 1, index: '50' } });
  }
});

test('a caller may change its arrays as soon as predict has returned its promise', async () => {
  for (const predictor of [local, tableWise, rowWise]) {
    const next = random(12);
    for (let n = 0; n < 20; n++) {
      const { request, items } = { request: smallRequest(next, 4), items: 4 };
      // Large enough that native threads pool it after predict has returned.
      const mean = {
        indices: Int32Array.from({ length: 40_000 }, () => Math.floor(next() * 7)),
        offsets: Int32Array.of(0, 10_000, 10_001, 30_000, 40_000),
      };
      const given = { ...request, sparse: { ...request.sparse, mean } };
      const kept = structuredClone(given);
      const answer = predictor.predict(given, { deadlineMs: 20_000 });
      mean.indices.fill(-1);
      mean.offsets.fill(12345);
      (given.dense['dense'] as Float32Array).fill(Number.NaN);
      for (const { indices } of Object.values(given.sparse))
        structuredClone(indices, { transfer: [(indices as Int32Array<ArrayBuffer>).buffer] });
      expectReference((await answer).scores, { request: kept, items });
    }
  }
});

test('arrays whose buffer was transferred away are refused', async () => {
  const detach = <T extends Int32Array<ArrayBuffer> | Float32Array<ArrayBuffer>>(array: T): T => {
    structuredClone(array, { transfer: [array.buffer] });
    return array;
  };
  const make = () => {
    const request = smallRequest(random(14), 2);
    return { ...request, sparse: { ...request.sparse, sum: { indices: Int32Array.of(1, 2, 3), offsets: Int32Array.of(0, 1, 3) } } };
  };
  for (const predictor of [local, tableWise, rowWise]) {
    for (const field of ['indices', 'offsets'] as const) {
      const request = make();
      detach(request.sparse.sum[field]);
      await expect(predictor.predict(request)).rejects.toMatchObject({ code: 'bad_offsets', details: { table: 't0' } });
    }
    const request = make();
    detach(request.dense['dense'] as Float32Array<ArrayBuffer>);
    await expect(predictor.predict(request)).rejects.toMatchObject({ code: 'invalid_argument', details: { field: 'dense' } });
  }
});
