import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openLocal, type PredictRequest } from '../../src/index.js';
import { tablesOf } from '../../src/lab/generate/model-shape.js';
import { dcnShape } from '../../src/lab/generate/open-shapes.js';
import { RequestGenerator } from '../../src/lab/generate/request-generator.js';
import { requestShape } from '../../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../../src/lab/generate/synthetic-bundle.js';
import { openBundle, readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import { modelSchema } from '../../src/model/spec.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../src/tables/safetensors.js';
import { random } from '../reference/small-model.js';

type Tensors = ReadonlyMap<string, { shape: readonly number[]; data: Float32Array }>;

async function read(path: string): Promise<Tensors> {
  const header = await readSafetensorsHeader(path);
  const entries = [...header.tensors].map(async ([name, info]) => {
    const { buffer } = await readTensor(header, info);
    return [name, { shape: info.shape, data: new Float32Array(buffer) }] as const;
  });
  return new Map(await Promise.all(entries));
}

/** W x + bias, in float64. */
function linear(tensors: Tensors, weight: string, bias: string | null, x: readonly number[]): number[] {
  const { shape, data } = tensors.get(weight)!;
  return Array.from({ length: shape[0]! }, (_, n) =>
    x.reduce((sum, value, k) => sum + value * data[n * x.length + k]!, bias === null ? 0 : tensors.get(bias)!.data[n]!),
  );
}
const relu = (x: number[]): number[] => x.map((value) => Math.max(0, value));
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

test('a model of the shape of MLPerf DLRM-DCNv2 gives the scores of the reference', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-dcn-'));
  const shape = dcnShape(200);
  const tableShapes = tablesOf(shape);
  await writeSyntheticBundle(dir, shape);
  const tensors = await read(join(dir, 'dense.safetensors'));
  const tables = await Promise.all(tableShapes.map(({ name }) => read(join(dir, `tables/${name}.safetensors`))));
  const requests = new RequestGenerator(requestShape(shape), 4);
  const predictor = await openLocal(dir, { deadlineMs: 10_000 });
  const items = 5;
  const request = requests.next(items);
  const { scores } = await predictor.predict(request);
  for (let item = 0; item < items; item++) {
    let bottom = Array.from((request.dense['dense'] as Float32Array).subarray(item * 13, (item + 1) * 13));
    for (const layer of [0, 1, 2]) bottom = relu(linear(tensors, `bottom_${layer}.weight`, `bottom_${layer}.bias`, bottom));
    const bags = tableShapes.map(({ name, dim }, t) => {
      const { indices, offsets } = request.sparse[`${name}_bag`]!;
      const rows = Array.from(indices as Int32Array).slice(Number(offsets[item]), Number(offsets[item + 1]));
      const { data } = tables[t]!.get('weight')!;
      return Array.from({ length: dim }, (_, d) => rows.reduce((sum, row) => sum + data[row * dim + d]!, 0));
    });
    const x0 = [bottom, ...bags].flat();
    expect(x0.length).toBe(3456);
    let x = x0;
    for (const layer of [0, 1, 2]) {
      const y = linear(tensors, `cross_${layer}.weightU`, `cross_${layer}.bias`, linear(tensors, `cross_${layer}.weightV`, null, x));
      x = x.map((value, d) => x0[d]! * y[d]! + value);
    }
    for (const layer of [0, 1, 2, 3]) x = relu(linear(tensors, `top_${layer}.weight`, `top_${layer}.bias`, x));
    const [logit] = linear(tensors, 'top_4.weight', 'top_4.bias', x);
    expect(Math.abs(scores[item]! - sigmoid(logit!))).toBeLessThan(1e-5);
  }
  // An item's bits do not depend on who else is in the batch.
  const alone: PredictRequest = {
    items: 1,
    dense: { dense: (request.dense['dense'] as Float32Array).subarray(13, 26) },
    sparse: Object.fromEntries(
      Object.entries(request.sparse).map(([name, { indices, offsets }]) => {
        const [from, to] = [Number(offsets[1]), Number(offsets[2])];
        return [name, { indices: (indices as Int32Array).subarray(from, to), offsets: [0, to - from] }];
      }),
    ),
  };
  expect((await predictor.predict(alone)).scores[0]).toBe(scores[1]);
  await predictor.close();
  await rm(dir, { recursive: true });
});

