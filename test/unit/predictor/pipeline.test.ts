import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc, { type Scheduler } from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { DenseNet } from '../../../src/engine/dense-net.js';
import { SEGMENT_FIELDS } from '../../../src/engine/sparse-batch.js';
import { SparseEngine } from '../../../src/engine/sparse-engine.js';
import { engineTables } from '../../../src/engine/tables.js';
import { type ErrorCode, TerabagError } from '../../../src/errors.js';
import { type Bundle, openBundle } from '../../../src/model/bundle.js';
import { inStages, type ResolvedModel } from '../../../src/model/graph.js';
import { MAIN_SHARD, type Plan } from '../../../src/plan/file/plan.js';
import { openLocal } from '../../../src/predictor/local.js';
import { roundsOfNets } from '../../../src/predictor/modes/paper.js';
import { Pipeline, type PoolingShard, type ShardFailurePolicy } from '../../../src/predictor/pipeline.js';
import type { Prediction, Predictor, PredictRequest } from '../../../src/predictor/predictor.js';
import { roundOfPlan } from '../../../src/predictor/rounds.js';
import { allBags, netsRequest, writeNetsModel } from '../../reference/nets-model.js';
import { ROWS, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';
import { brokenInSeveralLayers, validRequest } from '../../reference/small-requests.js';

let files: SmallModel;
let bundle: Bundle;
let local: Predictor;
const engines: SparseEngine[] = [];
/** Layers in the model's order are on shards of another; tables split by rows; and tables on main too. */
let served: readonly Served[];

interface Served {
  readonly bundle: Bundle;
  readonly plan: Plan;
  /** By shard, in the plan's order; main's after the last. */
  readonly engines: readonly (SparseEngine | null)[];
}

const SHARDS = ['shard-0', 'shard-1', 'shard-2'];

async function serve(bundle: Bundle, parts: readonly (readonly string[])[]): Promise<Served> {
  const plan: Plan = {
    terabag: 1,
    model: { name: 'small', version: '1', hash: bundle.hash },
    shards: SHARDS.map((name) => ({ name, endpoints: [] })),
    tables: parts.map((each, t) => ({ table: bundle.spec.tables[t]?.name, parts: [...each] })),
  } as unknown as Plan;
  const byShard = await Promise.all(
    [...SHARDS, MAIN_SHARD].map(async (shard) => {
      const held = engineTables(bundle, (table) =>
        (parts[table] ?? []).flatMap((name, part) => (name === shard ? [{ part, parts: parts[table]?.length ?? 0 }] : [])),
      );
      return held.length === 0 ? null : SparseEngine.open(held);
    }),
  );
  engines.push(...byShard.filter((engine) => engine !== null));
  return { bundle, plan, engines: byShard };
}

beforeAll(async () => {
  files = await writeSmallModel(77, { activation: 'none', exact: true });
  bundle = await openBundle(files.dir);
  local = await openLocal(files.dir, { deadlineMs: 10_000 });
  served = [
    await serve(bundle, [['shard-2'], ['shard-1'], ['shard-0']]),
    await serve(bundle, [['shard-1'], ['main'], ['shard-0']]),
    await serve(bundle, [['shard-1', 'shard-0', 'shard-2'], ['shard-2', 'shard-1'], ['shard-1']]),
  ];
});

afterAll(async () => {
  await local.close();
  for (const engine of engines) engine.close();
  await rm(files.dir, { recursive: true });
});

/** How a shard fails: whatever it is asked, or when it is asked for one of these tables. */
type Failing = ErrorCode | 'short answer' | null | ReadonlySet<number>;

/** A shard that pools with its engine, when its turn comes. */
function shard(
  s: number,
  engine: SparseEngine | null,
  turn: (signal: AbortSignal | null) => Promise<void>,
  failing: Failing,
): PoolingShard {
  return {
    async pool(batch, { signal = null }) {
      const copy = structuredClone(batch);
      await turn(signal);
      const segments = new Uint32Array(Uint8Array.from(copy.segments).buffer);
      const asked = Array.from({ length: segments.length / SEGMENT_FIELDS }, (_, at) => segments[at * SEGMENT_FIELDS] as number);
      const failed = typeof failing === 'object' && asked.find((table) => failing?.has(table));
      if (typeof failed === 'number') {
        // Tells the batches of a request apart, where all bags are per item.
        const ids = new Int32Array(Uint8Array.from(copy.indices).buffer).join();
        throw new TerabagError('internal', `as told: ${s}`, { shard: s, asked: asked.join(), ids });
      }
      if (typeof failing === 'string' && failing !== 'short answer') throw new TerabagError(failing, `as told: ${s}`, { shard: s });
      const pooled = new Float32Array((engine as SparseEngine).outputLength(copy.segments, copy.offsets));
      await engine?.pool(copy, pooled);
      const bytes = new Uint8Array(pooled.buffer);
      return { pooled: failing === 'short answer' ? bytes.subarray(4) : bytes, message: { release: () => pooled.fill(Number.NaN) } };
    },
  };
}

const ABORTED = new TerabagError('aborted', 'cancelled');

/** Shards answer in the order of the scheduler. */
const scheduled =
  (scheduler: Scheduler) =>
  (signal: AbortSignal | null): Promise<void> =>
    new Promise((resolve, reject) => {
      signal?.addEventListener('abort', () => reject(ABORTED), { once: true });
      scheduler.schedule(Promise.resolve()).then(resolve, reject);
    });

interface Mode {
  readonly onShardFailure?: ShardFailurePolicy;
  readonly batchItems?: number;
  readonly dedup?: boolean;
  readonly paper?: boolean;
}
const MODES: readonly Mode[] = [
  {},
  { dedup: true },
  { paper: true },
  { paper: true, batchItems: 2 },
  { paper: true, batchItems: 1, dedup: true },
];

function pipeline(
  { bundle, plan, engines: held }: Served,
  shards: readonly PoolingShard[],
  { paper = false, ...mode }: Mode = {},
): Pipeline {
  const model = bundle.model as ResolvedModel;
  const net = new DenseNet(paper ? model : inStages(model, 2), bundle.dense);
  const rounds = paper ? roundsOfNets(plan, model, net.lastStage) : [roundOfPlan(plan, model)];
  const engine = held.at(-1) ?? null;
  return new Pipeline({ model, modelHash: bundle.hash, net, rounds, shards, engine, onMain: false, ...mode });
}

/** What predict comes to, with answers in the order of the scheduler. */
async function outcome(where: Served, mode: Mode, request: PredictRequest, scheduler: Scheduler, failing: readonly Failing[] = []) {
  const shards = SHARDS.map((_, s) => shard(s, where.engines[s] ?? null, scheduled(scheduler), failing[s] ?? null));
  const running = pipeline(where, shards, mode);
  const asked = running.predict(request, { deadlineMs: 60_000 }).then(
    ({ scores }) => ({ scores }),
    ({ code, message, details }: TerabagError) => ({ code, message, details }),
  );
  const ended = await scheduler.waitFor(asked);
  expect(running.counts.inFlight).toBe(0);
  await scheduler.waitFor(running.close());
  expect(running.counts.lingering).toBe(0);
  return ended;
}

/** Takes a random number: two schedulers in a row would choose alike. */
const BETWEEN = fc.nat();
const anyWhere = fc.nat(2);
const anyMode = fc.constantFrom(...MODES);

test('a request with several faults gets the error of the first, local and sharded alike, in whichever order shards answer', async () => {
  const seen = new Set<string>();
  await fc.assert(
    fc.asyncProperty(brokenInSeveralLayers, anyWhere, anyMode, fc.scheduler(), async (broken, where, mode, scheduler) => {
      const { what, request, code, details } = broken;
      const known = await local.predict(request).then(
        () => expect.fail(`accepted: ${what}`),
        (error: TerabagError) => error,
      );
      expect(known, what).toMatchObject({ code, details });
      const error = await outcome(served[where] as Served, mode, request, scheduler);
      expect(error, what).toEqual({ code: known.code, message: known.message, details: known.details });
      seen.add(code);
    }),
    { numRuns: 600 },
  );
  expect([...seen].sort()).toEqual(['bad_offsets', 'index_out_of_range', 'invalid_argument']);
});

const failing = fc.constantFrom<Failing>(null, null, null, 'overloaded', 'bad_message', 'closed', 'internal', 'short answer');

test('faults of a request come before failures of shards, and the first of these in the order of the plan is told', async () => {
  const seen = { shards: 0, requests: 0, answers: 0 };
  const any = fc.oneof(
    validRequest({ minItems: 1, minIds: 1 }).map(({ request }) => ({ request, valid: true })),
    brokenInSeveralLayers.map(({ request }) => ({ request, valid: false })),
  );
  await fc.assert(
    fc.asyncProperty(
      any,
      fc.tuple(failing, failing, failing),
      anyWhere,
      anyMode,
      fc.scheduler(),
      BETWEEN,
      fc.scheduler(),
      async ({ request, valid }, how, where, mode, one, _, other) => {
        const place = served[where] as Served;
        const first = await outcome(place, mode, request, one, how);
        expect(await outcome(place, mode, request, other, how)).toEqual(first);
        if (!valid) {
          seen.requests++;
          expect(first).toEqual(await outcome(place, {}, request, one));
          return;
        }
        // Every layer has an id in every item: only of a table that is split, a part may be asked for nothing.
        if (where === 2) return;
        const asked = place.engines.slice(0, -1);
        const expected = how.findIndex((failure, s) => failure !== null && (asked[s] ?? null) !== null);
        if (expected === -1) {
          seen.answers++;
          expect(first).toEqual({ scores: (await local.predict(request)).scores });
          return;
        }
        seen.shards++;
        if (how[expected] === 'short answer') expect(first).toMatchObject({ code: 'bad_message', details: { bytes: expect.any(Number) } });
        else expect(first).toMatchObject({ code: how[expected] as string, details: { shard: expected } });
      },
    ),
    { numRuns: 600 },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(10);
});

/** The request as it is with empty bags where these tables are read. */
function without(request: PredictRequest, tables: readonly string[]): PredictRequest {
  const sparse = { ...request.sparse };
  for (const { name, tableName } of (bundle.model as ResolvedModel).bags) {
    const given = sparse[name];
    if (given === undefined || !tables.includes(tableName)) continue;
    sparse[name] = { indices: [], offsets: Array.from(given.offsets, () => 0), ...(given.weights && { weights: [] }) };
  }
  return { ...request, sparse };
}

test('where that is allowed, a shard that fails is done without: the scores are those of empty bags, and say which tables were missing', async () => {
  const seen = { degraded: 0, whole: 0, refused: 0 };
  const away = fc.constantFrom<Failing>(
    null,
    null,
    null,
    null,
    null,
    'shard_unavailable',
    'deadline_exceeded',
    'overloaded',
    'version_skew',
    'internal',
  );
  const any = fc.oneof(
    validRequest({ minItems: 1, minIds: 1 }).map(({ request }) => ({ request, valid: true })),
    brokenInSeveralLayers.map(({ request }) => ({ request, valid: false })),
  );
  await fc.assert(
    fc.asyncProperty(
      any,
      fc.tuple(away, away, away),
      anyWhere,
      anyMode,
      fc.scheduler(),
      async ({ request, valid }, how, where, mode, one) => {
        const place = served[where] as Served;
        const asked: Promise<Prediction>[] = [];
        const shards = SHARDS.map((_, s) => shard(s, place.engines[s] ?? null, scheduled(one), how[s] ?? null));
        const running = pipeline(place, shards, { ...mode, onShardFailure: 'default-embedding' });
        asked.push(running.predict(request, { deadlineMs: 60_000 }));
        const ended = await one.waitFor(Promise.allSettled(asked));
        await one.waitFor(running.close());
        const [result] = ended as [PromiseSettledResult<Prediction>];
        if (!valid) {
          seen.refused++;
          const known = await local.predict(request).catch((error: TerabagError) => error);
          expect(result).toMatchObject({ status: 'rejected', reason: { code: (known as TerabagError).code } });
          return;
        }
        if (result.status === 'rejected') throw result.reason;
        const { scores, degraded, missingTables = [] } = result.value;
        const failed = SHARDS.filter((_, s) => how[s] !== null);
        const lost = place.plan.tables.filter(({ parts }) => parts.some((part) => failed.includes(part))).map(({ table }) => table);
        // Of a table that is split, a part may be asked for nothing.
        if (where === 2) expect(lost).toEqual(expect.arrayContaining([...missingTables]));
        else expect(missingTables).toEqual(lost);
        expect(degraded).toBe(missingTables.length > 0 ? true : undefined);
        expect(running.counts.degraded).toBe(missingTables.length > 0 ? 1 : 0);
        // A batch that asked a lost part for nothing has its vectors.
        if (where !== 2 || mode.batchItems === undefined)
          expect(scores).toEqual((await local.predict(without(request, missingTables))).scores);
        seen[missingTables.length > 0 ? 'degraded' : 'whole']++;
      },
    ),
    { numRuns: 500 },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(10);
});

/** Each shard waits until it is told to go on, or its signal aborts. */
function held(where: Served, how: readonly Failing[], mode: Mode = {}) {
  const gates = SHARDS.map(() => {
    const waiting: (() => void)[] = [];
    return { waiting, go: () => waiting.splice(0).forEach((resolve) => resolve()), aborted: false, asked: false };
  });
  const shards = SHARDS.map((_, s) => {
    const gate = gates[s] as (typeof gates)[number];
    const turn = (signal: AbortSignal | null): Promise<void> =>
      new Promise((resolve, reject) => {
        gate.asked = true;
        gate.waiting.push(resolve);
        signal?.addEventListener('abort', () => {
          gate.aborted = true;
          reject(ABORTED);
        });
      });
    return shard(s, where.engines[s] ?? null, turn, how[s] ?? null);
  });
  return { gates, running: pipeline(where, shards, mode) };
}

const next = random(8);
/** Every table has ids. */
const FULL = Array.from({ length: 50 }, () => smallRequest(next, 3)).find(({ sparse }) =>
  Object.values(sparse).every(({ indices }) => indices.length > 1),
) as PredictRequest;

test('a failure waits for the shards before it in the plan, and cancels those after it', async () => {
  const { gates, running } = held(served[0] as Served, [null, 'overloaded', 'closed']);
  const ends: string[] = [];
  const asked = running.predict(FULL, { deadlineMs: 20_000 }).catch(({ code }: TerabagError) => ends.push(code));
  gates[2]?.go();
  gates[1]?.go();
  await sleep(5);
  expect(ends).toEqual([]);
  gates[0]?.go();
  await asked;
  expect(ends).toEqual(['overloaded']);

  const early = held(served[0] as Served, ['overloaded', null, null]);
  const failed = early.running.predict(FULL, { deadlineMs: 20_000 });
  early.gates[0]?.go();
  await expect(failed).rejects.toMatchObject({ code: 'overloaded' });
  expect(early.gates.map(({ aborted }) => aborted)).toEqual([true, true, true]);
  await early.running.close();
});

test('a batch that fails waits for the batches before it', async () => {
  // One table, whose ids tell the batches apart.
  const { gates, running } = held(served[0] as Served, [null, null, new Set([0])], { paper: true, batchItems: 1 });
  const sum = { indices: Int32Array.of(10, 11, 12), offsets: [0, 1, 2, 3] };
  const none = { indices: [], offsets: [0, 0] };
  const request = { ...FULL, sparse: { sum, mean: none, weighted: { ...none, weights: [] } } };
  const ends: unknown[] = [];
  const asked = running.predict(request, { deadlineMs: 20_000 }).catch(({ details }: TerabagError) => ends.push(details['ids']));
  const waiting = gates[2]?.waiting.splice(0) ?? [];
  expect(waiting.length).toBe(3);
  for (const batch of [2, 1]) waiting[batch]?.();
  await sleep(5);
  expect(ends).toEqual([]);
  waiting[0]?.();
  await asked;
  expect(ends).toEqual(['10']);
});

test('a bad id is told as soon as one shard has failed in any way, though the shard that would find it does not answer', async () => {
  const { gates, running } = held(served[0] as Served, [null, 'overloaded', null]);
  const sum = FULL.sparse['sum'] as { indices: Int32Array; offsets: number[] };
  const indices = Int32Array.from(sum.indices);
  indices[1] = ROWS[0] as number;
  // Its table is on shard 2, which is not heard of.
  const asked = running.predict({ ...FULL, sparse: { ...FULL.sparse, sum: { ...sum, indices } } }, { deadlineMs: 20_000 });
  gates[1]?.go();
  await expect(asked).rejects.toMatchObject({ code: 'index_out_of_range', details: { table: 't0', position: 1 } });
  expect(gates.map(({ aborted }) => aborted)).toEqual([true, true, true]);
  await running.close();
});

test('an abort and a deadline free the slot and cancel what was asked, and the next request has the right scores', async () => {
  for (const mode of MODES) {
    const { gates, running } = held(served[1] as Served, [], mode);
    const controller = new AbortController();
    const aborted = running.predict(FULL, { signal: controller.signal, deadlineMs: 20_000 });
    controller.abort();
    await expect(aborted).rejects.toMatchObject({ code: 'aborted' });
    expect(running.counts.inFlight).toBe(0);
    await expect(running.predict(FULL, { deadlineMs: 5 })).rejects.toMatchObject({ code: 'deadline_exceeded' });
    expect(running.counts.inFlight).toBe(0);
    await sleep(5);
    expect(running.counts.lingering).toBe(0);
    expect(gates.filter(({ asked }) => asked).map((gate) => gate.aborted)).toEqual([true, true]);
    const answers: Float32Array[] = [];
    const answer = running.predict(FULL, { deadlineMs: 5000 }).then(({ scores }) => answers.push(scores));
    for (const end = performance.now() + 5000; answers.length === 0 && performance.now() < end; await sleep(0))
      for (const { go } of gates) go();
    await answer;
    expect(answers).toEqual([(await local.predict(FULL)).scores]);
    await running.close();
  }
});

test('main that fails in one batch, while another waits for a shard, leaves no rejection that nobody handles', async () => {
  const place = served[1] as Served;
  const closed = await SparseEngine.open(
    engineTables(bundle, (table) => (table === 1 ? [{ part: 0, parts: 1 }] : [])),
    { residency: 'map' },
  );
  closed.close();
  const unhandled: unknown[] = [];
  const listen = (reason: unknown): void => {
    unhandled.push(reason);
  };
  process.on('unhandledRejection', listen);
  const { gates, running } = held({ plan: place.plan, engines: [...place.engines.slice(0, -1), closed], bundle }, [], {
    paper: true,
    batchItems: 1,
  });
  // Only the last of three items has an id of the table on main.
  const request = { ...FULL, sparse: { ...FULL.sparse, mean: { indices: Int32Array.of(1), offsets: [0, 0, 0, 1] } } };
  const asked = running.predict(request, { deadlineMs: 20_000 }).catch(({ code }: TerabagError) => code);
  await sleep(5);
  for (const { go } of gates) go();
  expect(await asked).toBe('closed');
  await running.close();
  process.off('unhandledRejection', listen);
  expect(unhandled).toEqual([]);
});

test('with nets one after another and batches side by side, an error does not depend on the order of answers either', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
  const shape = { seed: 5, nets: 3, tablesPerNet: 3, rows: 40, dim: 4, hidden: 5 };
  await writeNetsModel(join(dir, 'model'), shape);
  const nets = await openBundle(join(dir, 'model'));
  const alone = await openLocal(join(dir, 'model'), { deadlineMs: 10_000 });
  const numTables = nets.spec.tables.length;
  const places = [
    await serve(
      nets,
      nets.spec.tables.map((_, t) => [SHARDS[(2 * t + 1) % 3] as string]),
    ),
    await serve(
      nets,
      nets.spec.tables.map((_, t) => (t % 4 === 0 ? ['main'] : t % 4 === 1 ? ['shard-2', 'shard-0'] : [SHARDS[t % 3] as string])),
    ),
  ];
  const modes: readonly Mode[] = [{}, { paper: true }, { paper: true, batchItems: 2 }, { paper: true, batchItems: 1, dedup: true }];
  const seen = { failed: 0, bad: 0, answered: 0 };
  try {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          seed: fc.integer({ min: 1, max: 1e6 }),
          mode: fc.constantFrom(...modes),
          place: fc.constantFrom(...places),
          tables: fc.array(fc.array(fc.nat(numTables - 1), { maxLength: 2 }), { minLength: 3, maxLength: 3 }),
          bad: fc.array(fc.tuple(fc.constantFrom(...allBags(shape)), fc.boolean()), { maxLength: 2 }),
        }),
        fc.scheduler(),
        BETWEEN,
        fc.scheduler(),
        async ({ seed, mode, place, tables, bad }, one, _, other) => {
          const request = netsRequest(shape, random(seed), 5, { poolingFactor: 2, once: () => false });
          const sparse = { ...request.sparse };
          for (const [{ name }, plain] of bad) {
            const { indices, ...rest } = sparse[name] as { indices: Int32Array; offsets: readonly number[] };
            if (indices.length === 0) continue;
            const ids = Array.from(indices, (id, at) => (at === indices.length - 1 ? 40 : id));
            sparse[name] = { ...rest, indices: plain ? ids : Int32Array.from(ids) };
          }
          const asked = { ...request, sparse };
          const failing = tables.map((each) => new Set(each));
          const first = await outcome(place, mode, asked, one, failing);
          expect(await outcome(place, mode, asked, other, failing)).toEqual(first);
          const known = await alone.predict(asked).catch((error: TerabagError) => error);
          if (known instanceof TerabagError) {
            seen.bad++;
            expect(first).toEqual({ code: known.code, message: known.message, details: known.details });
          } else if ('scores' in first) seen.answered++;
          else {
            seen.failed++;
            expect(first.code).toBe('internal');
          }
        },
      ),
      { numRuns: 300 },
    );
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(10);
  } finally {
    await alone.close();
    await rm(dir, { recursive: true });
  }
});
