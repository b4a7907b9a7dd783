import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { verifyBundleAndIndexes } from '../../src/engine/verify-indexes.js';
import { connect, launchCluster, openLocal, type Plan, type Predictor, packBundle, publish } from '../../src/index.js';
import { openBundle, verifyBundle, writeModelJson } from '../../src/model/bundle.js';
import { verifyPublished } from '../../src/plan/file/publish/verify-published.js';
import { tableBytes } from '../../src/plan/placement/bytes.js';
import { checksumFile } from '../../src/tables/checksum.js';
import { type GivenAs, type KeyedModel, keyedRequest, writeKeyedModel } from '../reference/keyed-model.js';
import { capacityPlan } from '../reference/plans.js';
import { randomRequest } from '../reference/random-model.js';
import { random } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const terabag = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' });
const GIVEN: readonly GivenAs[] = ['bigint', 'unsigned', 'string', 'array'];
const bits = (scores: Float32Array): Uint32Array => new Uint32Array(scores.buffer, scores.byteOffset, scores.length);

let dir: string;
let model: KeyedModel;
let plainDir: string;
let keyedDir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-keyed-'));
  [plainDir, keyedDir] = [join(dir, 'plain'), join(dir, 'keyed')];
  await mkdir(plainDir);
  await mkdir(keyedDir);
  model = await writeKeyedModel(plainDir, keyedDir, 5);
});
afterAll(() => rm(dir, { recursive: true }));

/** Scores of the same requests, asked by row or by key. */
async function scoresOf(predictor: Predictor, keyed: boolean): Promise<Uint32Array[]> {
  const next = random(77);
  const scores: Uint32Array[] = [];
  for (let n = 0; n < 24; n++) {
    const request = randomRequest(model.plain, next, 1 + (n % 6));
    const asked = keyed ? keyedRequest(model, request, GIVEN[n % 4] as GivenAs) : request;
    scores.push(bits((await predictor.predict(asked)).scores));
  }
  return scores;
}

async function localScores(bundle: string, keyed: boolean): Promise<Uint32Array[]> {
  const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
  try {
    return await scoresOf(predictor, keyed);
  } finally {
    await predictor.close();
  }
}

/** Every table with enough rows is split over the first shards. */
function splitPlan(shards: number, keyedModel = true): Plan {
  const plan = capacityPlan(keyedModel ? model.keyed : model.plain, shards);
  const rows = new Map(model.plain.tables.map((table) => [table.name, table.rows]));
  const tables = plan.tables.map(({ table, parts }) => ({
    table,
    parts: (rows.get(table) ?? 0) >= 40 ? plan.shards.map(({ name }) => name) : parts,
  }));
  return { ...plan, tables };
}

async function shardedScores(plan: Plan, bundle: string, mainBundle: string, options = {}): Promise<Uint32Array[]> {
  const cluster = await launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'error' });
  try {
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: mainBundle, ...options });
    try {
      return await scoresOf(predictor, true);
    } finally {
      await predictor.close();
    }
  } finally {
    await cluster.stop();
  }
}

const floats = (scores: Uint32Array): Float32Array => new Float32Array(scores.buffer, scores.byteOffset, scores.length);
function expectClose(found: readonly Uint32Array[], expected: readonly Uint32Array[]): void {
  found.forEach((scores, n) => {
    floats(expected[n] as Uint32Array).forEach((score, i) => {
      expect(Math.abs((floats(scores)[i] as number) - score)).toBeLessThan(1e-4 * (1 + Math.abs(score)));
    });
  });
}

test('keys give the bits of rows, however they are written', async () => {
  expect(await localScores(keyedDir, true)).toEqual(await localScores(plainDir, false));
});

