import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { writeKeyIndex } from '../../src/engine/key-index.js';
import { connect, launchCluster, openLocal, type Plan, type Predictor, publish } from '../../src/index.js';
import { profileRequests } from '../../src/lab/requests/request-sample.js';
import { readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import { modelHash } from '../../src/model/hash.js';
import { openModel } from '../../src/model/open-model.js';
import { modelSchema } from '../../src/model/spec.js';
import type { UnseenSpec } from '../../src/model/unseen.js';
import { verifyPublished } from '../../src/plan/file/publish/verify-published.js';
import { makePlan } from '../../src/plan/placement/strategies.js';
import type { BagsInput, PredictRequest } from '../../src/predictor/predictor.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';
import { capacityPlan } from '../reference/plans.js';
import { random } from '../reference/small-model.js';
import { splitmixFinalizer } from '../reference/unseen-ids.js';

const [ROWS, DIM, BUCKETS, DEFAULT_ROW] = [60, 5, 7, 43];
const VECTOR = [-9, 0.5, 9, -0.25, 0];
const PADDING = -12_345n;
const POLICIES: readonly UnseenSpec[] = [
  { policy: 'zero' },
  { policy: 'skip' },
  { policy: 'default', vector: VECTOR },
  { policy: 'default', row: DEFAULT_ROW },
  { policy: 'hash', rows: BUCKETS },
];
const POOLINGS = [
  { pooling: 'max', weighted: false },
  { pooling: 'max', weighted: true },
  { pooling: 'weighted_mean', weighted: true },
] as const;

interface Bag {
  readonly name: string;
  readonly table: number;
  readonly unseen: UnseenSpec;
  readonly pooling: 'max' | 'weighted_mean';
  readonly weighted: boolean;
  readonly pads: boolean;
}

/** Plain tables, then keyed ones: of each policy one, read with each pooling. */
const BAGS: readonly Bag[] = Array.from({ length: 2 * POLICIES.length }, (_, table) => table).flatMap((table) =>
  POOLINGS.map((pooling, p) => ({
    ...{ name: `t${table}_b${p}`, table, unseen: POLICIES[table % POLICIES.length] as UnseenSpec, pads: (table + p) % 2 === 0 },
    ...pooling,
  })),
);
const isKeyed = (table: number): boolean => table >= POLICIES.length;

let dir: string;
let bundle: string;

const nextValue = random(23);
const TABLES = [...new Set(BAGS.map(({ table }) => table))];
/** Mostly negative: a maximum of zeros, or of nothing, differs from one of rows. */
const values = TABLES.map(() => Float32Array.from({ length: ROWS * DIM }, () => nextValue() - 0.8));
/** Of plain tables the numbers of the rows. */
const keys = TABLES.map((table) =>
  BigInt64Array.from({ length: ROWS }, (_, row) =>
    isKeyed(table) ? BigInt.asIntN(64, splitmixFinalizer(BigInt(table * 1000 + row))) : BigInt(row),
  ),
);

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-poolings-'));
  bundle = join(dir, 'model');
  await mkdir(join(bundle, 'tables'), { recursive: true });
  const files: Record<string, unknown> = {};
  const tables: object[] = [];
  for (const t of TABLES) {
    const file = `tables/t${t}.safetensors`;
    const data = new Uint8Array((values[t] as Float32Array).buffer);
    files[file] = await writeSafetensors(join(bundle, file), [{ name: 'weight', dtype: 'F32', shape: [ROWS, DIM], data }]);
    const table = { name: `t${t}`, rows: ROWS, dim: DIM, format: 'fp32', file, tensor: 'weight', unseen: POLICIES[t % POLICIES.length] };
    if (!isKeyed(t)) {
      tables.push(table);
      continue;
    }
    const index = `tables/t${t}.keys.safetensors`;
    const { tensor, bytes, crc32 } = await writeKeyIndex(join(bundle, index), { rows: ROWS, keys: [keys[t] as BigInt64Array] });
    files[index] = { bytes, crc32 };
    tables.push({ ...table, keys: { file: index, tensor } });
  }
  files['dense.safetensors'] = await writeSafetensors(join(bundle, 'dense.safetensors'), []);
  const bags = BAGS.map(({ name, table, pooling, weighted, pads }) => ({
    ...{ type: 'embedding_bag', name, table: `t${table}`, pooling, weighted },
    ...(pads && { paddingId: String(PADDING) }),
  }));
  const layers = [...bags, { type: 'concat', name: 'all', inputs: bags.map(({ name }) => name) }];
  const spec = {
    ...{ terabag: 1, name: 'poolings', version: '1', dense: [], output: 'all' },
    tables,
    nets: [{ name: 'net', layers }],
    files,
  };
  await writeModelJson(bundle, modelSchema.parse(spec));
});
afterAll(() => rm(dir, { recursive: true }));

