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
