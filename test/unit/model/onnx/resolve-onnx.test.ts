import { expect, test } from 'vitest';
import { resolveModel } from '../../../../src/model/graph.js';
import type { OnnxSignature, OnnxValue } from '../../../../src/model/onnx/onnx-file.js';
import { type ModelSpec, modelSchema, type OnnxSpec } from '../../../../src/model/spec.js';

const value = (name: string, shape: OnnxValue['shape'], elementType = 'float32'): OnnxValue => ({ name, elementType, shape });
const ONNX: OnnxSpec = {
  file: 'dense.onnx',
  inputs: [
    { name: 'x', value: 'user' },
    { name: 'bag', value: 'clicks' },
  ],
  outputs: [
    { name: 'y', layer: 'ctr', dim: 1 },
    { name: 'z', layer: 'cvr', dim: 3 },
  ],
};
const SIGNATURE: OnnxSignature = {
  inputs: [value('bag', [null, 4]), value('x', [1, 2])],
  outputs: [value('y', [null]), value('z', [null, 3]), value('other', null)],
  macs: 70,
};

const spec = (onnx: OnnxSpec, change: Partial<ModelSpec> = {}): ModelSpec =>
  modelSchema.parse({
    terabag: 1,
    name: 'm',
    version: '1',
    dense: [{ name: 'user', dim: 2 }],
    tables: [{ name: 't', rows: 9, dim: 4, format: 'fp32', file: 't.safetensors', tensor: 'w' }],
    nets: [{ name: 'net', layers: [{ type: 'embedding_bag', name: 'clicks', table: 't' }] }],
    onnx,
    output: 'ctr',
    files: {},
    ...change,
  });
const resolve = (onnx: Partial<OnnxSpec> = {}, signature: Partial<OnnxSignature> = {}, change: Partial<ModelSpec> = {}) =>
  resolveModel(spec({ ...ONNX, ...onnx }, change), new Map(), { ...SIGNATURE, ...signature });

test('names of an ONNX model are resolved to values, which layers follow', () => {
  expect(resolve()).toMatchObject({
    layers: [],
    output: 2,
    outputDim: 1,
    onnx: {
      file: 'dense.onnx',
      inputs: [
        { name: 'x', value: 0, dim: 2, oneRow: true },
        { name: 'bag', value: 1, dim: 4, oneRow: false },
      ],
      outputs: [{ name: 'y', layer: 'ctr', dim: 1 }],
      macs: 70,
    },
  });
  expect(resolve({}, {}, { output: 'cvr' })).toMatchObject({ output: 2, outputDim: 3 });
  const both = resolve({}, {}, { output: 'cvr', outputs: ['ctr'] });
  expect(both).toMatchObject({ output: 2, outputDim: 3, outputs: [{ name: 'ctr', dim: 1 }] });
  expect(both.onnx?.outputs.map(({ name }) => name)).toEqual(['z', 'y']);
});

test('what the file leaves open fits', () => {
  const open = { inputs: [value('bag', null), value('x', [null, null])], outputs: [value('y', null), value('z', [null, null])] };
  expect(resolve({}, open).onnx?.inputs.map(({ oneRow }) => oneRow)).toEqual([false, false]);
});