interface Given {
  readonly request: PredictRequest;
  readonly items: number;
  /** By bag layer. */
  readonly ids: ReadonlyMap<string, readonly bigint[]>;
}

const STRANGE = [BigInt(ROWS), -1n, 2n ** 62n + 3n, 2n ** 62n + 4n, -(2n ** 63n), 10n ** 15n, PADDING];

function given(seed: number): Given {
  const next = random(seed);
  const items = 1 + (seed % 6);
  const ids = new Map<string, readonly bigint[]>();
  const sparse: Record<string, BagsInput> = {};
  for (const { name, table, weighted } of BAGS) {
    const count = next() < 0.3 ? 1 : items;
    const offsets = [0];
    for (let bag = 0; bag < count; bag++) offsets.push((offsets.at(-1) as number) + Math.floor(next() * 6));
    const own = Array.from({ length: offsets.at(-1) as number }, () =>
      next() < 0.45
        ? (STRANGE[Math.floor(next() * STRANGE.length)] as bigint)
        : ((keys[table] as BigInt64Array)[Math.floor(next() * ROWS)] as bigint),
    );
    ids.set(name, own);
    const weights = weighted ? Float32Array.from(own, () => Math.fround(next() + 0.25)) : undefined;
    sparse[name] = { indices: own, offsets, ...(weights && { weights }) };
  }
  return { request: { items, dense: {}, sparse }, items, ids };
}

/** A row, or null of what is left out; in float64, by the words of docs/model-json.md. */
function rowOf({ table, unseen, pads }: Bag, id: bigint): readonly number[] | null {
  if (pads && id === PADDING) return null;
  const row = (keys[table] as BigInt64Array).indexOf(id);
  const rowAt = (at: number): readonly number[] => [...(values[table] as Float32Array).subarray(at * DIM, (at + 1) * DIM)];
  if (row >= 0) return rowAt(row);
  switch (unseen.policy) {
    case 'zero':
      return new Array<number>(DIM).fill(0);
    case 'default':
      return unseen.row === undefined ? VECTOR : rowAt(unseen.row);
    case 'hash':
      return rowAt(Number(splitmixFinalizer(id) % BigInt(BUCKETS)));
    default:
      return null;
  }
}

function expected({ request, items, ids }: Given): number[] {
  return Array.from({ length: items }, (_, item) =>
    BAGS.flatMap((bag) => {
      const { offsets, weights } = request.sparse[bag.name] as BagsInput;
      const at = offsets.length === 2 ? 0 : item;
      const rows: { row: readonly number[]; weight: number }[] = [];
      for (let position = offsets[at] as number; position < (offsets[at + 1] as number); position++) {
        const row = rowOf(bag, ids.get(bag.name)?.[position] as bigint);
        if (row !== null) rows.push({ row, weight: weights?.[position] ?? 1 });
      }
      const divisor = rows.reduce((sum, { weight }) => sum + weight, 0);
      return Array.from({ length: DIM }, (_, d) => {
        if (rows.length === 0) return 0;
        const terms = rows.map(({ row, weight }) => weight * (row[d] as number));
        return bag.pooling === 'max' ? Math.max(...terms) : terms.reduce((sum, term) => sum + term, 0) / divisor;
      });
    }),
  ).flat();
}

