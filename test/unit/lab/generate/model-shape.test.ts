import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { shapeBytes, tablesOf } from '../../../../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../../../../src/lab/generate/request-generator.js';
import { requestShape } from '../../../../src/lab/generate/request-shape.js';
import { SHAPE_NAMES, shapeByName } from '../../../../src/lab/generate/shape-by-name.js';
import { writeSyntheticBundle } from '../../../../src/lab/generate/synthetic-bundle.js';
import { openBundle } from '../../../../src/model/bundle.js';
import { modelHash } from '../../../../src/model/hash.js';
import { openLocal } from '../../../../src/predictor/local.js';
import { linear, sigmoid } from '../../../reference/sequence-net.js';

const GB = 1e9;

test.each([
  ['drm1', 257, 2, 194, 3.6],
  ['drm2', 133, 2, 138, 6.7],
  ['drm3', 39, 1, 200, 178.8],
  ['rmc1', 8, 1, 4.096, 0.512],
  ['rmc2', 32, 1, 4.096, 0.128],
  ['rmc3', 10, 1, 2.56, 0.256],
  ['ncf', 4, 1, 0.086016, 0.03584],
  ['wide-and-deep', 27, 1, 3.456, 0.128],
  ['multi-task-wide-and-deep', 43, 1, 3.904, 0.64],
  ['din', 4, 1, 2.7008, 1.28],
  ['dien', 4, 1, 1.408, 0.64],
  ['mlperf-dcnv2', 26, 1, 104.5425, 20.48],
] as const)('%s has %i tables in %i nets, %f GB together, the largest %f GB', (name, tables, nets, total, largest) => {
  const shape = shapeByName(name, 1);
  const sizes = tablesOf(shape).map(({ rows, dim }) => (rows * dim * 4) / GB);
  expect([sizes.length, shape.nets.length]).toEqual([tables, nets]);
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeCloseTo(total, 3);
  expect(Math.max(...sizes)).toBeCloseTo(largest, 3);
  expect(new Set(tablesOf(shape).map((table) => table.name)).size).toBe(tables);
});

test('the one large table of drm3 has a pooling factor of 1', () => {
  expect(tablesOf(shapeByName('drm3', 1))[0]).toMatchObject({ poolingFactor: 1, rows: Math.round((178.8 * GB) / 256) });
});

test.each(SHAPE_NAMES)('the scale shrinks the rows of %s and nothing else', (name) => {
  const [whole, small] = [shapeByName(name, 1), shapeByName(name, 0.01)];
  const rest = (shape: typeof whole) => tablesOf(shape).map(({ rows: _, ...table }) => table);
  expect(rest(small)).toEqual(rest(whole));
  expect({ ...small, nets: small.nets.map((net) => ({ ...net, tables: [] })) }).toEqual({
    ...whole,
    nets: whole.nets.map((net) => ({ ...net, tables: [] })),
  });
  expect(Math.abs(shapeBytes(small) / shapeBytes(whole) - 0.01)).toBeLessThan(0.0002);
  for (const [t, { rows }] of tablesOf(small).entries()) expect(rows).toBeGreaterThanOrEqual(Math.min(100, tablesOf(whole)[t]!.rows));
});

test('an unknown shape, or a scale that is none, is refused', () => {
  expect(() => shapeByName('drm4', 1)).toThrow(/no such model shape: drm4; there are drm1, /);
  for (const scale of [0, -1, 1.5, Number.NaN]) expect(() => shapeByName('drm1', scale)).toThrow(/scale has to be/);
});

test.each(SHAPE_NAMES)('a small bundle of %s opens and ranks requests; its bags say side and pooling factor', async (name) => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-shape-'));
  const shape = shapeByName(name, 1e-5, { format: 'bf16' });
  const spec = await writeSyntheticBundle(dir, shape);
  const layers = new Map(spec.nets.flatMap((net) => net.layers).map((layer) => [layer.name, layer]));
  for (const { name: table, side, poolingFactor, maxLength } of tablesOf(shape)) {
    const [name, type] = maxLength === undefined ? [`${table}_bag`, 'embedding_bag'] : [`${table}_sequence`, 'embedding_sequence'];
    expect(layers.get(name)).toMatchObject({ type, table, side, poolingFactor, ...(maxLength !== undefined && { maxLength }) });
  }
  const predictor = await openLocal(dir, { deadlineMs: 10_000 });
  const { scores } = await predictor.predict(new RequestGenerator(requestShape(shape), 3).next(7));
  const perItem = name === 'din' || name === 'dien' ? 2 : 1;
  expect(scores.length).toBe(7 * perItem);
  for (const score of scores) expect(score > 0 && score < 1).toBe(true);
  expect(new Set(scores).size).toBe(7 * perItem);
  await predictor.close();
  await rm(dir, { recursive: true });
});

