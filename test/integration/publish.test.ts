import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SparseEngine } from '../../src/engine/sparse-engine.js';
import { engineTables, everyPart } from '../../src/engine/tables.js';
import { connect, launchCluster, openLocal, type Plan, packBundle, publish } from '../../src/index.js';
import { openBundle, readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import { rowBytes } from '../../src/model/formats.js';
import { modelHash } from '../../src/model/hash.js';
import { MAIN_SHARD, writePlan } from '../../src/plan/file/plan.js';
import { startShard } from '../../src/shard/shard.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../src/tables/safetensors.js';
import { planOf } from '../reference/published-model.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const terabag = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { encoding: 'utf8' });
const SHARDS = ['s0', 's1'];

let model: SmallModel;
let dir: string;
beforeAll(async () => {
  model = await writeSmallModel(21);
  dir = await mkdtemp(join(tmpdir(), 'terabag-published-'));
});
afterAll(() => Promise.all([model.dir, dir].map((path) => rm(path, { recursive: true }))));

/** The same model with t0 and t1 as tensors of one file, and t1 read by one more bag than the model has. */
async function inOneFile(): Promise<SmallModel> {
  const shared = await writeSmallModel(22);
  const spec = await readModelSpec(shared.dir);
  const file = 'tables/both.safetensors';
  const tensors = await Promise.all(
    ['t0', 't1'].map(async (name) => {
      const header = await readSafetensorsHeader(join(shared.dir, `tables/${name}.safetensors`));
      const info = header.tensors.get('weight')!;
      return { name, dtype: info.dtype, shape: info.shape, data: await readTensor(header, info) };
    }),
  );
  const files = { ...spec.files, [file]: await writeSafetensors(join(shared.dir, file), tensors) };
  const tables = spec.tables.map((table) => (table.name === 't2' ? table : { ...table, file, tensor: table.name }));
  // The bags sum and mean read one table.
  const [net] = spec.nets;
  const layers = net!.layers.map((layer) => (layer.type === 'embedding_bag' && layer.name === 'mean' ? { ...layer, table: 't0' } : layer));
  await writeModelJson(shared.dir, { ...spec, files, tables, nets: [{ ...net!, layers }] });
  return shared;
}

async function planFor(bundle: string, parts: readonly (readonly string[])[]): Promise<Plan> {
  const spec = await readModelSpec(bundle);
  return planOf({ spec, hash: modelHash(spec) }, SHARDS, parts);
}

/** Scores of 40 requests on real daemons; mainBundle: what connect opens. */
async function scoresOn(plan: Plan, bundle: string, mainBundle: string): Promise<Float32Array[]> {
  const cluster = await launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'error' });
  try {
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: mainBundle });
    try {
      const next = random(31);
      const scores: Float32Array[] = [];
      for (let n = 0; n < 40; n++) scores.push((await predictor.predict(smallRequest(next, 1 + (n % 7)))).scores);
      return scores;
    } finally {
      await predictor.close();
    }
  } finally {
    await cluster.stop();
  }
}

async function localScores(bundle: string): Promise<Float32Array[]> {
  const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
  const next = random(31);
  const scores: Float32Array[] = [];
  for (let n = 0; n < 40; n++) scores.push((await predictor.predict(smallRequest(next, 1 + (n % 7)))).scores);
  await predictor.close();
  return scores;
}

const BUNDLES: [string, () => Promise<string>][] = [
  ['fp32', async () => model.dir],
  ['tables of one file, one of them read by two bags', async () => (await inOneFile()).dir],
  ...(['int8', 'int4'] as const).map((format): [string, () => Promise<string>] => [
    format,
    async () => {
      await packBundle(model.dir, join(dir, format), { format });
      return join(dir, format);
    },
  ]),
];