describe('on shards', () => {
  test('whole tables give the bits of one process, in every mode', async () => {
    const local = await localScores(keyedDir, true);
    const plan = capacityPlan(model.keyed, 2);
    for (const options of [{}, { dedup: true }, { rpc: 'paper', batchItems: 2 }] as const)
      expect(await shardedScores(plan, keyedDir, keyedDir, options)).toEqual(local);
  });

  test.each([1, 2, 4])(
    'tables that are split over %i shards give the same bits published and not, near those of one process',
    async (shards) => {
      const local = await localScores(keyedDir, true);
      const plan = splitPlan(shards);
      const out = join(dir, `published-${shards}`);
      await publish(plan, keyedDir, out);
      expect(terabag('verify', out, '--source', keyedDir)).toMatchObject({ status: 0, stderr: '' });
      const whole = await shardedScores(plan, keyedDir, keyedDir);
      expect(await shardedScores(plan, out, out)).toEqual(whole);
      expect(await shardedScores(plan, out, keyedDir, { dedup: true, rpc: 'paper' })).toEqual(whole);
      if (shards === 1) expect(whole).toEqual(local);
      else expectClose(whole, local);
      // Each row is at one of them.
      const bundles = await Promise.all(plan.shards.map(({ name }) => openBundle(join(out, name), { dense: false })));
      for (const [t, { name, rows }] of model.keyed.tables.entries()) {
        const held = bundles.flatMap(({ tables }) => tables[t] ?? []);
        if (held.length > 0) expect(held.reduce((sum, part) => sum + part.rows, 0)).toBe(rows);
        if (held.length > 1) expect(name).toBe(held[0]?.spec.name);
      }
    },
  );

  test('publishing again keeps what is whole, and a part that was damaged is found', async () => {
    const plan = splitPlan(2);
    const out = join(dir, 'again');
    const [first] = await publish(plan, keyedDir, out);
    const [second] = await publish(plan, keyedDir, out);
    expect(second).toMatchObject({ written: 0, kept: (first?.written ?? 0) + (first?.linked ?? 0) + (first?.copied ?? 0) });
    const { tables } = await openBundle(join(out, 's0'), { dense: false }).catch(() =>
      openBundle(join(out, plan.shards[0]?.name ?? ''), { dense: false }),
    );
    const part = tables.find((table) => table?.index && table.parts > 1);
    const path = part?.index?.path ?? '';
    const bytes = await readFile(path);
    bytes[(part?.index?.byteOffset ?? 0) + 1] = (bytes[(part?.index?.byteOffset ?? 0) + 1] as number) ^ 1;
    await writeFile(path, bytes);
    expect(terabag('verify', out, '--source', keyedDir).status).toBe(1);
  });
});

describe('a key that its table does not have', () => {
  const wanted = { code: 'index_out_of_range' };
  /** A request whose item 2 has an unknown key at the end of its bag in the first keyed layer. */
  function withUnknown(key: bigint): { request: ReturnType<typeof keyedRequest>; layer: string; table: string; position: number } {
    const request = keyedRequest(model, randomRequest(model.plain, random(3), 5), 'bigint');
    const layers = model.keyed.nets.flatMap(({ layers }) => layers);
    const bag = layers.find(
      (layer) => layer.type === 'embedding_bag' && layer.side === 'item' && (model.keys.get(layer.table) ?? null) !== null,
    ) as { name: string; table: string; weighted: boolean };
    const known = [...((model.keys.get(bag.table) as BigInt64Array | null) ?? [])].slice(0, 5);
    const indices = [known[0], known[1], known[0], known[1], key, known[2]] as bigint[];
    const bags = { indices, offsets: [0, 2, 4, 5, 6, 6], ...(bag.weighted && { weights: indices.map(() => 1) }) };
    return { request: { ...request, sparse: { ...request.sparse, [bag.name]: bags } }, layer: bag.name, table: bag.table, position: 4 };
  }

  test('is told with its place in the request, local, on shards and where bags were left out', async () => {
    const { request, table, position } = withUnknown(123_456_789_012_345n);
    const details = { table, bag: 2, position, key: '123456789012345' };
    const local = await openLocal(keyedDir, { deadlineMs: 10_000 });
    await expect(local.predict(request)).rejects.toMatchObject({
      ...wanted,
      details,
      message: expect.stringContaining('key 123456789012345'),
    });
    await local.close();
    for (const [plan, options] of [
      [capacityPlan(model.keyed, 2), {}],
      [splitPlan(2), {}],
      [splitPlan(2), { dedup: true }],
      [splitPlan(2), { rpc: 'paper', batchItems: 2 }],
    ] as const) {
      const cluster = await launchCluster(plan, { bundle: keyedDir, ephemeralPorts: true, logLevel: 'error' });
      const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: keyedDir, ...options });
      await expect(predictor.predict(request)).rejects.toMatchObject({ ...wanted, details });
      await predictor.close();
      await cluster.stop();
    }
  });

  test('that is no integer of 64 bits is refused with its place', async () => {
    const local = await openLocal(keyedDir, { deadlineMs: 10_000 });
    for (const key of [2n ** 64n, -(2n ** 63n) - 1n, '18446744073709551616', '1e3', 1.5, 2 ** 53, null, `${'9'.repeat(1_000_000)}`]) {
      const { request, table } = withUnknown(key as bigint);
      await expect(local.predict(request)).rejects.toMatchObject({ code: 'invalid_argument', details: { table, bag: 2, position: 4 } });
    }
    await local.close();
  });
});