const bits = (scores: Float32Array): Uint32Array => new Uint32Array(scores.buffer, scores.byteOffset, scores.length);
const REQUESTS = Array.from({ length: 40 }, (_, n) => given(n + 1));
const MODES = [{}, { dedup: true }, { rpc: 'paper', batchItems: 2 }] as const;

async function answersOf(predictor: Predictor): Promise<Uint32Array[]> {
  const found: Uint32Array[] = [];
  for (const of of REQUESTS) {
    const { scores } = await predictor.predict(of.request);
    expected(of).forEach((value, at) => {
      if (!(Math.abs((scores[at] as number) - value) < 1e-5)) expect.fail(`value ${at} is ${scores[at]}, expected ${value}`);
    });
    found.push(bits(scores));
  }
  await predictor.close();
  return found;
}

/** The answers of each mode, which have to be the same. */
async function shardedAnswers(plan: Plan, served: string): Promise<Uint32Array[]> {
  const cluster = await launchCluster(plan, { bundle: served, ephemeralPorts: true, logLevel: 'error' });
  try {
    const all: Uint32Array[][] = [];
    for (const mode of MODES) all.push(await answersOf(await connect(cluster.plan, { deadlineMs: 10_000, bundle, ...mode })));
    for (const other of all) expect(other).toEqual(all[0]);
    return all[0] as Uint32Array[];
  } finally {
    await cluster.stop();
  }
}

/** Each table whole on one of two shards in turn, or split over both. */
async function planOf(how: 'whole' | 'split'): Promise<Plan> {
  const plan = capacityPlan(await readModelSpec(bundle), 2);
  const names = plan.shards.map(({ name }) => name);
  return { ...plan, tables: plan.tables.map(({ table }, t) => ({ table, parts: how === 'split' ? names : [names[t % 2] as string] })) };
}

describe('maxima and weighted means of bags with ids that tables do not have, by each policy, plain and keyed', () => {
  test('are those of the definition in one process, and have the same bits on two shards', async () => {
    const local = await answersOf(await openLocal(bundle, { deadlineMs: 10_000 }));
    const plan = await planOf('whole');
    expect(await shardedAnswers(plan, bundle)).toEqual(local);
  });

  test('are those of the definition where tables are split by rows, with the same bits published and not', async () => {
    const plan = await planOf('split');
    const whole = await shardedAnswers(plan, bundle);
    const out = join(dir, 'published');
    await publish(plan, bundle, out);
    expect(await verifyPublished(out, bundle)).toEqual([]);
    expect(await shardedAnswers(plan, out)).toEqual(whole);
  });
});

test('a profile counts such ids as they are, and its plans serve them', async () => {
  const path = join(dir, 'requests.jsonl');
  const line = ({ request }: Given): string =>
    JSON.stringify(request, (_, value) =>
      typeof value === 'bigint' ? String(value) : ArrayBuffer.isView(value) ? [...(value as Float32Array)] : value,
    );
  await writeFile(path, `${REQUESTS.map(line).join('\n')}\n`);
  const { profile, bad } = await profileRequests(await openModel(bundle), path, { requests: REQUESTS.length });
  expect(bad).toEqual({ count: 0, first: null });
  for (const [t, table] of profile.tables.entries()) {
    const asked = REQUESTS.map(({ ids }) => BAGS.filter((bag) => bag.table === t).map(({ name }) => ids.get(name) as readonly bigint[]));
    const lookups = asked.flat(2).length;
    const different = asked.reduce((sum, ids) => sum + new Set(ids.flat()).size, 0);
    expect(table).toMatchObject({ table: `t${t}`, lookups: lookups / REQUESTS.length, uniqueRows: different / REQUESTS.length });
  }
  const spec = await readModelSpec(bundle);
  const local = await answersOf(await openLocal(bundle, { deadlineMs: 10_000 }));
  for (const strategy of ['load-balanced', 'nsbp'] as const) {
    const plan = makePlan(strategy, spec, modelHash(spec), profile, { shards: 2 });
    expect(await shardedAnswers(plan, bundle)).toEqual(local);
  }
});
