import { mkdtemp, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type Cluster,
  connect,
  launchCluster,
  openLocal,
  type Plan,
  type Predictor,
  type ShardedPredictor,
  TerabagError,
} from '../../src/index.js';
import { readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import { modelSchema } from '../../src/model/spec.js';
import type { Connect } from '../../src/rpc/client.js';
import { decodeShardMessage } from '../../src/rpc/codec.js';
import { connectTo } from '../../src/rpc/transport/sockets.js';
import { type TensorToWrite, writeSafetensors } from '../../src/tables/safetensors.js';
import { encodeShardMessage } from '../reference/messages.js';
import { capacityPlan } from '../reference/plans.js';
import { settlesWithin } from '../reference/settles.js';
import { random, referenceScores, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

let model: SmallModel;
let local: Predictor;
beforeAll(async () => {
  model = await writeSmallModel(7);
  local = await openLocal(model.dir, { deadlineMs: 10_000 });
});
afterAll(async () => {
  await local.close();
  await rm(model.dir, { recursive: true });
});

const planOf = async (shards: number): Promise<Plan> => capacityPlan(await readModelSpec(model.dir), shards);

async function withShards(
  plan: Plan,
  use: (predictor: ShardedPredictor, cluster: Cluster) => Promise<void>,
  transport: Connect = connectTo,
): Promise<void> {
  const cluster = await launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error' });
  try {
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir, transport });
    try {
      await use(predictor, cluster);
    } finally {
      await predictor.close();
    }
  } finally {
    await cluster.stop();
  }
}

test('local scores equal the float64 reference', async () => {
  const next = random(3);
  for (const items of [1, 2, 5, 33]) {
    const request = smallRequest(next, items);
    const { scores } = await local.predict(request);
    const expected = referenceScores(model, request, items);
    scores.forEach((score, item) => expect(Math.abs(score - (expected[item] as number))).toBeLessThan(1e-5 * (expected[item] as number)));
  }
});

test.each([1, 2, 3])('%i shards give the bits of the local predictor', async (shards) => {
  await withShards(await planOf(shards), async (predictor) => {
    const next = random(11);
    for (let n = 0; n < 100; n++) {
      const request = smallRequest(next, 1 + (n % 17));
      expect((await predictor.predict(request)).scores).toEqual((await local.predict(request)).scores);
    }
  });
});

test('an answer to a request that has failed leaves the next one alone, which works on the same buffers', async () => {
  /** Answers of the shards, in the order of the plan, that have come and are not delivered. */
  const held: { id: number; deliver(bytes?: Uint8Array): void }[][] = [];
  const holding: Connect = (endpoint, handlers) => {
    const mine: (typeof held)[number] = [];
    held.push(mine);
    return connectTo(endpoint, {
      ...handlers,
      message: (message) => {
        const decoded = decodeShardMessage(message.bytes);
        if (decoded.kind !== 'pooled') return handlers.message(message);
        const release = (): void => message.release();
        mine.push({ id: decoded.id, deliver: (bytes = message.bytes) => handlers.message({ bytes, release }) });
      },
    });
  };
  const both = async (count: number): Promise<void> => {
    for (const end = Date.now() + 5000; held.some((mine) => mine.length < count) && Date.now() < end; ) await sleep(1);
    expect(held.map(({ length }) => length)).toEqual([count, count]);
  };
  await withShards(
    await planOf(2),
    async (predictor) => {
      const next = random(23);
      // Each asks both shards.
      const requests = Array.from({ length: 20 }, () => smallRequest(next, 9));
      const [failing, request] = requests.filter(({ sparse }) => Object.values(sparse).every(({ indices }) => indices.length > 0));
      if (failing === undefined || request === undefined) throw new Error('no requests that ask both shards');
      const failed = predictor.predict(failing, { deadlineMs: 10_000 }).catch((error: unknown) => error);
      await both(1);
      const [first] = held[0] as [(typeof held)[number][number]];
      first.deliver(encodeShardMessage({ kind: 'error', id: first.id, code: 'overloaded', message: 'for the test', details: {} }));
      expect(await failed).toMatchObject({ code: 'overloaded' });
      const answered = predictor.predict(request, { deadlineMs: 10_000 });
      await both(2);
      // Shard 1 sends the answer to this request, and behind it the late one of the other.
      held[1]?.[1]?.deliver();
      await sleep(5);
      held[1]?.[0]?.deliver();
      await sleep(5);
      held[0]?.[1]?.deliver();
      expect((await answered).scores).toEqual((await local.predict(request)).scores);
    },
    holding,
  );
});