test('pack keeps the keys, and the bits of the rows that they find', async () => {
  for (const [plain, keyed] of [[join(dir, 'plain-int8'), join(dir, 'keyed-int8')] as const]) {
    const tables = model.plain.tables.filter(({ format }) => format === 'fp32').map(({ name }) => name);
    await packBundle(plainDir, plain, { format: 'int8', tables });
    await packBundle(keyedDir, keyed, { format: 'int8', tables });
    expect(await localScores(keyed, true)).toEqual(await localScores(plain, false));
  }
});

test('bytes of keyed tables are planned with their keys, counted in memory, and shown', async () => {
  const predictor = await openLocal(keyedDir, { deadlineMs: 10_000 });
  const { tables } = await openBundle(keyedDir);
  const indexes = tables.reduce((sum, table) => sum + (table?.index?.bytes ?? 0), 0);
  const rows = tables.reduce((sum, table) => sum + (table?.bytes ?? 0), 0);
  expect(indexes).toBeGreaterThan(0);
  expect(predictor.stats().tableBytes).toBe(rows + indexes);
  await predictor.close();
  const [table] = model.keyed.tables.filter(({ keys }) => keys !== undefined);
  const { keys: _, ...without } = table as typeof table & object;
  expect(tableBytes(table as never)).toBe(tableBytes(without as never) + 16 * (table?.rows ?? 0));
  expect(terabag('inspect', keyedDir).stdout).toContain('keys.safetensors');
  expect(terabag('verify', keyedDir)).toMatchObject({ status: 0 });
});

test('an index that does not fit its table is refused when the bundle is opened', async () => {
  const [keyed] = model.keyed.tables.filter(({ keys }) => keys !== undefined);
  const file = keyed?.keys?.file ?? '';
  const path = join(keyedDir, file);
  const whole = await readFile(path);
  const headerBytes = Number(whole.readBigUInt64LE());
  const edit = async (change: (header: string) => string): Promise<void> => {
    const header = change(whole.toString('latin1', 8, 8 + headerBytes).trimEnd()).padEnd(headerBytes, ' ');
    await writeFile(path, Buffer.concat([whole.subarray(0, 8), Buffer.from(header, 'latin1'), whole.subarray(8 + headerBytes)]));
    const { bytes, crc32 } = await checksumFile(path);
    await writeModelJson(keyedDir, { ...model.keyed, files: { ...model.keyed.files, [file]: { bytes, crc32 } } });
  };
  for (const [change, what] of [
    [(header: string) => header.replace(/keys (\d+) seed/, 'keys 1$1 seed'), 'every row has one key'],
    [(header: string) => header.replace('terabag 1', 'terabag 2'), 'terabag 1 keys N seed S'],
    [(header: string) => header.replace('"keys":{', '"kexs":{'), 'no tensor keys'],
    [(header: string) => header.replace(/\[(\d+),64\]/, '[64,$1]'), 'key index is U8'],
  ] as const) {
    await edit(change);
    await expect(openLocal(keyedDir)).rejects.toMatchObject({ code: 'bad_table', message: expect.stringContaining(what) });
  }
  await writeFile(path, whole);
  await writeModelJson(keyedDir, model.keyed);
  expect(await verifyBundle(keyedDir)).toEqual([]);
});

