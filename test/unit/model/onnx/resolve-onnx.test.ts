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
        { name: 'x', value: 0, shape: [2], oneRow: true },
        { name: 'bag', value: 1, shape: [4], oneRow: false },
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
  ['an input of int64', {}, { inputs: [value('x', [null, 2], 'int64'), value('bag', null)] }, {}, 'onnx.inputs[0].name', /: int64$/],
  [
    'an input of another dim',
    {},
    { inputs: [value('x', [null, 3]), value('bag', null)] },
    {},
    'onnx.inputs[0].name',
    /\[items, 2\]: \[\?, 3\]$/,
  ],
  ['an input of another rank', {}, { inputs: [value('x', [null, 2, 1]), value('bag', null)] }, {}, 'onnx.inputs[0].name', /\[\?, 2, 1\]$/],
  ['an input of rank 0', {}, { inputs: [value('x', []), value('bag', null)] }, {}, 'onnx.inputs[0].name', /\[items, 2\]: \[\]$/],
  ['an input of 7 rows', {}, { inputs: [value('x', [7, 2]), value('bag', null)] }, {}, 'onnx.inputs[0].name', /takes 7 rows/],
  ['an input of 0 rows', {}, { inputs: [value('x', [0, 2]), value('bag', null)] }, {}, 'onnx.inputs[0].name', /takes 0 rows/],
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

const events = (lengths: OnnxValue | null, shape: OnnxValue['shape'] = [null, 5, 4], named = 'n') =>
  resolve(
    { inputs: [{ name: 's', value: 'events', ...(lengths !== null && { lengths: named }) }] },
    { inputs: [value('s', shape), ...(lengths === null ? [] : [lengths])] },
    { nets: [{ name: 'net', layers: [{ type: 'embedding_sequence', name: 'events', table: 't', maxLength: 5 }] }] },
  ).onnx;

test('a sequence is an input of rank 3, and its lengths are one of int64', () => {
  expect(events(value('n', [null], 'int64'))).toMatchObject({
    inputs: [{ name: 's', value: 1, shape: [5, 4], oneRow: false }],
    lengths: [{ name: 'n', value: 1, oneRow: false }],
  });
  expect(events(value('n', [1], 'int64'), [1, null, 4])).toMatchObject({ inputs: [{ oneRow: true }], lengths: [{ oneRow: true }] });
  expect(events(null)).toMatchObject({ lengths: [] });
});

test.each<[string, () => unknown, string, RegExp]>([
  ['a sequence of rank 2', () => events(null, [null, 20]), 'onnx.inputs[0].name', /\[items, 5, 4\]: \[\?, 20\]$/],
  ['a sequence of other positions', () => events(null, [null, 6, 4]), 'onnx.inputs[0].name', /\[items, 5, 4\]: \[\?, 6, 4\]$/],
  ['lengths of float32', () => events(value('n', [null])), 'onnx.inputs[0].lengths', /has to be int64: float32$/],
  ['lengths of rank 2', () => events(value('n', [null, 1], 'int64')), 'onnx.inputs[0].lengths', /has to be \[items\]: \[\?, 1\]$/],
  [
    'lengths that no input gets',
    () => events(value('n', [null], 'int64'), [null, 5, 4], 'm'),
    'onnx.inputs[0].lengths',
    /: m; it has s, n$/,
  ],
  [
    'lengths in the input of the sequence',
    () => events(value('n', null, 'int64'), [null, 5, 4], 's'),
    'onnx.inputs[0].lengths',
    /again: s$/,
  ],
  [
    'lengths of a bag',
    () => resolve({ inputs: [{ name: 'bag', value: 'clicks', lengths: 'x' }] }),
    'onnx.inputs[0].lengths',
    /only a sequence has lengths: clicks$/,
  ],
])('%s is refused where sequences may be', (_, attempt, path, message) => {
  expect(attempt).toThrow(expect.objectContaining({ code: 'bad_model', details: { path }, message: expect.stringMatching(message) }));
});