test('a table split by rows gives the same scores up to the order of additions, and always the same bits', async () => {
  const plan = await planOf(2);
  const split = { ...plan, tables: plan.tables.map(({ table }) => ({ table, parts: ['shard-0', 'shard-1'] })) };
  await withShards(split, async (predictor) => {
    const next = random(5);
    for (let n = 0; n < 50; n++) {
      const items = 1 + (n % 9);
      const request = smallRequest(next, items);
      const { scores } = await predictor.predict(request);
      const expected = referenceScores(model, request, items);
      scores.forEach((score, item) => expect(Math.abs(score - (expected[item] as number))).toBeLessThan(1e-5 * (expected[item] as number)));
      expect((await predictor.predict(request)).scores).toEqual(scores);
    }
  });
});

/** Rows of a table of one column, and scores that are the sums of a bag. */
async function writeSums(dir: string, rows: readonly number[]): Promise<void> {
  const tensor = (name: string, shape: number[], values: readonly number[]): TensorToWrite => ({
    name,
    dtype: 'F32',
    shape,
    data: new Uint8Array(Float32Array.from(values).buffer),
  });
  const files = {
    'dense.safetensors': await writeSafetensors(join(dir, 'dense.safetensors'), [tensor('one', [1, 1], [1])]),
    'table.safetensors': await writeSafetensors(join(dir, 'table.safetensors'), [tensor('weight', [rows.length, 1], rows)]),
  };
  const layers = [
    { type: 'embedding_bag', name: 'bag', table: 't' },
    { type: 'fc', name: 'score', input: 'bag', weight: 'one' },
  ];
  const tables = [{ name: 't', rows: rows.length, dim: 1, format: 'fp32', file: 'table.safetensors', tensor: 'weight' }];
  const spec = { terabag: 1, name: 'sums', version: '1', dense: [], tables, nets: [{ name: 'net', layers }], output: 'score', files };
  await writeModelJson(dir, modelSchema.parse(spec));
}

test('parts of a table split by rows are added part after part: other bits than on one machine, always the same, and table-wise the same', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
  try {
    await writeSums(dir, [1e8, 1, -1e8]);
    const plan = capacityPlan(await readModelSpec(dir), 2);
    const whole = await openLocal(dir, { deadlineMs: 10_000 });
    const request = { dense: {}, sparse: { bag: { indices: [0, 1, 2], offsets: [0, 3] } } };
    for (const [parts, score] of [
      [plan.tables[0]?.parts ?? [], 0],
      [['shard-0', 'shard-1'], 1],
      [['shard-1', 'shard-0'], 1],
    ] as const) {
      const cluster = await launchCluster(
        { ...plan, tables: [{ table: 't', parts: [...parts] }] },
        { bundle: dir, ephemeralPorts: true, logLevel: 'error' },
      );
      const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: dir });
      try {
        // In float32, 1e8 + 1 is 1e8: the sum in the order of the ids is 0; that of part 0 (rows 0 and 2) and then part 1 is 1.
        expect([...(await whole.predict(request)).scores]).toEqual([0]);
        for (let n = 0; n < 20; n++) expect([...(await predictor.predict(request)).scores]).toEqual([score]);
      } finally {
        await predictor.close();
        await cluster.stop();
      }
    }
    await whole.close();
  } finally {
    await rm(dir, { recursive: true });
  }
});

test('times to wait that are none are refused before anything is opened', async () => {
  const plan = await planOf(2);
  for (const readyMs of [-1, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, '5' as unknown as number, null as unknown as number])
    await expect(connect(plan, { bundle: 'nowhere', readyMs })).rejects.toMatchObject({
      code: 'invalid_argument',
      details: { field: 'readyMs' },
    });
});

test.each([
  ['signal', { signal: {} }],
  ['nameServers', { nameServers: '127.0.0.1' }],
  ['nameServers', { nameServers: [] }],
  ['security', { security: null }],
  ['security', { security: 'main.key' }],
  ['security.keys', { security: { keys: 'main.key' } }],
  ['security.shardKey', { security: { key: 'main.key', shardKey: 7 } }],
])('%s that cannot be one is refused, and nobody is connected to without keys: %j', async (field, options) => {
  const plan = await planOf(2);
  await expect(connect(plan, { bundle: model.dir, readyMs: 200, ...options } as never)).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { field },
  });
});