test('terabag verify names table, file and fault of a broken index, also where its checksum is right', async () => {
  const [keyed] = model.keyed.tables.filter(({ keys, rows }) => keys !== undefined && rows >= 8);
  const { file = '' } = keyed?.keys ?? {};
  const { tables } = await openBundle(keyedDir);
  const index = tables.find((table) => table?.spec.name === keyed?.name)?.index;
  if (index == null) throw new Error('the table has no index');
  const whole = await readFile(index.path);
  const rowBits = Math.floor(Math.log2(Math.max(16, Math.ceil(((keyed?.rows ?? 0) * 16) / 65)))) - 4;
  const rowMask = 2 ** rowBits - 1;
  const isUnused = (bucket: Buffer, slot: number): boolean => bucket.readBigUInt64LE(slot * 8) === 2n ** 64n - 1n;
  const breakBytes = async (change: (bucket: Buffer) => void): Promise<void> => {
    const bytes = Buffer.from(whole);
    for (let at = index.byteOffset; at < index.byteOffset + index.bytes; at += 64) {
      if (isUnused(bytes.subarray(at, at + 64), 1)) continue;
      change(bytes.subarray(at, at + 64));
      break;
    }
    await writeFile(index.path, bytes);
  };
  const faults: readonly (readonly [change: (bucket: Buffer) => void, what: string])[] = [
    [(bucket) => bucket.writeUInt8(255, 56), 'a key has a row that the table does not have'],
    [
      (bucket) => bucket.copyWithin(57, 56, 57).writeUInt8((bucket.readUInt8(8) & ~rowMask) | (bucket.readUInt8(0) & rowMask), 8),
      'two keys have one row',
    ],
    [(bucket) => bucket.copyWithin(8, 0, 8), 'a key lies where nobody looks for it'],
    [(bucket) => bucket.fill(0xff, 0, 8).writeUInt8(0xff, 56), 'a key lies behind a slot that is not used'],
    [(bucket) => bucket.writeUInt8(15, 63), 'keys are said to lie further on than any is looked for'],
  ];
  for (const [change, what] of faults) {
    await breakBytes(change);
    const found = await verifyBundleAndIndexes(keyedDir);
    expect(found).toEqual([
      expect.stringContaining('file is damaged'),
      expect.stringMatching(new RegExp(`^key index of table ${keyed?.name} is damaged: .*${what}.*: ${index.path}, bucket \\d+$`)),
    ]);
    await writeModelJson(keyedDir, { ...model.keyed, files: { ...model.keyed.files, [file]: await checksumFile(index.path) } });
    expect(await verifyBundleAndIndexes(keyedDir)).toEqual([found[1]]);
    if (change === faults[0]?.[0]) {
      const { status, stderr } = terabag('verify', keyedDir);
      expect([status, stderr]).toEqual([1, expect.stringContaining(found[1] as string)]);
    }
    await writeModelJson(keyedDir, model.keyed);
  }
  await writeFile(index.path, whole);
  expect(terabag('verify', keyedDir)).toMatchObject({ status: 0, stderr: '' });
});

