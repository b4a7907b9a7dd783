import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Cluster, connect, launchCluster, openLocal, type Plan, type Predictor, type ShardedPredictor } from '../../src/index.js';
import { readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import { type IdRule, idRules, REJECT } from '../../src/model/id-rules.js';
import { type ModelSpec, modelSchema } from '../../src/model/spec.js';
import type { UnseenSpec } from '../../src/model/unseen.js';
import type { BagsInput, Indices, PredictRequest } from '../../src/predictor/predictor.js';
import { allBags, type NetsModel, netsRequest, netsScores, writeNetsModel } from '../reference/nets-model.js';
import { capacityPlan } from '../reference/plans.js';
import { random } from '../reference/small-model.js';
import { found, isCounted } from '../reference/unseen-ids.js';

type Mode = Pick<Parameters<typeof connect>[1], 'rpc' | 'batchItems' | 'dedup'>;
const MODES: readonly Mode[] = [{}, { dedup: true }, { rpc: 'paper', batchItems: 3 }, { rpc: 'paper', batchItems: 4, dedup: true }];
const SHARDS = ['shard-0', 'shard-1', 'shard-2'];
const SHAPE = { seed: 91, nets: 2, tablesPerNet: 7, rows: 40, dim: 9, hidden: 17 };
const VECTOR = Array.from({ length: SHAPE.dim }, (_, d) => Math.fround((d - 4) / 7));

/** Of tables, in turn. */
const UNSEEN: readonly (UnseenSpec | undefined)[] = [
  { policy: 'zero' },
  { policy: 'skip' },
  { policy: 'default', vector: VECTOR },
  { policy: 'reject' },
  { policy: 'default', row: 7 },
  { policy: 'skip' },
  { policy: 'hash', rows: 5 },
  { policy: 'hash' },
];
/** Of bags, in turn: in place of the table's, and beside it. */
const OF_BAGS: readonly { readonly unseen?: UnseenSpec; readonly paddingId?: number | string }[] = [
  {},
  { paddingId: 0 },
  { unseen: { policy: 'skip' }, paddingId: '18446744073709551615' },
  {},
  { unseen: { policy: 'default', vector: VECTOR }, paddingId: 11 },
];

/** The model with rules, which are no part of its files. */
function withRules(spec: ModelSpec): ModelSpec {
  let bag = 0;
  return modelSchema.parse({
    ...spec,
    tables: spec.tables.map((table, t) => ({ ...table, unseen: UNSEEN[t % UNSEEN.length] })),
    nets: spec.nets.map((net) => ({
      ...net,
      layers: net.layers.map((layer) => (layer.type === 'embedding_bag' ? { ...layer, ...OF_BAGS[bag++ % OF_BAGS.length] } : layer)),
    })),
  });
}

const bits = (scores: Float32Array): Uint32Array => new Uint32Array(scores.buffer, scores.byteOffset, scores.length);

let model: NetsModel;
let spec: ModelSpec;
let rules: ReadonlyMap<string, IdRule>;
let local: Predictor;
let clusters: Cluster[];
let plans: { readonly whole: Plan; readonly main: Plan; readonly split: Plan };
const opened: Predictor[] = [];

const open = async (plan: Plan, mode: Mode = {}): Promise<ShardedPredictor> => {
  const predictor = await connect(plan, { deadlineMs: 10_000, bundle: model.dir, ...mode });
  opened.push(predictor);
  return predictor;
};

beforeAll(async () => {
  model = await writeNetsModel(join(await mkdtemp(join(tmpdir(), 'terabag-test-')), 'model'), SHAPE);
  await writeModelJson(model.dir, withRules(model.spec));
  spec = await readModelSpec(model.dir);
  const ofBags = idRules(spec).ofBags;
  rules = new Map(allBags(SHAPE).map(({ name }, bag) => [name, ofBags[bag] ?? REJECT]));
  local = await openLocal(model.dir, { deadlineMs: 10_000 });
  const whole = capacityPlan(spec, 3);
  const split = { ...whole, tables: whole.tables.map(({ table }) => ({ table, parts: SHARDS })) };
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

const NARROW = [40n, 41n, 1000n, -1n, -40n, 2n ** 31n - 1n, -(2n ** 31n)];
const WIDE = [2n ** 31n, -(2n ** 31n) - 1n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 63n, 2n ** 64n - 1n];

/** One id in every form that a request may have. */
const FORMS: readonly ((ids: readonly bigint[]) => Indices | null)[] = [
  (ids) => (ids.every((id) => BigInt.asIntN(32, id) === id) ? Int32Array.from(ids, Number) : null),
  (ids) => BigInt64Array.from(ids),
  (ids) => ids,
  (ids) => ids.map((id) => (Number.isSafeInteger(Number(id)) ? Number(id) : id)),
  (ids) => ids.map((id) => `${id}`),
  (ids) => ids.map((id, at) => (at % 2 === 0 ? `${id < 0n ? '-' : ''}00${id < 0n ? -id : id}` : id)),
];

interface Given {
  readonly items: number;
  readonly request: PredictRequest;
  /** By bag layer, as 64 bits with a sign. */
  readonly ids: ReadonlyMap<string, readonly bigint[]>;
}

function given(seed: number, items: number, poolingFactor: number, differentBags: number): Given {
  const next = random(seed);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(next() * from.length)] as T;
  const request = netsRequest(SHAPE, next, items, { poolingFactor, differentBags });
  const ids = new Map<string, readonly bigint[]>();
  const sparse = Object.fromEntries(
    Object.entries(request.sparse).map(([name, bags]) => {
      const rule = rules.get(name) as IdRule;
      const unseen = next() < 0.5 ? NARROW : [...NARROW, ...WIDE];
      const share = next() * 0.6;
      // The same row gets the same id: bags that are alike stay so.
      const others = new Map<number, bigint>();
      const given = Array.from(bags.indices, (index) => {
        const row = Number(index);
        const other = next() < share ? pick(rule.paddingId === null ? unseen : [...unseen, rule.paddingId]) : BigInt(row);
        if (!others.has(row)) others.set(row, rule.policy === 'reject' && found(rule, other, SHAPE.rows) === 'error' ? BigInt(row) : other);
        return others.get(row) as bigint;
      });
      ids.set(
        name,
        given.map((id) => BigInt.asIntN(64, id)),
      );
      return [name, { ...bags, indices: pick(FORMS)(given) ?? given }];
    }),
  );
  return { items, request: { ...request, sparse }, ids };
}

const anyGiven = fc
  .record({
    seed: fc.integer({ min: 1, max: 1e9 }),
    items: fc.integer({ min: 1, max: 10 }),
    poolingFactor: fc.constantFrom(1, 2, 6),
    differentBags: fc.integer({ min: 1, max: 5 }),
  })
  .map(({ seed, items, poolingFactor, differentBags }) => given(seed, items, poolingFactor, differentBags));

/** The scores by the plain definition: of a model without rules, whose tables end with a row of zeros and the vector. */
function expected({ request, items, ids }: Given): number[] {
  const tables = new Map(
    [...model.tables].map(([name, rows]) => [name, Float32Array.of(...rows, ...new Array<number>(SHAPE.dim).fill(0), ...VECTOR)]),
  );
  const sparse = Object.fromEntries(
    Object.entries(request.sparse).map(([name, { offsets, weights }]) => {
      const rows = (ids.get(name) as readonly bigint[]).map((id) => {
        const row = found(rules.get(name) as IdRule, id, SHAPE.rows);
        return row === 'zeros' ? SHAPE.rows : row === 'vector' ? SHAPE.rows + 1 : row;
      });
      const kept = [...rows.keys()].filter((at) => typeof rows[at] === 'number');
      const ends = Array.from(offsets, (offset) => kept.filter((at) => at < Number(offset)).length);
      const bags: BagsInput = { indices: kept.map((at) => rows[at] as number), offsets: ends };
      return [name, weights === undefined ? bags : { ...bags, weights: kept.map((at) => weights[at] as number) }];
    }),
  );
  return netsScores({ ...model, tables }, { ...request, sparse }, items);
}

interface Bag {
  readonly ids: readonly bigint[];
  readonly weights: readonly number[];
}

function bagsOf({ request, ids }: Given, name: string): Bag[] {
  const { offsets, weights = [] } = request.sparse[name] as BagsInput;
  const ends = Array.from(offsets, Number);
  return ends.slice(1).map((end, bag) => ({
    ids: (ids.get(name) ?? []).slice(ends[bag], end),
    weights: Array.from(weights).slice(ends[bag], end),
  }));
}

/** Bags that are looked up for each batch: its items', or the user's one. */
const batches = (bags: readonly Bag[], items: number, batchItems: number): (readonly Bag[])[] =>
  Array.from({ length: Math.ceil(items / batchItems) }, (_, batch) =>
    bags.length === 1 ? bags : bags.slice(batch * batchItems, (batch + 1) * batchItems),
  );

const distinct = (bags: readonly Bag[]): Bag[] => [
  ...new Map(bags.map((bag) => [`${bag.ids.join()} ${bag.weights.join()}`, bag])).values(),
];

function expectReference(scores: Float32Array, of: Given): void {
  expected(of).forEach((score, item) => expect(Math.abs((scores[item] as number) - score)).toBeLessThan(1e-5));
}

describe('ids that tables do not have', () => {
  test('are pooled by their rules, with the bits of the local predictor in all modes, and on main', async () => {
    const predictors = await Promise.all([plans.whole, plans.main].flatMap((plan) => MODES.map((mode) => open(plan, mode))));
    await fc.assert(
      fc.asyncProperty(anyGiven, async (of) => {
        const { scores } = await local.predict(of.request);
        expectReference(scores, of);
        const answers = await Promise.all(predictors.map((predictor) => predictor.predict(of.request)));
        for (const answer of answers) expect(bits(answer.scores)).toEqual(bits(scores));
      }),
      { numRuns: 150 },
    );
  });

  test('are pooled by their rules where tables are split by rows, with the same bits in all modes', async () => {
    const predictors = await Promise.all(MODES.map((mode) => open(plans.split, mode)));
    await fc.assert(
      fc.asyncProperty(anyGiven, async (of) => {
        const answers = await Promise.all([...predictors, ...predictors].map((predictor) => predictor.predict(of.request)));
        const [first] = answers as [(typeof answers)[number]];
        expectReference(first.scores, of);
        for (const { scores } of answers) expect(bits(scores)).toEqual(bits(first.scores));
      }),
      { numRuns: 150 },
    );
  });

  test('are counted by table as they are looked up, here and on shards, whole and split, in all modes', async () => {
    const of = given(77, 9, 12, 3);
    const wanted = ({ batchItems = of.items, dedup = false }: Mode): Map<string, number> => {
      const counts = new Map<string, number>();
      for (const { name, table } of allBags(SHAPE)) {
        const ids = batches(bagsOf(of, name), of.items, batchItems).flatMap((bags) =>
          (dedup ? distinct(bags) : bags).flatMap((bag) => bag.ids),
        );
        const count = ids.filter((id) => isCounted(rules.get(name) as IdRule, id, SHAPE.rows)).length;
        if (count > 0) counts.set(table, (counts.get(table) ?? 0) + count);
      }
      return counts;
    };
    expect(wanted({}).size).toBeGreaterThan(8);
    const sums = MODES.map((mode) => [...wanted(mode).values()].reduce((sum, count) => sum + count, 0));
    expect(new Set(sums).size).toBe(MODES.length);
    const counted = async (predictor: Predictor & Partial<ShardedPredictor>): Promise<Map<string, number>> => {
      const sums = new Map<string, number>();
      const all = [predictor.stats().unseen, ...((await predictor.shardStats?.()) ?? []).map(({ stats }) => stats!.unseen)];
      for (const [table, count] of all.flatMap((counts) => Object.entries(counts))) sums.set(table, (sums.get(table) ?? 0) + count);
      return sums;
    };
    const opened = await Promise.all(
      [plans.whole, plans.main, plans.split].flatMap((plan) => MODES.map(async (mode) => ({ mode, predictor: await open(plan, mode) }))),
    );
    for (const { predictor, mode } of [{ predictor: local, mode: {} }, ...opened]) {
      const before = await counted(predictor);
      await predictor.predict(of.request);
      const after = await counted(predictor);
      const grown = new Map([...after].map(([table, count]) => [table, count - (before.get(table) ?? 0)]));
      for (const [table, count] of grown) if (count === 0) grown.delete(table);
      expect(grown).toEqual(wanted(mode));
    }
  });

  test('are refused where the rule says so, with the same error everywhere', async () => {
    const [name] = [...rules].find(([, { policy, paddingId }]) => policy === 'reject' && paddingId === null) as [string, IdRule];
    const of = given(5, 4, 3, 4);
    const bags = of.request.sparse[name] as BagsInput;
    const predictors = await Promise.all([plans.whole, plans.main, plans.split].flatMap((plan) => MODES.map((mode) => open(plan, mode))));
    for (const bad of [40, -1, 2 ** 53, -(2n ** 63n)]) {
      const indices = [...Array.from(bags.indices).slice(0, -1), bad];
      const request = { ...of.request, sparse: { ...of.request.sparse, [name]: { ...bags, indices } } };
      for (const predictor of [local, ...predictors])
        await expect(predictor.predict(request)).rejects.toMatchObject({
          code: 'index_out_of_range',
          details: { position: indices.length - 1, index: String(bad), rows: '40' },
        });
    }
  });

  test('have to be integers of 64 bits, whatever the rule', async () => {
    const of = given(5, 1, 3, 1);
    const name = 'n0_b0';
    const predictors = [local, await open(plans.whole), await open(plans.split)];
    for (const bad of [1.5, Number.NaN, '1e3', '', 2n ** 64n, -(2n ** 63n) - 1n, '9'.repeat(21), '9'.repeat(1e6), 1e300, null]) {
      const request = { ...of.request, sparse: { ...of.request.sparse, [name]: { indices: [1, bad as number], offsets: [0, 2] } } };
      for (const predictor of predictors)
        await expect(predictor.predict(request)).rejects.toMatchObject({ code: 'invalid_argument', details: { layer: name, position: 1 } });
    }
  });
});