test('bad ids end in a typed error that names table and position, local and sharded alike', async () => {
  const request = smallRequest(random(2), 2);
  const withIds = (indices: Int32Array | (number | bigint)[] | BigInt64Array) => ({
    ...request,
    sparse: { ...request.sparse, sum: { indices, offsets: [0, 1, indices.length] } },
  });
  await withShards(await planOf(2), async (predictor) => {
    for (const target of [local, predictor]) {
      const code = (bad: ReturnType<typeof withIds>) =>
        target.predict(bad).then(
          () => 'none',
          (error: TerabagError) => `${error.code} ${error.details['table']} ${error.details['position']}`,
        );
      expect(await code(withIds(Int32Array.of(1, 2, 50)))).toBe('index_out_of_range t0 2');
      expect(await code(withIds(Int32Array.of(1, -1, 3)))).toBe('index_out_of_range t0 1');
      expect(await code(withIds(BigInt64Array.of(1n, 2n ** 62n)))).toBe('index_out_of_range t0 1');
      expect(await code(withIds([1, 2n ** 63n]))).toBe('index_out_of_range t0 1');
      expect(await code(withIds([1, 1.5]))).toBe('invalid_argument t0 1');
      expect(await code({ ...request, sparse: { ...request.sparse, sum: { indices: [1, 2], offsets: [0, 3, 2] } } })).toBe(
        'bad_offsets t0 2',
      );
    }
  });
});

/** Requests have ended so long after their deadline. */
const GRACE_MS = 100;
const DEADLINE_MS = 2000;
const RECOVERY_MS = 1000;

test('10,000 requests with a shard killed in the middle each end right or typed by their deadline, and recover within a second', async () => {
  const plan = await planOf(2);
  let killed = false;
  let backAt = Number.POSITIVE_INFINITY;
  let recoveredMs = Number.POSITIVE_INFINITY;
  const cluster = await launchCluster(plan, {
    bundle: model.dir,
    ephemeralPorts: true,
    logLevel: 'error',
    onEvent: ({ what }) => {
      if (what === 'ready' && killed) backAt = performance.now();
    },
  });
  const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
  const next = random(9);
  const requests = Array.from({ length: 50 }, () => smallRequest(next, 4));
  const expected = await Promise.all(requests.map((request) => local.predict(request)));
  const outcomes = { right: 0, typed: 0 };
  let late = 0;
  const one = async (n: number, deadlineMs: number): Promise<boolean> => {
    const asked = predictor.predict(requests[n % 50] as (typeof requests)[number], { deadlineMs });
    if (!(await settlesWithin(deadlineMs + GRACE_MS, asked))) late++;
    try {
      const { scores } = await asked;
      expect(scores).toEqual(expected[n % 50]?.scores);
      // Every request needs both shards, so that one right answer after the shard is back shows that it serves again.
      const sinceBackMs = performance.now() - backAt;
      if (sinceBackMs >= 0) recoveredMs = Math.min(recoveredMs, sinceBackMs);
      return true;
    } catch (error) {
      expect(error).toBeInstanceOf(TerabagError);
      // A busy machine may be too slow for the short ones.
      const typed = ['shard_unavailable', 'deadline_exceeded', ...(deadlineMs < DEADLINE_MS ? ['overloaded'] : [])];
      expect(typed).toContain((error as TerabagError).code);
      return false;
    }
  };
  let sent = 0;
  const lane = async (lane: number): Promise<void> => {
    while (sent < 10_000) {
      if (sent === 5000) {
        killed = true;
        cluster.kill('shard-1', 'SIGKILL');
      }
      // Some deadlines pass while the shard is away, others are long enough to see it come back.
      const right = await one(sent++, lane % 2 === 0 ? 20 : DEADLINE_MS);
      outcomes[right ? 'right' : 'typed']++;
    }
  };
  try {
    await Promise.all(Array.from({ length: 16 }, (_, number) => lane(number)));
    const patience = performance.now() + 10_000;
    while (recoveredMs === Number.POSITIVE_INFINITY && performance.now() < patience) await one(0, 50);
    expect(recoveredMs).toBeLessThan(RECOVERY_MS);
    expect(outcomes.right + outcomes.typed).toBe(10_000);
    expect(outcomes.right).toBeGreaterThan(2000);
    expect(outcomes.typed).toBeGreaterThan(0);
    expect(late).toBe(0);
    expect(predictor.stats()['lost']).toBeGreaterThan(0);
    expect(predictor.stats()['inFlight']).toBe(0);
  } finally {
    await predictor.close();
    await cluster.stop();
  }
});

test('a truncated or missing table is refused at open with the reason', async () => {
  const damaged = await writeSmallModel(8);
  await truncate(join(damaged.dir, 'tables/t1.safetensors'), 100);
  await expect(openLocal(damaged.dir)).rejects.toThrow(/another length.*t1/);
  await rm(join(damaged.dir, 'tables/t1.safetensors'));
  await expect(openLocal(damaged.dir)).rejects.toThrow(/missing.*t1/);
  await rm(damaged.dir, { recursive: true });
});