describe('keys that no row has, and padding', () => {
  const UNKNOWN = [5_000_000_000_000n, -77n, 2n ** 62n + 1n];
  const PADDING = 4_444_444_444_444n;
  const withRules = <Spec extends KeyedModel['plain']>(spec: Spec, rows: boolean): Spec => ({
    ...spec,
    tables: spec.tables.map((table, t) => ({ ...table, unseen: rule(table, t, rows) })),
    nets: spec.nets.map((net) => ({
      ...net,
      layers: net.layers.map((layer, l) =>
        layer.type === 'embedding_bag' && l % 2 === 0 ? { ...layer, paddingId: String(PADDING) } : layer,
      ),
    })),
  });
  function rule({ rows, dim }: { rows: number; dim: number }, t: number, named: boolean) {
    const policies = [
      { policy: 'skip' as const },
      { policy: 'zero' as const },
      { policy: 'default' as const, vector: Array.from({ length: dim }, (_, d) => (d % 5) / 4) },
      { policy: 'hash' as const, rows: Math.ceil(rows / 2) },
      { policy: 'default' as const, row: rows - 1 },
    ];
    return policies[t % (named ? 5 : 3)] as (typeof policies)[number];
  }
  /** The same strange ids in both. */
  function spoil(request: ReturnType<typeof keyedRequest>, next: () => number): ReturnType<typeof keyedRequest> {
    const sparse = Object.entries(request.sparse).map(([layer, bags]) => {
      const padded = model.plain.nets.some(({ layers }) => layers.some((each, l) => each.name === layer && l % 2 === 0));
      const strange = padded ? [...UNKNOWN, PADDING] : UNKNOWN;
      const indices = Array.from(bags.indices, (id) => (next() < 0.3 ? (strange[Math.floor(next() * strange.length)] as bigint) : id));
      return [layer, { ...bags, indices }];
    });
    return { ...request, sparse: Object.fromEntries(sparse) };
  }
  async function scores(predictor: Predictor, keyed: boolean): Promise<Uint32Array[]> {
    const found: Uint32Array[] = [];
    const next = random(55);
    for (let n = 0; n < 16; n++) {
      const request = randomRequest(model.plain, next, 1 + (n % 5));
      const asked = keyed ? keyedRequest(model, request, GIVEN[n % 3] as GivenAs) : request;
      found.push(bits((await predictor.predict(spoil(asked, random(n + 1)))).scores));
    }
    return found;
  }
  async function withModels<T>(rows: boolean, run: () => Promise<T>): Promise<T> {
    await writeModelJson(plainDir, withRules(model.plain, rows));
    await writeModelJson(keyedDir, withRules(model.keyed, rows));
    try {
      return await run();
    } finally {
      await writeModelJson(plainDir, model.plain);
      await writeModelJson(keyedDir, model.keyed);
    }
  }
  async function localOf(bundle: string, keyed: boolean): Promise<Uint32Array[]> {
    const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
    const found = await scores(predictor, keyed);
    expect(Object.keys(predictor.stats().unseen).length).toBeGreaterThan(3);
    await predictor.close();
    return found;
  }

  test('become what the rule says, as ids that are no rows do', async () => {
    await withModels(true, async () => expect(await localOf(keyedDir, true)).toEqual(await localOf(plainDir, false)));
  });

  test('are told apart on the part that the hash of the key names, published or not', async () => {
    await withModels(false, async () => {
      const local = await localOf(keyedDir, true);
      const { spec, hash } = await openBundle(keyedDir);
      const plan = { ...splitPlan(2), model: { name: spec.name, version: spec.version, hash } } as Plan;
      const out = join(dir, 'published-rules');
      await publish(plan, keyedDir, out);
      const found: Uint32Array[][] = [];
      for (const bundle of [keyedDir, out]) {
        const cluster = await launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'error' });
        const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle });
        found.push(await scores(predictor, true));
        await predictor.close();
        await cluster.stop();
      }
      expect(found[1]).toEqual(found[0]);
      expectClose(found[0] as Uint32Array[], local);
    });
  });

  test('that get rows of other parts get the bits of a whole bundle where parts are published, in every mode', async () => {
    await withModels(true, async () => {
      const { spec, hash } = await openBundle(keyedDir);
      const model = { name: spec.name, version: spec.version, hash };
      for (const shards of [2, 3]) {
        const plan = { ...splitPlan(shards), model } as Plan;
        const out = join(dir, `named-rows-${shards}`);
        await publish(plan, keyedDir, out);
        expect(await verifyPublished(out, keyedDir)).toEqual([]);
        const held = (await openBundle(join(out, plan.shards[0]?.name ?? ''), { dense: false })).spec.published?.parts ?? [];
        expect(held.some(({ fallbackRows = 0 }) => fallbackRows > 1) && held.some(({ fallbackRows }) => fallbackRows === 1)).toBe(true);
        const found: Uint32Array[][] = [];
        for (const [bundle, residency] of [
          [keyedDir, 'populate'],
          [out, shards === 2 ? 'populate' : 'hugepages'],
        ] as const) {
          const cluster = await launchCluster(plan, { bundle, residency, ephemeralPorts: true, logLevel: 'error' });
          for (const mode of [{}, { dedup: true }, { rpc: 'paper', batchItems: 2 }] as const) {
            const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: keyedDir, ...mode });
            found.push(await scores(predictor, true));
            await predictor.close();
          }
          await cluster.stop();
        }
        for (const other of found) expect(other).toEqual(found[0]);
        expectClose(found[0] as Uint32Array[], await localOf(keyedDir, true));
      }
    });
  });

  test("a copy of a row that is not the source's is found, and so is a record of another number of them", async () => {
    await withModels(true, async () => {
      const { spec, hash } = await openBundle(keyedDir);
      const plan = { ...splitPlan(2), model: { name: spec.name, version: spec.version, hash } } as Plan;
      const out = join(dir, 'damaged-copies');
      await publish(plan, keyedDir, out);
      const shard = join(out, plan.shards[1]?.name ?? '');
      const opened = await openBundle(shard, { dense: false });
      const part = opened.tables.find((table) => (table?.fallbackRows ?? 0) > 0);
      if (part == null) throw new Error('no part has copies');
      const bytes = await readFile(part.path);
      const at = part.byteOffset + part.bytes - 1;
      bytes[at] = (bytes[at] as number) ^ 1;
      await writeFile(part.path, bytes);
      // As if it had been published so: the checksum is the file's.
      const { published } = opened.spec;
      if (published === undefined) throw new Error('not published');
      const files = { ...published.files, [part.file]: await checksumFile(part.path) };
      await writeModelJson(shard, { ...opened.spec, published: { ...published, files } });
      expect(await verifyPublished(out, keyedDir)).toEqual([
        expect.stringContaining(`row for ids without one differs from the source: table ${part.spec.name}`),
      ]);
      const parts = published.parts.map((held) =>
        held.table === part.spec.name ? { ...held, fallbackRows: part.fallbackRows + 1 } : held,
      );
      await writeModelJson(shard, { ...opened.spec, published: { ...published, parts } });
      await expect(openBundle(shard, { dense: false })).rejects.toMatchObject({
        code: 'bad_model',
        message: expect.stringContaining(`${part.fallbackRows + 1} rows for ids that it does not have, expected ${part.fallbackRows}`),
      });
    });
  });
});