test('cross layers of full rank, layer norms and products give the scores of the reference; what does not fit is refused by name', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-cross-'));
  const next = random(12);
  const shapes = { 'w.weight': [6, 6], 'w.bias': [6], 'n.weight': [6], 'n.bias': [6], 'out.weight': [1, 6] };
  const tensors = new Map(
    Object.entries(shapes).map(([name, shape]) => {
      const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() - 0.5);
      return [name, { shape, data }] as const;
    }),
  );
  const file = await writeSafetensors(
    join(dir, 'dense.safetensors'),
    [...tensors].map(([name, { shape, data }]) => ({ name, dtype: 'F32', shape, data: new Uint8Array(data.buffer) })),
  );
  const cross = { type: 'cross', name: 'cross', inputs: ['a', 'norm'], weight: 'w.weight', bias: 'w.bias' };
  const norm = { type: 'layer_norm', name: 'norm', input: 'b', weight: 'n.weight', bias: 'n.bias', epsilon: 0.01 };
  const write = (layers: object[]) =>
    writeModelJson(
      dir,
      modelSchema.parse({
        terabag: 1,
        name: 'cross',
        version: '1',
        dense: ['a', 'b'].map((name) => ({ name, dim: 6 })),
        tables: [],
        nets: [{ name: 'net', layers }],
        output: 'out',
        files: { 'dense.safetensors': file },
      }),
    );
  const out = { type: 'fc', name: 'out', input: 'product', weight: 'out.weight' };
  const product = { type: 'product', name: 'product', inputs: ['cross', 'a'] };
  await write([norm, cross, product, out]);
  const predictor = await openLocal(dir, { deadlineMs: 10_000 });
  for (let n = 0; n < 20; n++) {
    const [a, b] = [0, 1].map(() => Float32Array.from({ length: 6 }, () => next() * 2 - 1));
    const { scores } = await predictor.predict({ items: 1, dense: { a: a!, b: b! }, sparse: {} });
    const mean = b!.reduce((sum, x) => sum + x, 0) / 6;
    const variance = b!.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 6;
    const x = Array.from(
      b!,
      (v, d) => ((v - mean) / Math.sqrt(variance + 0.01)) * tensors.get('n.weight')!.data[d]! + tensors.get('n.bias')!.data[d]!,
    );
    const y = linear(tensors, 'w.weight', 'w.bias', x);
    const crossed = x.map((value, d) => a![d]! * y[d]! + value);
    const [score] = linear(
      tensors,
      'out.weight',
      null,
      crossed.map((value, d) => value * a![d]!),
    );
    expect(Math.abs(scores[0]! - score!)).toBeLessThan(1e-5);
  }
  await predictor.close();
  const spec = await readModelSpec(dir);
  expect(spec.nets[0]?.layers.map(({ type }) => type)).toEqual(['layer_norm', 'cross', 'product', 'fc']);
  for (const [layers, message] of [
    [[norm, { ...cross, weight: null }, product, out], /nets\[0\]\.layers\[1\]: needs either weight, or weightU and weightV/],
    [[norm, { ...cross, weightU: 'w.weight' }, product, out], /needs either weight/],
    [[norm, { ...cross, weight: 'out.weight' }, product, out], /layers\[1\]\.weight: out\.weight has to be \[6, 6\].*1x6/],
    [[norm, { ...cross, bias: 'gone' }, product, out], /layers\[1\]\.bias: gone has to be \[6\].*missing/],
    [[{ ...norm, weight: 'out.weight' }, cross, product, out], /layers\[0\]\.weight: out\.weight has to be \[6\]/],
    [[norm, { ...cross, inputs: ['a', 'nothing'] }, product, out], /reads a value that .*: nothing/],
    [[norm, cross, { ...product, name: 'cross' }, out], /name is taken: cross/],
  ] as const) {
    await write([...layers]);
    await expect(openBundle(dir)).rejects.toMatchObject({ code: 'bad_model', message: expect.stringMatching(message) });
  }
  await rm(dir, { recursive: true });
});
