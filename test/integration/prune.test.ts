import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  connect,
  KeptRows,
  launchCluster,
  openLocal,
  type Predictor,
  type PredictRequest,
  type Pruning,
  packBundle,
} from '../../src/index.js';
import { openBundle, readModelSpec, verifyBundle, writeModelJson } from '../../src/model/bundle.js';
import { dtypeOf, type PlainFormat, rowBytes } from '../../src/model/formats.js';
import type { ModelSpec, TableSpec } from '../../src/model/spec.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../src/tables/safetensors.js';
import { readIndex } from '../reference/key-index.js';
import { type KeyedModel, keyedRequest, writeKeyedModel } from '../reference/keyed-model.js';
import { capacityPlan } from '../reference/plans.js';
import { randomRequest } from '../reference/random-model.js';
import { random } from '../reference/small-model.js';

let dir: string;
let model: KeyedModel;
let plainDir: string;
let keyedDir: string;
/** By table: whether each row is kept. */
let kept: ReadonlyMap<string, readonly boolean[]>;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-prune-'));
  [plainDir, keyedDir] = [join(dir, 'plain'), join(dir, 'keyed')];
  for (const each of [plainDir, keyedDir]) await mkdir(each);
  model = await writeKeyedModel(plainDir, keyedDir, 6);
  const next = random(14);
  kept = new Map(model.plain.tables.map(({ name, rows }) => [name, Array.from({ length: rows }, (_, row) => row === 0 || next() < 0.5)]));
});
afterAll(() => rm(dir, { recursive: true }));

const prunings = (unseenOf: (table: TableSpec) => Pruning['unseen']): Map<string, Pruning> =>
  new Map(
    model.plain.tables.map((table): [string, Pruning] => {
      const reads = Uint8Array.from(kept.get(table.name) as readonly boolean[], (keep) => (keep ? 3 : 2));
      return [table.name, { kept: new KeptRows(reads, 3), unseen: unseenOf(table) }];
    }),
  );

/** One half in each plain format, little-endian. */
const HALF: Readonly<Record<PlainFormat, readonly number[]>> = { fp32: [0, 0, 0, 0x3f], fp16: [0, 0x38], bf16: [0, 0x3f] };

/** The plain bundle with other values in the rows that are not kept. */
async function overwritten(name: string, value: 'zero' | 'half'): Promise<string> {
  const copy = join(dir, name);
  await packBundle(plainDir, copy, { format: new Map() });
  const files = { ...model.plain.files };
  for (const { name: table, file, tensor, rows, dim, format } of model.plain.tables) {
    const header = await readSafetensorsHeader(join(plainDir, file));
    const data = await readTensor(header, header.tensors.get(tensor)!);
    const width = rowBytes(format, dim);
    for (let row = 0; row < rows; row++) {
      if (kept.get(table)?.[row]) continue;
      const bytes = value === 'zero' ? [0] : HALF[format as PlainFormat];
      for (let at = 0; at < width; at++) data[row * width + at] = bytes[at % bytes.length] as number;
    }
    await rm(join(copy, file));
    files[file] = await writeSafetensors(join(copy, file), [{ name: tensor, dtype: dtypeOf(format), shape: [rows, dim], data }]);
  }
  await writeModelJson(copy, { ...model.plain, files });
  return copy;
}

const requests = (): PredictRequest[] => {
  const next = random(40);
  return Array.from({ length: 24 }, (_, n) => randomRequest(model.plain, next, 1 + (n % 5)));
};

async function scores(predictor: Predictor, asked: readonly PredictRequest[]): Promise<Float32Array[]> {
  const found: Float32Array[] = [];
  for (const request of asked) found.push((await predictor.predict(request)).scores);
  return found;
}

async function localScores(bundle: string, asked: readonly PredictRequest[]): Promise<Float32Array[]> {
  const predictor = await openLocal(bundle, { deadlineMs: 10_000 });
  return scores(predictor, asked).finally(() => predictor.close());
}

/** Ids without a row are not there. */
function withoutDropped(spec: ModelSpec, request: PredictRequest): PredictRequest {
  const tableOf = new Map(
    spec.nets.flatMap(({ layers }) => layers.flatMap((layer) => ('table' in layer ? [[layer.name, layer.table] as const] : []))),
  );
  const sparse = Object.entries(request.sparse).map(([name, { indices, offsets, weights }]) => {
    const rows = kept.get(tableOf.get(name) as string) as readonly boolean[];
    const stays = Array.from(indices, (id) => rows[Number(id)] as boolean);
    const left = <T>(values: ArrayLike<T>): T[] => Array.from(values).filter((_, at) => stays[at]);
    const ends = Array.from(offsets, (end) => stays.slice(0, Number(end)).filter((stay) => stay).length);
    const indicesLeft = left<number | bigint | string>(indices).map(Number);
    return [name, { indices: indicesLeft, offsets: ends, ...(weights && { weights: left<number>(weights) }) }];
  });
  return { ...request, sparse: Object.fromEntries(sparse) };
}

const halves = ({ dim }: TableSpec): Pruning['unseen'] => ({ policy: 'default', vector: new Array<number>(dim).fill(0.5) });