test.each(BUNDLES)(
  '%s: published bundles give the bits of the whole one, table-wise, row-wise and with tables on main',
  async (name, make) => {
    const bundle = await make();
    const singular = await localScores(bundle);
    for (const [kind, parts] of [
      ['table-wise', [['s0'], ['s1'], ['s0']]],
      ['on main', [[MAIN_SHARD], ['s1'], ['s0']]],
      ['row-wise', [['s1', 's0'], ['s0', 's1'], ['s1']]],
    ] as const) {
      const plan = await planFor(bundle, parts);
      const out = join(dir, `${name}-${kind}`);
      await publish(plan, bundle, out);
      expect(terabag('verify', out, '--source', bundle)).toMatchObject({ status: 0, stderr: '' });
      const expected = kind === 'row-wise' ? await scoresOn(plan, bundle, bundle) : singular;
      expect(await scoresOn(plan, out, out)).toEqual(expected);
      if (kind === 'row-wise') expect(await scoresOn(plan, out, bundle)).toEqual(expected);
    }
    if (name.startsWith('tables')) await rm(bundle, { recursive: true });
  },
);

test('a published part answers its own rows, and refuses a local index behind them', async () => {
  const plan = await planFor(model.dir, [['s0'], ['s1'], ['s0', 's1']]);
  const out = join(dir, 'indices');
  await publish(plan, model.dir, out);
  const bundle = await openBundle(join(out, 's1'), { dense: false });
  const tables = engineTables(bundle, everyPart(bundle));
  expect(tables.at(-1)).toMatchObject({ name: 't2', part: 1, parts: 2, rows: 100, firstRow: 0, rowStep: 1 });
  const engine = new SparseEngine(tables);
  await engine.fill();
  const bytes = (values: Uint32Array | Int32Array): Uint8Array => new Uint8Array(values.buffer);
  const pool = async (index: number, out: Float32Array): Promise<void> => {
    const [segments, offsets] = [Uint32Array.of(2, 1, 2, 1, 0), Uint32Array.of(0, 1)].map(bytes) as [Uint8Array, Uint8Array];
    await engine.pool({ segments, offsets, indices: bytes(Int32Array.of(index)), indexBytes: 4, weights: null }, out);
  };
  const row = new Float32Array(12);
  await pool(99, row);
  expect(row).toEqual(model.tables[2]!.subarray(199 * 12, 200 * 12));
  for (const index of [100, -1])
    await expect(pool(index, row)).rejects.toMatchObject({ code: 'index_out_of_range', details: { table: 't2', rows: '100' } });
  engine.close();
});

test('a shard refuses the bundle of another shard, of another plan and of another model, and says which', async () => {
  const plan = await planFor(model.dir, [['s0'], ['s1'], ['s0', 's1']]);
  const out = join(dir, 'refusals');
  await publish(plan, model.dir, out);
  const log = pino({ level: 'silent' });
  const start = (given: Plan, bundle: string) => startShard({ plan: given, shard: 's0', bundle, endpoint: 'tcp://127.0.0.1:*', log });
  const refused = (what: Promise<unknown>, message: RegExp) =>
    expect(what).rejects.toMatchObject({ code: 'model_mismatch', message: expect.stringMatching(message) });
  await refused(start(plan, join(out, 's1')), /published for shard s1, this is s0/);
  await refused(start(plan, join(out, 'main')), /published for shard main, this is s0/);
  const swapped = await planFor(model.dir, [['s0'], ['s1'], ['s1', 's0']]);
  await refused(start(swapped, out), /another plan: it holds part 0 of 2 of table t2, the plan says part 1 of 2/);
  const fewer = await planFor(model.dir, [['s1'], ['s0'], ['s1', 's0']]);
  await refused(start(fewer, out), /another plan: it holds/);
  const other = await writeSmallModel(23);
  await refused(start(await planFor(other.dir, [['s0'], ['s1'], ['s0', 's1']]), out), /plan is of another model/);
  await rm(other.dir, { recursive: true });
  await expect(connect(plan, { bundle: join(out, 's0') })).rejects.toThrow(/no dense weights.*published for shard s0/);
  await expect(openLocal(join(out, 'main'))).rejects.toThrow(/does not hold table t0.*published for shard main/);
  await refused(connect(await planFor(model.dir, [[MAIN_SHARD], ['s1'], ['s0', 's1']]), { bundle: out }), /another plan.*table t0/);
  await expect(packBundle(join(out, 's0'), join(dir, 'packed'), { format: 'int8' })).rejects.toThrow(/published cannot be packed/);
});

