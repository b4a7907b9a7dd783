import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cluster, connect, launchCluster, openLocal, type Plan, type Predictor, TerabagError } from '../../src/index.js';
import type { BagsInput, PredictRequest } from '../../src/predictor/predictor.js';
import { allBags, bagsOf, type NetsModel, netsRequest, netsScores, repeatedBags, writeNetsModel } from '../reference/nets-model.js';
import { capacityPlan } from '../reference/plans.js';
import { settlesWithin } from '../reference/settles.js';
import { random } from '../reference/small-model.js';

type Mode = Pick<Parameters<typeof connect>[1], 'rpc' | 'batchItems' | 'dedup'>;
const MODES: readonly Mode[] = [
  {},
  { dedup: true },
  { rpc: 'paper' },
  { rpc: 'paper', batchItems: 1 },
  { rpc: 'paper', batchItems: 3 },
  { rpc: 'paper', batchItems: 4, dedup: true },
];
const SHARDS = ['shard-0', 'shard-1', 'shard-2'];
const bits = (scores: Float32Array): Uint32Array => new Uint32Array(scores.buffer, scores.byteOffset, scores.length);

describe.each([2, 3])('a model of %i nets', (nets) => {
  const shape = { seed: 40 + nets, nets, tablesPerNet: 4, rows: 60, dim: 9, hidden: 37 };
  let model: NetsModel;
  let local: Predictor;
  let clusters: Cluster[];
  /** Whole tables; the same, with every third table on main; and some tables split by rows. */
  let plans: { readonly whole: Plan; readonly main: Plan; readonly split: Plan };
  const opened: Predictor[] = [];

  const open = async (plan: Plan, mode: Mode): Promise<Predictor> => {
    const predictor = await connect(plan, { deadlineMs: 10_000, bundle: model.dir, ...mode });
    opened.push(predictor);
    return predictor;
  };
  const openAll = (plan: Plan): Promise<Predictor[]> => Promise.all(MODES.map((mode) => open(plan, mode)));

  beforeAll(async () => {
    model = await writeNetsModel(join(await mkdtemp(join(tmpdir(), 'terabag-test-')), 'model'), shape);
    local = await openLocal(model.dir, { deadlineMs: 10_000 });
    const whole = capacityPlan(model.spec, 3);
    const split = { ...whole, tables: whole.tables.map(({ table, parts }, t) => ({ table, parts: t % 2 === 0 ? SHARDS : parts })) };
    const onMain = { ...whole, tables: whole.tables.map(({ table, parts }, t) => ({ table, parts: t % 3 === 0 ? ['main'] : parts })) };
    clusters = await Promise.all(
      [whole, split, onMain].map((plan) => launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error' })),
    );
    const [served, servedSplit, servedOnMain] = clusters.map(({ plan }) => plan) as [Plan, Plan, Plan];
    plans = { whole: served, main: servedOnMain, split: servedSplit };
  });

  afterAll(async () => {
    await Promise.all([local, ...opened].map((predictor) => predictor?.close()));
    await Promise.all(clusters?.map((cluster) => cluster.stop()) ?? []);
    await rm(join(model.dir, '..'), { recursive: true });
  });

  const given = fc
    .record({
      seed: fc.integer({ min: 1, max: 1e9 }),
      items: fc.integer({ min: 1, max: 14 }),
      poolingFactor: fc.constantFrom(1, 2, 5),
      differentBags: fc.integer({ min: 1, max: 5 }),
      once: fc.array(fc.boolean(), { minLength: 20, maxLength: 20 }),
    })
    .map(({ seed, items, poolingFactor, differentBags, once }) => {
      const names = allBags(shape).map(({ name }) => name);
      const options = { poolingFactor, differentBags, once: (bag: string) => once[names.indexOf(bag)] === true };
      return { items, request: netsRequest(shape, random(seed), items, options) };
    });

  function expectReference(scores: Float32Array, request: PredictRequest, items: number): void {
    netsScores(model, request, items).forEach((score, item) => expect(Math.abs((scores[item] as number) - score)).toBeLessThan(1e-5));
  }

  test('all modes give the bits of the local predictor, with tables of main or without', async () => {
    const predictors = [...(await openAll(plans.whole)), ...(await openAll(plans.main))];
    await fc.assert(
      fc.asyncProperty(given, async ({ request, items }) => {
        const expected = (await local.predict(request)).scores;
        expectReference(expected, request, items);
        const answers = await Promise.all(predictors.map((predictor) => predictor.predict(request)));
        for (const { scores } of answers) expect(bits(scores)).toEqual(bits(expected));
      }),
      { numRuns: 100 },
    );
  });

  test('all modes give the same bits for a plan that splits tables, every time', async () => {
    const predictors = await openAll(plans.split);
    await fc.assert(
      fc.asyncProperty(given, async ({ request, items }) => {
        const answers = await Promise.all([...predictors, ...predictors].map((predictor) => predictor.predict(request)));
        const [first] = answers as [(typeof answers)[number]];
        expectReference(first.scores, request, items);
        for (const { scores } of answers) expect(bits(scores)).toEqual(bits(first.scores));
      }),
      { numRuns: 100 },
    );
  });

  test('requests side by side do not disturb one another', async () => {
    for (const plan of [plans.whole, plans.main, plans.split]) {
      for (const predictor of await openAll(plan)) {
        const next = random(17);
        const requests = Array.from({ length: 30 }, (_, n) =>
          netsRequest(shape, next, 1 + (n % 13), { poolingFactor: 4, differentBags: 3 }),
        );
        const alone: Float32Array[] = [];
        for (const request of requests) alone.push((await predictor.predict(request)).scores);
        const together = await Promise.all(requests.map((request) => predictor.predict(request)));
        together.forEach(({ scores }, n) => expect(bits(scores)).toEqual(bits(alone[n] as Float32Array)));
      }
    }
  });

  test('paper sends one RPC per batch, net and shard that it touches, coalesced one per shard', async () => {
    const request = netsRequest(shape, random(3), 10, { poolingFactor: 3 });
    /** Shards of the tables of these layers that items [from, to) have ids of. */
    const shardsOf = (bags: readonly { readonly name: string; readonly table: string }[], from: number, to: number): number => {
      const asked = bags.filter(({ name }) => {
        const { offsets } = request.sparse[name] as BagsInput;
        const [first, end] = offsets.length === 2 ? [0, 1] : [from, to];
        return (offsets[end] as number) > (offsets[first] as number);
      });
      return new Set(asked.flatMap(({ table }) => plans.whole.tables.find((placed) => placed.table === table)?.parts ?? [])).size;
    };
    const inBatches = (batchItems: number): number => {
      let rpcs = 0;
      for (let from = 0; from < 10; from += batchItems)
        for (let net = 0; net < nets; net++) rpcs += shardsOf(bagsOf(shape, net), from, Math.min(10, from + batchItems));
      return rpcs;
    };
    expect(inBatches(10)).toBeGreaterThan(3);
    expect(inBatches(1)).toBeGreaterThan(9 * inBatches(10));
    for (const [mode, expected] of [
      [{}, shardsOf(allBags(shape), 0, 10)],
      [{ rpc: 'paper' }, inBatches(10)],
      [{ rpc: 'paper', batchItems: 4 }, inBatches(4)],
      [{ rpc: 'paper', batchItems: 1 }, inBatches(1)],
    ] as const) {
      const predictor = await open(plans.whole, mode);
      for (let n = 1; n <= 3; n++) {
        await predictor.predict(request);
        expect(predictor.stats()['sent']).toBe(n * expected);
      }
    }
  });

  test('a row-wise table is asked for only where a request has ids on it', async () => {
    const table = 'n0_t1';
    const bag = 'n0_b1';
    const tables = plans.split.tables.map((placed) => ({ table: placed.table, parts: placed.table === table ? SHARDS : ['main'] }));
    // The shards have to hold the parts.
    const cluster = await launchCluster({ ...plans.split, tables }, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error' });
    try {
      for (const mode of MODES) {
        const predictor = await open(cluster.plan, mode);
        for (const [ids, shards] of [
          [[], 0],
          [[4], 1],
          [[4, 7, 1], 1],
          [[0, 5], 2],
          [[3, 4, 5, 6], 3],
        ] as const) {
          const before = predictor.stats()['sent'] as number;
          const request = netsRequest(shape, random(5), 1, { poolingFactor: 2 });
          const sparse = { ...request.sparse, [bag]: { indices: Int32Array.from(ids), offsets: [0, ids.length] } };
          const { scores } = await predictor.predict({ ...request, sparse });
          expectReference(scores, { ...request, sparse }, 1);
          expect((predictor.stats()['sent'] as number) - before).toBe(shards);
        }
      }
    } finally {
      await Promise.all(opened.splice(-MODES.length).map((predictor) => predictor.close()));
      await cluster.stop();
    }
  });

  test('bags given once cross the wire once, and give the bits of the same bags given per item', async () => {
    const once = netsRequest(shape, random(8), 64, { poolingFactor: 6 });
    const repeated = repeatedBags(once);
    const ids = (request: PredictRequest): number => Object.values(request.sparse).reduce((sum, { indices }) => sum + indices.length, 0);
    /** Vectors of layers that have any id. */
    const asked = (request: PredictRequest): number =>
      Object.values(request.sparse).reduce((sum, { offsets }) => sum + (offsets.at(-1) === 0 ? 0 : offsets.length - 1), 0);
    for (const mode of [{}, { dedup: true }]) {
      const predictor = await open(plans.whole, mode);
      const counted = async (request: PredictRequest) => {
        const before = predictor.stats();
        const { scores } = await predictor.predict(request);
        const grown = (name: 'bytesSent' | 'bytesReceived'): number => predictor.stats()[name] - before[name];
        expect(bits(scores)).toEqual(bits((await local.predict(request)).scores));
        return { scores, sent: grown('bytesSent'), received: grown('bytesReceived') };
      };
      const [one, many] = [await counted(once), await counted(repeated)];
      expect(bits(many.scores)).toEqual(bits(one.scores));
      // Ids are 4 bytes, offsets 4 a bag, vectors 4 a value; besides, weights, and the headers of three messages.
      expect(one.sent).toBeGreaterThan(4 * (ids(once) + asked(once)));
      expect(one.received - asked(once) * shape.dim * 4).toBeLessThan(200);
      if (mode.dedup) {
        expect(many.received).toBe(one.received);
        continue;
      }
      expect(many.sent - one.sent).toBeGreaterThanOrEqual(4 * (ids(repeated) - ids(once) + asked(repeated) - asked(once)));
      expect(many.received - one.received).toBeGreaterThanOrEqual((asked(repeated) - asked(once)) * shape.dim * 4);
    }
  });

  test('a bad id in any batch has the same error everywhere, and the next request is answered', async () => {
    const predictors = [...(await openAll(plans.whole)), ...(await openAll(plans.main)), ...(await openAll(plans.split))];
    const request = netsRequest(shape, random(21), 9, { poolingFactor: 1 });
    const expected = await Promise.all(predictors.map(async (predictor) => (await predictor.predict(request)).scores));
    for (const { name } of allBags(shape)) {
      const bags = request.sparse[name] as BagsInput;
      for (const position of [0, bags.indices.length - 1]) {
        for (const id of [60, -1, 60n, 1.5]) {
          const ids = Array.from(bags.indices as Int32Array, (value, at): number | bigint => (at === position ? id : value));
          const indices = typeof id === 'number' && Number.isInteger(id) ? Int32Array.from(ids as number[]) : ids;
          const bad = { ...request, sparse: { ...request.sparse, [name]: { ...bags, indices } } };
          const errorOf = (predictor: Predictor) =>
            predictor.predict(bad).then(
              () => expect.fail(`accepted ${id} in ${name}`),
              (error: TerabagError) => error,
            );
          const [known, ...others] = await Promise.all([local, ...predictors].map(errorOf));
          expect(known).toBeInstanceOf(TerabagError);
          expect(known?.details).toMatchObject({ bag: position, position });
          for (const error of others) expect([error.code, error.message]).toEqual([known?.code, known?.message]);
        }
      }
    }
    for (const [at, predictor] of predictors.entries()) expect((await predictor.predict(request)).scores).toEqual(expected[at]);
  });

  test('a bad id of a table on main that native threads find while the dense layers run ends in a typed error', async () => {
    const items = 3000;
    const request = netsRequest(shape, random(9), items, { poolingFactor: 20 });
    for (const mode of MODES.filter(({ batchItems = 1000 }) => batchItems > 4)) {
      const predictor = await open(plans.main, mode);
      const bags = request.sparse['n0_b3'] as BagsInput;
      const indices = Int32Array.from(bags.indices as Int32Array);
      const position = indices.length - 1;
      indices[position] = 60;
      const bad = { ...request, sparse: { ...request.sparse, n0_b3: { ...bags, indices } } };
      const answer = predictor.predict(bad, { deadlineMs: 20_000 });
      await expect(answer).rejects.toMatchObject({ code: 'index_out_of_range', details: { position } });
      const { scores } = await predictor.predict(request, { deadlineMs: 20_000 });
      expect(bits(scores)).toEqual(bits((await local.predict(request, { deadlineMs: 20_000 })).scores));
    }
  });

  test('while a shard is away every mode ends by the deadline with its name, and answers when it is back', async () => {
    const request = netsRequest(shape, random(13), 8, { poolingFactor: 3 });
    const predictors = await openAll(plans.whole);
    const expected = (await local.predict(request)).scores;
    // Stopped, since a killed one may be back before a deadline that the other shard keeps on a busy machine.
    clusters[0]?.kill('shard-1', 'SIGSTOP');
    const failures = predictors.map(async (predictor) => {
      const asked = predictor.predict(request, { deadlineMs: 500 });
      expect(await settlesWithin(500 + 150, asked)).toBe(true);
      const error = await asked.catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ details: { shard: 'shard-1' } });
      expect(['shard_unavailable', 'deadline_exceeded']).toContain((error as TerabagError).code);
    });
    await Promise.all(failures).finally(() => clusters[0]?.kill('shard-1', 'SIGKILL'));
    for (const predictor of predictors) {
      expect(bits((await predictor.predict(request, { deadlineMs: 10_000 })).scores)).toEqual(bits(expected));
      expect(predictor.stats()['inFlight']).toBe(0);
    }
  });

  test('an aborted request sends nothing more, and its buffers serve the next one', async () => {
    const request = netsRequest(shape, random(14), 8, { poolingFactor: 3 });
    const expected = (await local.predict(request)).scores;
    for (const mode of MODES) {
      const predictor = await open(plans.whole, mode);
      const abort = new AbortController();
      const answer = predictor.predict(request, { signal: abort.signal });
      const sent = predictor.stats()['sent'];
      abort.abort();
      await expect(answer).rejects.toMatchObject({ code: 'aborted' });
      expect(bits((await predictor.predict(request)).scores)).toEqual(bits(expected));
      const whole = (predictor.stats()['sent'] as number) - (sent as number);
      const complete = await open(plans.whole, mode);
      await complete.predict(request);
      expect(whole).toBe(complete.stats()['sent']);
    }
  });

  test('options that do not fit are refused before anything is opened', async () => {
    for (const options of [{ rpc: 'each' }, { batchItems: 4 }, { rpc: 'paper', batchItems: 0 }, { rpc: 'paper', batchItems: 1.5 }])
      await expect(connect(plans.whole, { bundle: 'nowhere', ...options } as never)).rejects.toMatchObject({ code: 'invalid_argument' });
    const predictor = await open(plans.whole, { rpc: 'paper', batchItems: 1 });
    const many = netsRequest(shape, random(4), 1025, { poolingFactor: 1 });
    await expect(predictor.predict(many)).rejects.toMatchObject({
      code: 'invalid_argument',
      details: { field: 'batchItems', items: 1025 },
    });
  });
});