test('a bundle without rows scores as one whose rows are what its policy says', async () => {
  const asked = requests();
  const expected = {
    zero: await localScores(await overwritten('zeros', 'zero'), asked),
    default: await localScores(await overwritten('halves', 'half'), asked),
    skip: await localScores(
      plainDir,
      asked.map((request) => withoutDropped(model.plain, request)),
    ),
  };
  for (const [policy, wanted] of Object.entries(expected)) {
    const unseenOf = policy === 'default' ? halves : () => ({ policy: policy as 'zero' | 'skip' });
    const pruned = join(dir, `pruned-${policy}`);
    const packed = await packBundle(plainDir, pruned, { format: new Map(), prune: prunings(unseenOf) });
    expect(await localScores(pruned, asked)).toEqual(wanted);
    expect(await verifyBundle(pruned)).toEqual([]);
    const spec = await readModelSpec(pruned);
    for (const [t, { name, rows, keys }] of spec.tables.entries()) {
      const ids = [...(kept.get(name) as readonly boolean[]).entries()].flatMap(([row, keep]) => (keep ? [row] : []));
      const index = readIndex(join(pruned, keys?.file as string), keys?.tensor);
      expect(rows).toBe(ids.length);
      expect(ids.map((id) => index.find(BigInt(id)))).toEqual([...ids.keys()]);
      expect(index.find(BigInt(model.plain.tables[t]!.rows))).toBe(null);
      expect(packed[t]).toMatchObject({ table: name, rows, rowsBefore: model.plain.tables[t]!.rows, keyBytes: index.buckets.length * 64 });
    }
  }
});

test('a keyed bundle keeps its keys, and its old indexes are gone', async () => {
  const asked = requests();
  const pruned = join(dir, 'pruned-keyed');
  await packBundle(keyedDir, pruned, { format: new Map(), prune: prunings(() => ({ policy: 'zero' })) });
  const given = asked.map((request, n) => keyedRequest(model, request, (['bigint', 'unsigned', 'string', 'array'] as const)[n % 4]!));
  expect(await localScores(pruned, given)).toEqual(await localScores(join(dir, 'zeros'), asked));
  expect(await verifyBundle(pruned)).toEqual([]);
  expect((await readdir(join(pruned, 'tables'))).filter((file) => file.includes('keys'))).toEqual([]);
  // Once more, of what was pruned: half of the rows that are left.
  const again = join(dir, 'pruned-again');
  const left = (await openBundle(pruned)).tables.map((table) => table?.rows as number);
  const prune = new Map(
    model.plain.tables.map(({ name }, t): [string, Pruning] => {
      const reads = Uint8Array.from({ length: left[t] as number }, (_, row) => (row % 2 === 0 ? 1 : 0));
      return [name, { kept: new KeptRows(reads, 1), unseen: null }];
    }),
  );
  await packBundle(pruned, again, { format: new Map(), prune });
  const spec = await readModelSpec(again);
  expect(spec.tables.map(({ rows, unseen }) => [rows, unseen?.policy])).toEqual(left.map((rows) => [Math.ceil(rows / 2), 'zero']));
  expect((await readdir(join(again, 'keys'))).length).toBe(left.length);
});

test('pruning and packing together give what packing the other rows gives, on shards too', async () => {
  const asked = requests();
  const [pruned, plain] = [join(dir, 'pruned-int8'), join(dir, 'zeros-int8')];
  await packBundle(plainDir, pruned, { format: 'int8', prune: prunings(() => ({ policy: 'zero' })) });
  await packBundle(join(dir, 'zeros'), plain, { format: 'int8' });
  const wanted = await localScores(plain, asked);
  expect(await localScores(pruned, asked)).toEqual(wanted);
  const plan = capacityPlan(await readModelSpec(pruned), 2);
  const cluster = await launchCluster(plan, { bundle: pruned, ephemeralPorts: true, logLevel: 'error' });
  try {
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: pruned });
    expect(await scores(predictor, asked).finally(() => predictor.close())).toEqual(wanted);
  } finally {
    await cluster.stop();
  }
});

test('rows that policies name have to stay, and get their new places', async () => {
  const [first, ...others] = model.plain.tables as [TableSpec, ...TableSpec[]];
  const named = join(dir, 'named');
  await packBundle(plainDir, named, { format: new Map() });
  const unseen = { policy: 'default', row: first.rows - 1 } as const;
  await writeModelJson(named, { ...model.plain, tables: [{ ...first, unseen }, ...others] });
  const reads = new Uint8Array(first.rows);
  reads.fill(1, first.rows - 2);
  const prune = new Map([[first.name, { kept: new KeptRows(reads, 1), unseen: null }]]);
  await packBundle(named, join(dir, 'named-pruned'), { format: new Map(), prune });
  expect((await readModelSpec(join(dir, 'named-pruned'))).tables[0]).toMatchObject({ rows: 2, unseen: { policy: 'default', row: 1 } });
  const refused = async (reads: Uint8Array, message: RegExp, more = {}): Promise<void> => {
    const wrong = new Map([[first.name, { kept: new KeptRows(reads, 1), unseen: null }]]);
    const options = { format: new Map(), prune: wrong, ...more };
    await expect(packBundle(named, join(dir, 'refused'), options)).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(message),
    });
  };
  await refused(new Uint8Array(first.rows).fill(1, 0, 5), new RegExp(`names has to be kept: ${first.name}, row ${first.rows - 1}`));
  await refused(new Uint8Array(3).fill(1), /reads have to be counted for each row of a table: .*, rows 900, reads 3/);
  await refused(new Uint8Array(first.rows), /needs at least one row/);
  await refused(new Uint8Array(3), /to be pruned is not among those that are packed: t0/, { tables: ['t1'], format: 'int8' });
  expect((await readdir(dir)).includes('refused')).toBe(false);
});