test('the second net reads what the first one gives', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-nets-'));
  const shape = shapeByName('drm2', 1e-5);
  const spec = await writeSyntheticBundle(dir, shape);
  const [first, second] = spec.nets;
  const output = first!.layers.at(-1)!.name;
  expect(second!.layers.find(({ type }) => type === 'dot_interaction')).toMatchObject({ inputs: expect.arrayContaining([output]) });
  const { model } = await openBundle(dir);
  expect(model!.layers.at(-1)!.stage).toBe(2);
  await rm(dir, { recursive: true });
});

test('the same seed gives the same bytes, another seed others, and rows of a table differ', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-seed-'));
  const hashes: string[] = [];
  for (const [n, seed] of [5, 5, 6].entries()) {
    const spec = await writeSyntheticBundle(join(dir, String(n)), shapeByName('rmc1', 2e-4, { seed, format: 'fp16' }));
    hashes.push(modelHash({ ...spec, version: '' }));
  }
  expect(hashes[1]).toBe(hashes[0]);
  expect(hashes[2]).not.toBe(hashes[0]);
  const [table] = tablesOf(shapeByName('rmc1', 2e-4));
  const bytes = await readFile(join(dir, '0/tables/table_00.safetensors'));
  const rowBytes = table!.dim * 2;
  const rows = new Set<string>();
  for (let row = 0; row < table!.rows; row++)
    rows.add(bytes.toString('hex', bytes.length - (row + 1) * rowBytes, bytes.length - row * rowBytes));
  expect(rows.size).toBe(table!.rows);
  await rm(dir, { recursive: true });
});

test('NeuMF multiplies two vectors and reads two others, in float64 as it is defined', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-ncf-'));
  const shape = shapeByName('ncf', 0.01);
  const spec = await writeSyntheticBundle(dir, shape);
  expect(spec.dense).toEqual([]);
  const { dense, tables } = await openBundle(dir);
  const request = new RequestGenerator(requestShape(shape), 5).next(4);
  const rows: Float32Array[] = [];
  for (const table of tables) rows.push(new Float32Array((await readFile(table!.path)).buffer.slice(table!.byteOffset)));
  const linear = (name: string, x: number[]): number[] => {
    const { data } = dense.get(`${name}.weight`)!;
    return Array.from(dense.get(`${name}.bias`)!.data, (bias, n) =>
      x.reduce((sum, value, k) => sum + value * data[n * x.length + k]!, bias),
    );
  };
  const predictor = await openLocal(dir, { deadlineMs: 10_000 });
  const { scores } = await predictor.predict(request);
  for (let item = 0; item < 4; item++) {
    const [userFactors, itemFactors, user, itemVector] = tablesOf(shape).map(({ name, side, dim }, table) => {
      const row = Number(request.sparse[`${name}_bag`]!.indices[side === 'user' ? 0 : item]);
      return Array.from(rows[table]!.subarray(row * dim, (row + 1) * dim));
    }) as [number[], number[], number[], number[]];
    let hidden = [...user, ...itemVector];
    for (const layer of [0, 1, 2, 3]) hidden = linear(`top_${layer}`, hidden).map((value) => Math.max(0, value));
    const [logit] = linear('score', [...userFactors.map((value, d) => value * itemFactors[d]!), ...hidden]) as [number];
    expect(Math.abs(scores[item]! - 1 / (1 + Math.exp(-logit)))).toBeLessThan(1e-6);
  }
  await predictor.close();
  await rm(dir, { recursive: true });
});

test('each task of multi-task Wide & Deep has an output, the first of which gives the scores', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-tasks-'));
  const shape = shapeByName('multi-task-wide-and-deep', 1e-4);
  const spec = await writeSyntheticBundle(dir, shape);
  expect([spec.output, spec.outputs]).toEqual(['task_0', ['task_1', 'task_2']]);
  const predictor = await openLocal(dir, { deadlineMs: 10_000 });
  const { scores, outputs } = await predictor.predict(new RequestGenerator(requestShape(shape), 5).next(6));
  const all = [scores, ...Object.values(outputs!)];
  expect(all.map(({ length }) => length)).toEqual([6, 6, 6]);
  expect(new Set(all.map((values) => values[0])).size).toBe(3);
  await predictor.close();
  await rm(dir, { recursive: true });
});