test('the command publishes, and inspect, warm and verify understand what it wrote', async () => {
  const plan = await planFor(model.dir, [['s0'], ['s1'], ['s0', 's1']]);
  const [path, out] = [join(dir, 'plan.json'), join(dir, 'command')];
  await writePlan(path, plan);
  const { status, stdout, stderr } = terabag('publish', path, out, '--bundle', model.dir, '--shards', 's0,main', '--json');
  expect([status, stderr]).toEqual([0, '']);
  expect((JSON.parse(stdout) as { shards: unknown[] }).shards).toMatchObject([
    { shard: 's0', tables: 2, linked: 1, written: 1 },
    { shard: 'main', tables: 0, linked: 1, written: 0 },
  ]);
  const inspected = JSON.parse(terabag('inspect', join(out, 's0'), '--json').stdout);
  expect(inspected).toMatchObject({ hash: plan.model.hash, published: { shard: 's0' } });
  expect(inspected.tables).toMatchObject([
    { name: 't0', part: '0 of 1', rows: 50 },
    { name: 't2', part: '0 of 2', rows: 100, bytes: 100 * rowBytes('fp32', 12) },
  ]);
  expect(terabag('inspect', join(out, 's0')).stdout).toMatch(/published for s0: its rows of 2 of 3 tables/);
  expect(terabag('inspect', join(out, 's0'), '--residency').status).toBe(0);
  expect(terabag('warm', join(out, 's0')).status).toBe(0);
  expect(terabag('verify', join(out, 's0'))).toMatchObject({ status: 0, stdout: 'all files are sound\n' });
  expect(terabag('verify', out, '--source', model.dir)).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/table once: t1, nowhere/),
  });
  expect(terabag('verify', join(out, 's0'), '--source', model.dir, '--json').status).toBe(0);
});

test('a write that fails in the middle leaves no bundle, and the same command goes on', async () => {
  const { bundle, plan, rows } = await largeBundle(2 ** 14);
  const out = join(dir, 'full');
  // A limit on the size of files stands for a full disk: writes fail with EFBIG where they would with ENOSPC.
  const limited = `trap '' XFSZ; ulimit -f 512; exec "$0" "$@"`;
  const full = spawnSync('bash', ['-c', limited, process.execPath, main, 'publish', plan, out, '--bundle', bundle], { encoding: 'utf8' });
  expect(full).toMatchObject({ status: 1, stderr: expect.stringMatching(/no room left.*EFBIG.*\(does_not_fit\)/) });
  expect((await readdir(out, { recursive: true })).filter((name) => /tmp$|model\.json$/.test(name))).toEqual([]);
  expect(terabag('publish', plan, out, '--bundle', bundle).status).toBe(0);
  expect(terabag('verify', out, '--source', bundle)).toMatchObject({ status: 0, stderr: '' });
  expect((await readModelSpec(join(out, 's0'))).published!.parts[0]!.rows).toBe(rows / 2);
  await rm(bundle, { recursive: true });
});

/** Eight tables of rows x 256 bytes, split over two shards; made of the small model's spec, whose bags read the first three. */
async function largeBundle(rows: number): Promise<{ bundle: string; plan: string; rows: number }> {
  const { dir: bundle } = await writeSmallModel(24);
  const spec = await readModelSpec(bundle);
  const files = { ...spec.files };
  const piece = new Uint8Array(Float32Array.from({ length: rows * 64 }, (_, i) => Math.sin(i)).buffer);
  const tables = [...spec.tables];
  for (let t = 0; t < 8; t++) {
    const file = `tables/large${t}.safetensors`;
    piece[t * 256] = t;
    files[file] = await writeSafetensors(join(bundle, file), [{ name: 'w', dtype: 'F32', shape: [rows, 64], data: piece }]);
    tables.unshift({ name: `large${t}`, rows, dim: 64, format: 'fp32', file, tensor: 'w' });
  }
  const large = { ...spec, tables, files };
  await writeModelJson(bundle, large);
  const plan = join(bundle, 'plan.json');
  await writePlan(
    plan,
    planOf(
      { spec: large, hash: modelHash(large) },
      SHARDS,
      tables.map(({ name }) => (name === 't0' ? ['s0'] : SHARDS)),
    ),
  );
  return { bundle, plan, rows };
}

