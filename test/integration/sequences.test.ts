import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { RESIDENCIES } from '../../src/engine/residency.js';
import { connect, launchCluster, openLocal, type Predictor } from '../../src/index.js';
import { profileRequests, readRequests, recordRequests, writeRequests } from '../../src/lab/index.js';
import { SplittingPredictor } from '../../src/lab/requests/split-request.js';
import { openModel } from '../../src/model/open-model.js';
import { capacityPlan } from '../reference/plans.js';
import { type SequenceModel, sequenceScores, writeSequenceModel } from '../reference/sequence-model.js';
import { requestOf, sequenceRequests } from '../reference/sequence-requests.js';

let model: SequenceModel;
beforeAll(async () => {
  model = await writeSequenceModel(11);
});
afterAll(() => rm(model.dir, { recursive: true }));

const sample = (seed: number, numRuns: number) =>
  fc.sample(sequenceRequests, { seed, numRuns }).map(({ items, given }) => ({ items, request: requestOf(items, given) }));

/** A zero has no sign in a reference that adds in another order. */
const unsigned = (scores: Iterable<number>): number[] => [...scores].map((score) => score + 0);

async function expectReference(predictor: Predictor, seed: number): Promise<void> {
  for (const { items, request } of sample(seed, 40)) {
    const { scores } = await predictor.predict(request);
    expect(unsigned(scores)).toEqual(unsigned(sequenceScores(model, request, items)));
  }
}

test.each(RESIDENCIES)(
  'sequences have the rows of the tables with residency %s, local and on shards, whole tables and parts',
  async (residency) => {
    const { spec } = await openModel(model.dir);
    const whole = capacityPlan(spec, 2);
    const names = whole.shards.map(({ name }) => name);
    const split = { ...whole, tables: whole.tables.map(({ table, parts }, t) => ({ table, parts: t === 1 ? parts : names })) };
    const clusters = await Promise.all(
      [whole, split].map((plan) => launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error', residency })),
    );
    const predictors = [
      await openLocal(model.dir, { deadlineMs: 10_000, residency }),
      ...(await Promise.all(
        clusters.flatMap(({ plan }) => [
          connect(plan, { deadlineMs: 10_000, bundle: model.dir }),
          connect(plan, { deadlineMs: 10_000, bundle: model.dir, rpc: 'paper', batchItems: 2, dedup: true }),
        ]),
      )),
    ];
    for (const [at, predictor] of predictors.entries()) await expectReference(predictor, at);
    await Promise.all(predictors.map((predictor) => predictor.close()));
    await Promise.all(clusters.map((cluster) => cluster.stop()));
  },
);

test('requests with sequences go through recorders, files of both kinds, splitting and profiles', async () => {
  const local = await openLocal(model.dir, { deadlineMs: 10_000 });
  const { spec, model: resolved } = await openModel(model.dir);
  await expectReference(new SplittingPredictor(local, 2, spec.dense), 21);
  const requests = sample(22, 60);
  const recorded = join(model.dir, 'recorded.safetensors');
  const recorder = recordRequests(local, recorded);
  for (const { request } of requests) await recorder.predict(request);
  await recorder.close();
  const lines = join(model.dir, 'requests.jsonl');
  await writeRequests(
    lines,
    requests.map(({ request }) => request),
  );
  const replayed = await openLocal(model.dir, { deadlineMs: 10_000 });
  for (const path of [recorded, lines]) {
    let at = 0;
    for await (const read of readRequests(path)) {
      const { items, request } = requests[at++] as (typeof requests)[number];
      expect('request' in read && unsigned((await replayed.predict(read.request)).scores)).toEqual(
        unsigned(sequenceScores(model, request, items)),
      );
    }
    expect(at).toBe(requests.length);
    const { profile, bad } = await profileRequests({ spec, model: resolved }, path, { requests: 100 });
    expect([profile.requests, bad.count]).toEqual([requests.length, 0]);
  }
  await replayed.close();
});