const input = (name: string, of: string): OnnxSpec['inputs'][number] => ({ name, value: of });
const output = (name: string, layer: string, dim: number): OnnxSpec['outputs'][number] => ({ name, layer, dim });
test.each<[string, Partial<OnnxSpec>, Partial<OnnxSignature>, Partial<ModelSpec>, string, RegExp]>([
  ['a value that is not there', { inputs: [input('x', 'nobody')] }, {}, {}, 'onnx.inputs[0].value', /: nobody$/],
  ['an input that is not there', { inputs: [input('w', 'user')] }, {}, {}, 'onnx.inputs[0].name', /: w; it has bag, x$/],
  ['an input twice', { inputs: [input('x', 'user'), input('x', 'user')] }, {}, {}, 'onnx.inputs[1].name', /: x$/],
  ['an input without a value', { inputs: [input('x', 'user')] }, {}, {}, 'onnx.inputs', /: bag$/],
  ['an input of int64', {}, { inputs: [value('x', [null, 2], 'int64'), value('bag', null)] }, {}, 'onnx.inputs[0]', /: int64$/],
  [
    'an input of another dim',
    {},
    { inputs: [value('x', [null, 3]), value('bag', null)] },
    {},
    'onnx.inputs[0]',
    /\[items, 2\]: \[\?, 3\]$/,
  ],
  ['an input of another rank', {}, { inputs: [value('x', [null, 2, 1]), value('bag', null)] }, {}, 'onnx.inputs[0]', /\[\?, 2, 1\]$/],
  ['an input of rank 0', {}, { inputs: [value('x', []), value('bag', null)] }, {}, 'onnx.inputs[0]', /\[items, 2\]: \[\]$/],
  ['an input of 7 rows', {}, { inputs: [value('x', [7, 2]), value('bag', null)] }, {}, 'onnx.inputs[0]', /takes 7 rows/],
  ['an input of 0 rows', {}, { inputs: [value('x', [0, 2]), value('bag', null)] }, {}, 'onnx.inputs[0]', /takes 0 rows/],
  ['an output that is not there', { outputs: [output('a', 'ctr', 1)] }, {}, {}, 'onnx.outputs[0].name', /: a; it has y, z, other$/],
  ['an output of another dim', { outputs: [output('z', 'ctr', 2)] }, {}, {}, 'onnx.outputs[0]', /\[items, 2\]: \[\?, 3\]$/],
  ['rank 1 for more than one value', { outputs: [output('y', 'ctr', 2)] }, {}, {}, 'onnx.outputs[0]', /\[items, 2\]: \[\?\]$/],
  [
    'a fixed number of scores',
    {},
    { outputs: [value('y', [1, 1]), value('z', null)] },
    {},
    'onnx.outputs[0]',
    /has 1 rows whatever the items/,
  ],
  ['an output of float16', {}, { outputs: [value('y', null, 'float16'), value('z', null)] }, {}, 'onnx.outputs[0]', /: float16$/],
  ['a layer with the name of a bag', { outputs: [output('y', 'clicks', 1)] }, {}, {}, 'onnx.outputs[0].layer', /taken: clicks$/],
  ['two layers of one name', { outputs: [output('y', 'ctr', 1), output('z', 'ctr', 3)] }, {}, {}, 'onnx.outputs[1].layer', /taken: ctr$/],
  ['scores that are no output', {}, {}, { output: 'clicks' }, 'output', /: clicks$/],
  ['a further output that is none', {}, {}, { outputs: ['clicks'] }, 'outputs[0]', /: clicks$/],
  ['an output twice', {}, {}, { outputs: ['cvr', 'ctr'] }, 'outputs[1]', /already: ctr$/],
])('%s is refused', (_, onnx, signature, change, path, message) => {
  const named = (error: unknown) => error;
  let thrown: unknown;
  try {
    resolve(onnx, signature, change);
  } catch (error) {
    thrown = named(error);
  }
  expect(thrown).toMatchObject({ code: 'bad_model', details: { path }, message: expect.stringMatching(message) });
});

test('dense layers beside an ONNX model are refused', () => {
  const { nets } = spec(ONNX);
  const layers = [
    ...(nets[0]?.layers ?? []),
    { type: 'fc' as const, name: 'top', input: 'clicks', weight: 'w', bias: null, activation: 'none' as const },
  ];
  expect(() => resolve({}, {}, { nets: [{ name: 'net', layers }] })).toThrow(
    expect.objectContaining({ code: 'bad_model', details: { path: 'nets[0].layers[1].type' } }),
  );
});