/** Ends the process by a signal when it is about to give its nth file its name, or while it writes that file. */
const stopAt = (count: number, when: 'naming' | 'writing', signal: NodeJS.Signals): string =>
  `data:text/javascript,
  import fs from 'node:fs';
  import { syncBuiltinESMExports } from 'node:module';
  let count = 0;
  const stop = () => ++count === ${count} && process.kill(process.pid, '${signal}');
  const { open, rename } = fs.promises;
  fs.promises.rename = (...names) => ('${when}' === 'naming' && stop(), rename(...names));
  fs.promises.open = async (path, flags, ...rest) => {
    const file = await open(path, flags, ...rest);
    if ('${when}' === 'writing' && flags === 'w') setTimeout(stop, 1);
    return file;
  };
  syncBuiltinESMExports();`;

test('killed and interrupted at any point, the same command goes on until every row is that of the source', async () => {
  const { bundle, plan } = await largeBundle(2 ** 16);
  const out = join(dir, 'killed');
  let stopped = 0;
  let kept = 0;
  for (let round = 0; round < 12; round++) {
    const hook = stopAt(1 + (round % 4), round % 2 === 0 ? 'naming' : 'writing', round % 3 === 2 ? 'SIGINT' : 'SIGKILL');
    const { status } = spawnSync(process.execPath, ['--import', hook, main, 'publish', plan, out, '--bundle', bundle], { stdio: 'ignore' });
    if (status !== 0) stopped++;
    const manifests = (await readdir(out, { recursive: true })).filter((name) => name.endsWith('model.json'));
    for (const manifest of manifests) expect(terabag('verify', join(out, manifest, '..'), '--source', bundle)).toMatchObject({ status: 0 });
    if (status === 0) break;
  }
  expect(stopped).toBeGreaterThan(0);
  const { status, stdout } = terabag('publish', plan, out, '--bundle', bundle, '--json');
  expect(status).toBe(0);
  for (const shard of (JSON.parse(stdout) as { shards: { kept: number }[] }).shards) kept += shard.kept;
  expect(kept).toBeGreaterThan(0);
  expect(terabag('verify', out, '--source', bundle)).toMatchObject({ status: 0, stderr: '' });
  expect((await readdir(out, { recursive: true })).filter((name) => /tmp$|publishing/.test(name))).toEqual([]);
  await rm(bundle, { recursive: true });
});

test('a large table is split in little memory', async () => {
  const { bundle, plan, rows } = await largeBundle(2 ** 17);
  const out = join(dir, 'memory');
  const tellMemory = `data:text/javascript,process.on('exit', () => console.error(process.resourceUsage().maxRSS))`;
  const peakBytes = (...command: string[]): number => {
    const { status, stderr } = spawnSync(process.execPath, ['--import', tellMemory, main, ...command], { encoding: 'utf8' });
    expect(status).toBe(0);
    return Number(stderr.trim()) * 1024;
  };
  const idle = peakBytes('--version');
  // 256 MiB of rows go through; three passes at a time take 3 x (4 + 2) blocks of 4 MiB, and garbage as much again: 144 MiB. Seen: 103 to 144.
  expect(peakBytes('publish', plan, out, '--bundle', bundle) - idle).toBeLessThan(176 * 2 ** 20);
  expect((await stat(join(out, 's0/tables/large0.part-0-of-2.safetensors'))).size).toBe(4096 + (rows / 2) * 256);
  await rm(bundle, { recursive: true });
});