/** Of a bundle: what a layer multiplies with, the rows of a table, and the ids of a request. */
async function openShape(name: 'din' | 'dien') {
  const dir = await mkdtemp(join(tmpdir(), `terabag-${name}-`));
  const shape = shapeByName(name, 1e-4);
  await writeSyntheticBundle(dir, shape);
  const { dense, tables } = await openBundle(dir);
  const request = new RequestGenerator(requestShape(shape), 5).next(3);
  const tensor = (layer: string, which: 'weight' | 'bias') => dense.get(`${layer}.${which}`)!.data;
  const rows: Float32Array[] = [];
  for (const table of tables) rows.push(new Float32Array((await readFile(table!.path)).buffer.slice(table!.byteOffset)));
  /** Rows of the ids of a bag, in order. */
  const rowsOf = (table: number, item: number): number[][] => {
    const { indices, offsets } = request.sparse[`table_0${table}_${table === 1 ? 'sequence' : 'bag'}`]!;
    const bag = table < 2 ? 0 : item;
    const ids = Array.from(indices).slice(Number(offsets[bag]), Number(offsets[bag + 1]));
    return ids.map((id) => Array.from(rows[table]!.subarray(Number(id) * 32, (Number(id) + 1) * 32)));
  };
  return {
    dir,
    request,
    rowsOf,
    multiply: (layer: string, x: readonly number[]) =>
      linear(x, tensor(layer, 'weight'), tensor(layer, 'bias'), tensor(layer, 'bias').length),
  };
}
type OpenShape = Awaited<ReturnType<typeof openShape>>;

const sumOf = (rows: readonly (readonly number[])[]): number[] => rows[0]!.map((_, d) => rows.reduce((sum, row) => sum + row[d]!, 0));

/** The scores with what items find of interest in the behaviours; whatever dense features there are come first. */
async function expectScores(
  { dir, request, rowsOf, multiply }: OpenShape,
  interest: (candidate: number[], behaviours: number[][]) => readonly number[],
) {
  const predictor = await openLocal(dir, { deadlineMs: 10_000 });
  const { scores } = await predictor.predict(request);
  for (let item = 0; item < 3; item++) {
    const [user, candidate, context] = [0, 2, 3].map((table) => sumOf(rowsOf(table, item))) as [number[], number[], number[]];
    const features = Array.from(request.dense['dense'] ?? []).slice(item * 512, (item + 1) * 512);
    const found = interest(candidate, rowsOf(1, item));
    let x: readonly number[] = [...features, ...user, ...found, ...candidate, ...context];
    for (const layer of ['top_0', 'top_1']) x = multiply(layer, x).map((value) => Math.max(0, value));
    multiply('top_2', x).forEach((logit, n) => expect(Math.abs(scores[item * 2 + n]! - sigmoid(logit))).toBeLessThan(1e-5));
  }
  await predictor.close();
  await rm(dir, { recursive: true });
}

test('din sums 250 behaviours by what an MLP says of each beside the candidate, in float64 as it is defined', async () => {
  const model = await openShape('din');
  expect(model.rowsOf(1, 0)).toHaveLength(250);
  await expectScores(model, (candidate, behaviours) => {
    const weighted = behaviours.map((key) => {
      let x: readonly number[] = [...candidate, ...key, ...candidate.map((q, d) => q - key[d]!), ...candidate.map((q, d) => q * key[d]!)];
      for (const layer of ['attention_0', 'attention_1']) x = model.multiply(layer, x).map(sigmoid);
      const [score] = model.multiply('attention_2', x);
      return key.map((value) => value * score!);
    });
    return sumOf(weighted);
  });
});

test('dien gives the last state of an AUGRU over the states of a GRU, in float64 as it is defined', async () => {
  const model = await openShape('dien');
  const { multiply } = model;
  const states = (name: string, inputs: readonly (readonly number[])[], scores: readonly number[] | null): number[][] => {
    let state = new Array<number>(64).fill(0);
    return inputs.map((input, t) => {
      const [x, h] = [multiply(`${name}_input`, input), multiply(`${name}_hidden`, state)];
      state = state.map((before, k) => {
        const [reset, update] = [sigmoid(x[k]! + h[k]!), sigmoid(x[64 + k]! + h[64 + k]!)];
        const next = Math.tanh(x[128 + k]! + reset * h[128 + k]!);
        const changed = scores === null ? 1 - update : scores[t]! * update;
        return (1 - changed) * before + changed * next;
      });
      return state;
    });
  };
  await expectScores(model, (candidate, behaviours) => {
    expect(behaviours).toHaveLength(40);
    const interests = states('gru', behaviours, null);
    const query = multiply('candidate', candidate);
    const powers = interests.map((state) =>
      Math.exp(
        multiply(
          'scores',
          state.map((value, d) => value * query[d]!),
        )[0]!,
      ),
    );
    const total = powers.reduce((sum, power) => sum + power, 0);
    const last = states(
      'augru',
      interests,
      powers.map((power) => power / total),
    );
    return last.at(-1)!;
  });
});
