import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  connect,
  launchCluster,
  type ModelSpec,
  openLocal,
  type Plan,
  type Predictor,
  type PredictRequest,
  packBundle,
  readModelSpec,
  type ShardedPredictor,
  STRATEGIES,
} from '../../src/index.js';
import { planSummary, tableBytes } from '../../src/plan/placement/bytes.js';
import { startShard } from '../../src/shard/shard.js';
import { planBySpec } from '../reference/plans.js';
import { randomRequest, writeRandomModel } from '../reference/random-model.js';
import { random } from '../reference/small-model.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-strategies-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function withShards(plan: Plan, bundle: string, use: (predictor: ShardedPredictor) => Promise<void>): Promise<void> {
  const cluster = await launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'error', restart: false });
  try {
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle });
    await use(predictor).finally(() => predictor.close());
  } finally {
    await cluster.stop();
  }
}

/** Every strategy; once with whole tables, a few on main, and once with a memory limit that the large table is above. */
function plansOf(spec: ModelSpec): Plan[] {
  const bytes = spec.tables.map(tableBytes);
  const total = bytes.reduce((sum, held) => sum + held, 0);
  const whole = STRATEGIES.map((strategy) => planBySpec(strategy, spec, { shards: 3, localBytes: total / 20 }));
  const split = (['capacity-balanced', 'load-balanced', 'nsbp'] as const).map((strategy) =>
    planBySpec(strategy, spec, { shards: 4, memoryLimitBytes: Math.ceil(Math.max(...bytes) * 0.9) }),
  );
  expect(whole.every(({ tables }) => tables.every(({ parts }) => parts.length === 1))).toBe(true);
  expect(split.every(({ tables }) => (tables[0]?.parts.length ?? 0) > 1)).toBe(true);
  return [...whole, ...split];
}

const bits = (scores: Float32Array): Uint32Array => new Uint32Array(scores.buffer, scores.byteOffset, scores.length);

/** Table-wise plans give the bits of the local predictor; row-wise ones its scores up to rounding, and the same bits whenever asked. */
async function expectScores(predictor: Predictor, local: Predictor, plan: Plan, requests: readonly PredictRequest[]): Promise<void> {
  const rowWise = plan.tables.some(({ parts }) => parts.length > 1);
  for (const request of requests) {
    const [expected, first, again] = await Promise.all(
      [local, predictor, predictor].map((each) => each.predict(request, { deadlineMs: 10_000 })),
    );
    expect(bits(again!.scores)).toEqual(bits(first!.scores));
    if (rowWise) {
      first!.scores.forEach((score, item) => {
        const wanted = expected!.scores[item]!;
        expect(Math.abs(score - wanted)).toBeLessThanOrEqual(1e-5 * Math.max(1, Math.abs(wanted)));
      });
    } else expect(bits(first!.scores)).toEqual(bits(expected!.scores));
  }
}

test.each([101, 202, 303])('random model %i: every strategy serves it on real shards with the scores of one machine', async (seed) => {
  const source = join(dir, `model-${seed}`);
  await writeRandomModel(source, seed);
  const packed = join(dir, `packed-${seed}`);
  if (seed === 303) await packBundle(source, packed, { format: 'int8' });
  const bundle = seed === 303 ? packed : source;
  const spec = await readModelSpec(bundle);
  const next = random(seed);
  const requests = Array.from({ length: 25 }, (_, n) => randomRequest(spec, next, [1, 2, 5, 17][n % 4]!));
  const local = await openLocal(bundle, { deadlineMs: 10_000 });
  for (const plan of plansOf(spec)) {
    await withShards(plan, bundle, async (predictor) => {
      await expectScores(predictor, local, plan, requests);
      for (const [at, { stats: told }] of (await predictor.shardStats()).entries()) {
        const stats = told!;
        const { bytes, parts, shard } = planSummary(plan, spec)[at]!;
        expect([stats.shard, stats.errors]).toEqual([shard, 0]);
        // A part of a table that was not published maps the rows of the others too.
        if (parts === 0) expect(stats.tableBytes).toBe(bytes);
        else expect(stats.tableBytes).toBeGreaterThanOrEqual(bytes);
      }
    });
  }
  await local.close();
});

test('shards that a plan gives nothing start, are not asked, and do not fail', async () => {
  const bundle = join(dir, 'few');
  const spec = await writeRandomModel(bundle, 404);
  // What requests ask of the small tables fits on main; the large one is left for three shards.
  const plan = planBySpec('capacity-balanced', spec, { shards: 3, localBytes: tableBytes(spec.tables[0]!) - 1 });
  const held = planSummary(plan, spec).map(({ tables }) => tables);
  expect(held).toEqual([1, 0, 0, spec.tables.length - 1]);
  const local = await openLocal(bundle, { deadlineMs: 10_000 });
  await withShards(plan, bundle, async (predictor) => {
    const next = random(5);
    await expectScores(
      predictor,
      local,
      plan,
      Array.from({ length: 10 }, () => randomRequest(spec, next, 3)),
    );
    const told = await predictor.shardStats();
    expect(told.map(({ stats }) => [stats?.requests, stats?.state])).toEqual([
      [20, 'ready'],
      [0, 'ready'],
      [0, 'ready'],
    ]);
  });
  await local.close();
});

test('main shard and sparse shard refuse the plan of another model, and one that misses a table or a part', async () => {
  const bundle = join(dir, 'refusing');
  const spec = await writeRandomModel(bundle, 505);
  const plan = planBySpec('capacity-balanced', spec, { shards: 2 });
  const [first, ...rest] = plan.tables;
  const broken: [Plan, string, RegExp][] = [
    [{ ...plan, model: { ...plan.model, hash: 'c'.repeat(64) } }, 'model_mismatch', /plan is of another model/],
    [{ ...plan, tables: rest }, 'bad_plan', /misses a table: t0/],
    [{ ...plan, tables: [{ table: 't0', parts: ['shard-0', 'gone'] }, ...rest] }, 'bad_plan', /shard that the plan does not have: gone/],
    [{ ...plan, tables: [first!, first!, ...rest] }, 'bad_plan', /places a table twice: t0/],
  ];
  for (const [given, code, message] of broken) {
    const opened = {
      connect: () => connect(given, { deadlineMs: 10_000, bundle, readyMs: 500 }),
      startShard: () =>
        startShard({ plan: given, shard: 'shard-0', bundle, log: pino({ level: 'silent' }), endpoint: 'tcp://127.0.0.1:*' }),
    };
    for (const [side, open] of Object.entries(opened)) {
      const error = await open().then(
        () => expect.fail(`${side} accepted a plan: ${message.source}`),
        (thrown: unknown) => thrown,
      );
      expect(error, side).toMatchObject({ code, message: expect.stringMatching(message) });
    }
  }
});
