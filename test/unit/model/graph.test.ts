import { expect, test } from 'vitest';
import { resolveModel } from '../../../src/model/graph.js';
import { type ModelSpec, modelSchema } from '../../../src/model/spec.js';

const bag = (name: string): object => ({ type: 'embedding_bag', name, table: 'ids' });
const sum = (name: string, ...inputs: string[]): object => ({ type: 'sum', name, inputs });

const specOf = (...nets: readonly object[][]): ModelSpec =>
  modelSchema.parse({
    ...{ terabag: 1, name: 'm', version: '1', files: {}, dense: [{ name: 'dense', dim: 4 }], output: 'out' },
    tables: [{ name: 'ids', rows: 9, dim: 4, format: 'fp32', file: 'ids', tensor: 'weight' }],
    nets: nets.map((layers, net) => ({ name: `net ${net}`, layers })),
  });

test('a layer that reads a bag of a later net is refused by the names of both', () => {
  const spec = specOf([bag('a'), sum('early', 'a', 'b')], [bag('b'), sum('out', 'early', 'b')]);
  expect(() => resolveModel(spec, new Map())).toThrow(
    expect.objectContaining({
      code: 'bad_model',
      message: 'model.json: nets[0].layers[1]: layer early of net net 0 reads a bag of a later net: b, net net 1',
      details: { path: 'nets[0].layers[1]', layer: 'early', bag: 'b' },
    }),
  );
});

test('a layer reads bags of its own net and of earlier ones, wherever they stand in it', () => {
  const spec = specOf([sum('early', 'a', 'dense'), bag('a')], [sum('out', 'a', 'b', 'early'), bag('b')]);
  expect(resolveModel(spec, new Map()).layers.map(({ name, stage }) => [name, stage])).toEqual([
    ['early', 1],
    ['out', 2],
  ]);
});

test('names that every object has are names like others', () => {
  const spec = specOf([bag('constructor'), bag('__proto__'), sum('toString', 'constructor', '__proto__'), sum('out', 'toString')]);
  const { bags, layers } = resolveModel(spec, new Map());
  expect(bags.map(({ name }) => name)).toEqual(['constructor', '__proto__']);
  expect(layers.map(({ inputs }) => inputs)).toEqual([[1, 2], [3]]);
  const unknown = specOf([bag('a'), sum('out', 'valueOf')]);
  expect(() => resolveModel(unknown, new Map())).toThrow(/no earlier layer gives: valueOf/);
});

test('an epsilon that float32 makes 0 or infinite is refused', () => {
  const norm = (epsilon: number): object[] => [{ type: 'layer_norm', name: 'out', input: 'dense', weight: 'w', bias: 'b', epsilon }];
  for (const epsilon of [0, 2 ** -126, 1e-5, 3.4e38]) expect(() => specOf(norm(epsilon))).not.toThrow();
  for (const epsilon of [-1, 1e-50, 1e-40, 1e39, Number.NaN]) expect(() => specOf(norm(epsilon))).toThrow(/epsilon/);
});

test('layers of one row are resolved to operations with their tensors, and what does not fit is refused by its place', () => {
  const shapes = new Map([
    ['one', [1]],
    ['four', [4]],
    ['three', [3]],
    ['matrix', [4, 4]],
  ]);
  const gate = { type: 'softmax', name: 'gate', input: 'dense' };
  const resolve = (...layers: object[]) => resolveModel(specOf([bag('a'), bag('b'), gate, ...layers]), shapes).layers.slice(1);
  const out = { name: 'out', input: 'a' };
  const dice = { ...out, type: 'dice', alpha: 'four', mean: 'four', variance: 'four' };
  const mixture = { type: 'mixture', name: 'out', gate: 'gate', inputs: ['a', 'b', 'a', 'b'] };
  const fm = { type: 'fm', name: 'out', inputs: ['a', 'b', 'dense'] };
  for (const [layer, wanted] of [
    [
      { ...out, type: 'activation', activation: 'gelu' },
      { op: 'activation', activation: 'gelu', dim: 4, inputs: [1] },
    ],
    [
      { ...out, type: 'prelu', weight: 'one' },
      { op: 'prelu', tensors: ['one'], dim: 4 },
    ],
    [
      { ...out, type: 'prelu', weight: 'four' },
      { op: 'prelu', tensors: ['four'], dim: 4 },
    ],
    [dice, { op: 'dice', tensors: ['four', 'four', 'four'], epsilon: 1e-5, dim: 4 }],
    [
      { ...out, type: 'scale_shift', scale: 'four' },
      { op: 'scale_shift', tensors: ['four', null], dim: 4 },
    ],
    [
      { ...out, type: 'scale_shift', scale: 'four', shift: 'four' },
      { op: 'scale_shift', tensors: ['four', 'four'] },
    ],
    [
      { ...out, type: 'softmax' },
      { op: 'softmax', dim: 4 },
    ],
    [mixture, { op: 'mixture', dim: 4, inputs: [3, 1, 2, 1, 2] }],
    [fm, { op: 'fm', dim: 4, inputs: [1, 2, 0] }],
    [
      { ...fm, reduce: true },
      { op: 'fm', dim: 1, inputs: [1, 2, 0] },
    ],
  ] as const)
    expect(resolve(layer)).toEqual([expect.objectContaining(wanted)]);
  for (const [layer, message] of [
    [{ ...out, type: 'prelu', weight: 'three' }, 'weight: three has to be [1] or [4] in dense.safetensors: 3'],
    [{ ...dice, alpha: 'one' }, 'alpha: one has to be [4] in dense.safetensors: 1'],
    [{ ...dice, mean: 'gone' }, 'mean: gone has to be [4] in dense.safetensors: missing'],
    [{ ...dice, variance: 'matrix' }, 'variance: matrix has to be [4] in dense.safetensors: 4x4'],
    [{ ...out, type: 'scale_shift', scale: 'three' }, 'scale: three has to be [4] in dense.safetensors: 3'],
    [{ ...out, type: 'scale_shift', scale: 'four', shift: 'three' }, 'shift: three has to be [4] in dense.safetensors: 3'],
    [{ ...mixture, inputs: ['a', 'b'] }, 'gate: has to have a value for each of the inputs: dim 4, inputs 2'],
    [{ ...mixture, inputs: ['a', 'b', 'a', 'short'] }, 'inputs: have to be of one dim: 4, 4, 4, 1'],
    [{ ...fm, inputs: ['a', 'short'] }, 'inputs: have to be of one dim: 4, 1'],
  ] as const) {
    const short = { type: 'fm', name: 'short', inputs: ['a', 'b'], reduce: true };
    expect(() => resolve(short, layer)).toThrow(
      expect.objectContaining({ code: 'bad_model', message: `model.json: nets[0].layers[4].${message}` }),
    );
  }
  expect(() => resolve({ ...out, type: 'activation', activation: 'none' })).toThrow(/activation/);
});
