import { expect, test } from 'vitest';
import { type ResolvedLayer, resolveModel } from '../../../src/model/graph.js';
import { type ModelSpec, modelSchema } from '../../../src/model/spec.js';

/** Sequences of dim 4, of which `short` has other positions, and one of dim 2. */
const READERS = [
  { type: 'embedding_bag', name: 'a', table: 'four' },
  { type: 'embedding_bag', name: 'narrow', table: 'two' },
  { type: 'embedding_sequence', name: 's', table: 'four', maxLength: 5 },
  { type: 'embedding_sequence', name: 't', table: 'four', maxLength: 5 },
  { type: 'embedding_sequence', name: 'short', table: 'four', maxLength: 3 },
  { type: 'embedding_sequence', name: 'pairs', table: 'two', maxLength: 5 },
];
/** Of the layer behind the readers. */
const PLACE = `nets[0].layers[${READERS.length}]`;

const specOf = (...layers: object[]): ModelSpec =>
  modelSchema.parse({
    ...{ terabag: 1, name: 'm', version: '1', files: {}, dense: [{ name: 'dense', dim: 4 }], output: 'score' },
    tables: [4, 2].map((dim) => ({ ...{ rows: 9, dim, format: 'fp32', tensor: 'weight' }, ...table(dim) })),
    nets: [{ name: 'net', layers: [...READERS, ...layers, { type: 'sum', name: 'score', inputs: ['a'] }] }],
  });
const table = (dim: number): object => (dim === 4 ? { name: 'four', file: 'four' } : { name: 'two', file: 'two' });

/** Tensors by their shapes: 3x4 is a matrix of 3 rows. */
const SHAPES = new Map(
  [
    '1',
    '3',
    '4',
    '5',
    '6',
    '9',
    '12',
    '1x4',
    '3x4',
    '1x3',
    '2x3',
    '3x16',
    '3x8',
    '5x4',
    '4x5',
    '4x4',
    '6x4',
    '6x2',
    '6x3',
    '7x4',
    '12x4',
    '16x4',
    '5x2',
  ].map((shape): [string, number[]] => [shape, shape.split('x').map(Number)]),
);
const resolve = (...layers: object[]): ResolvedLayer[] => [...resolveModel(specOf(...layers), SHAPES).layers.slice(0, -1)];

const unit = {
  ...{ query: 'a', sequence: 's', normalize: 'none' },
  layers: [{ weight: '3x16', activation: 'sigmoid' }, { weight: '1x3' }],
};
const attend = { ...unit, type: 'target_attention', name: 'out' };
const scores = { ...unit, type: 'target_scores', name: 'scores' };
const gru = { type: 'gru', name: 'out', input: 's', weightInput: '6x4', weightHidden: '6x2' };
const augru = { ...gru, type: 'augru', scores: 'scores' };
const self = { type: 'self_attention', name: 'out', input: 's', heads: 2, weightQkv: '12x4', weightOut: '4x4' };
const hstu = {
  ...{ type: 'hstu', name: 'out', input: 's', heads: 2, linearDim: 2, attentionDim: 2 },
  ...{ weightUvqk: '16x4', weightOut: '4x4' },
};
const pool = { type: 'sequence_pool', name: 'out', input: 's' };
const flatten = { type: 'flatten', name: 'out', input: 's' };
const append = { type: 'append', name: 'out', input: 's', vector: 'a' };
const positions = { type: 'positions', name: 'out', input: 's', weight: '5x4' };

test.each([
  [pool, [{ op: 'sequence_pool', pooling: 'sum', dim: 4, positions: 0 }]],
  [{ ...pool, pooling: 'last' }, [{ op: 'sequence_pool', pooling: 'last' }]],
  [flatten, [{ op: 'flatten', dim: 20, positions: 0 }]],
  [append, [{ op: 'append', dim: 4, positions: 6 }]],
  [positions, [{ op: 'positions', dim: 4, positions: 5, tensors: ['5x4'] }]],
  [
    attend,
    [
      { op: 'query_key', dim: 3, positions: 5, activation: 'sigmoid', features: ['query', 'key', 'difference', 'product'] },
      { op: 'fc', dim: 1, positions: 5 },
      { op: 'weighted_pool', dim: 4, positions: 0 },
    ],
  ],
  [
    { ...scores, normalize: 'softmax', features: ['product', 'key'], layers: [{ weight: '3x8' }, { weight: '1x3' }] },
    [{ op: 'query_key', features: ['product', 'key'] }, { op: 'fc' }, { op: 'sequence_softmax', dim: 1, positions: 5 }],
  ],
  [
    gru,
    [
      { op: 'fc', dim: 6, positions: 5 },
      { op: 'gru', dim: 2, positions: 5, tensors: ['6x2', null] },
    ],
  ],
  [
    self,
    [
      { op: 'fc', dim: 12 },
      { op: 'attention', heads: 2, causal: false, dim: 4 },
      { op: 'fc', dim: 4, positions: 5 },
    ],
  ],
  [
    { ...hstu, positionBias: '9' },
    [
      { op: 'layer_norm', tensors: [null, null], epsilon: 1e-6 },
      { op: 'fc', dim: 16, activation: 'silu' },
      { op: 'hstu_attention', dim: 4, heads: 2, causal: true, normalizer: 5, tensors: ['9'] },
      { op: 'fc', dim: 4 },
      { op: 'sum', dim: 4, positions: 5 },
    ],
  ],
  // Layers of rows are applied position by position.
  [{ type: 'fc', name: 'out', input: 's', weight: '3x4' }, [{ op: 'fc', dim: 3, positions: 5 }]],
  [{ type: 'concat', name: 'out', inputs: ['s', 'pairs'] }, [{ op: 'concat', dim: 6, positions: 5 }]],
])('$type is resolved to operations over positions', (layer, wanted) => {
  expect(resolve(layer)).toEqual(wanted.map((step) => expect.objectContaining(step)));
});

const kinds = 'reads a sequence: a vector';
const both = 'reads a sequence and a vector: ';
const alike = 'reads sequences of one length: ';
test.each([
  // What a layer reads.
  [{ ...pool, input: 'a' }, kinds],
  [{ ...flatten, input: 'dense' }, kinds],
  [{ ...positions, input: 'a' }, kinds],
  [{ ...self, input: 'a' }, kinds],
  [{ ...hstu, input: 'a' }, kinds],
  [{ ...append, input: 'a' }, `${both}a vector, a vector`],
  [{ ...append, vector: 't' }, `${both}a sequence of 5, a sequence of 5`],
  [{ ...attend, sequence: 'a' }, `${both}a vector, a vector`],
  [{ ...attend, query: 't' }, `${both}a sequence of 5, a sequence of 5`],
  [{ ...scores, query: 's' }, `${both}a sequence of 5, a sequence of 5`],
  [{ ...gru, input: 'a' }, `${alike}a vector`],
  [{ ...augru, scores: 'a' }, `${alike}a sequence of 5, a vector`],
  [{ ...augru, scores: 'short' }, `${alike}a sequence of 5, a sequence of 3`],
  [{ type: 'sum', name: 'out', inputs: ['s', 'a'] }, 'reads vectors, or sequences of one length: a sequence of 5, a vector'],
  [{ type: 'sum', name: 'out', inputs: ['s', 'short'] }, 'reads vectors, or sequences of one length: a sequence of 5, a sequence of 3'],
  [{ type: 'dot_interaction', name: 'out', inputs: ['s', 't'] }, 'reads vectors only: a sequence of 5, a sequence of 5'],
  [{ ...pool, input: 'gone' }, 'reads a value that no dense feature and no earlier layer gives: gone'],
])('a layer that reads other values than it can is refused with what they are: %j', (layer, message) => {
  expect(() => resolve(layer)).toThrow(
    expect.objectContaining({ code: 'bad_model', message: expect.stringContaining(`model.json: ${PLACE}: ${message}`) }),
  );
});

const has = (tensor: string, wanted: string): string => `${tensor} has to be [${wanted}] in dense.safetensors: ${tensor}`;
const activated = (more: object): object => ({ ...attend, layers: [{ weight: '3x16', ...more }, { weight: '1x3' }] });
const dice = { activation: 'dice', alpha: '3', mean: '3', variance: '3' };
test.each([
  [{ ...append, vector: 'narrow' }, 'inputs', 'have to be of one dim: 4, 2'],
  [{ ...positions, weight: '4x5' }, 'weight', has('4x5', '5, 4')],
  [{ ...positions, input: 'short' }, 'weight', has('5x4', '3, 4')],
  [{ ...positions, weight: 'gone' }, 'weight', 'gone has to be [5, 4] in dense.safetensors: missing'],
  [{ ...attend, query: 'narrow' }, 'inputs', 'have to be of one dim: 4, 2'],
  [{ ...attend, features: ['key', 'key'] }, 'features', 'have to differ: key, key'],
  [{ ...attend, features: ['key', 'product'] }, 'layers[0].weight', has('3x16', 'out, 8')],
  [{ ...attend, layers: [{ weight: '3x16' }] }, 'layers[0].weight', has('3x16', '1, 16')],
  [{ ...attend, layers: [{ weight: '3x16' }, { weight: '2x3' }] }, 'layers[1].weight', has('2x3', '1, 3')],
  [{ ...scores, layers: [{ weight: '3x16', bias: '4' }, { weight: '1x3' }] }, 'layers[0].bias', has('4', '3')],
  [activated({ activation: 'prelu' }), 'layers[0].slope', 'is needed by prelu'],
  [activated({ activation: 'prelu', slope: '4' }), 'layers[0].slope', has('4', '1] or [3')],
  [activated({ activation: 'dice' }), 'layers[0].alpha', 'is needed by dice'],
  [activated({ ...dice, alpha: '4' }), 'layers[0].alpha', has('4', '3')],
  [{ ...gru, weightInput: '4x4' }, 'weightInput', '4x4 has to have three rows for each value of the state: 4'],
  [{ ...gru, input: 'pairs' }, 'weightInput', has('6x4', 'out, 2')],
  [{ ...gru, weightHidden: '6x3' }, 'weightHidden', has('6x3', '6, 2')],
  [{ ...gru, biasInput: '5' }, 'biasInput', has('5', '6')],
  [{ ...gru, biasHidden: '5' }, 'biasHidden', has('5', '6')],
  [{ ...augru, scores: 'pairs' }, 'scores', 'has to be a sequence of dim 1: dim 2'],
  [{ ...augru, scores: 'column', weightHidden: '6x3' }, 'weightHidden', has('6x3', '6, 2')],
  [{ ...self, heads: 3 }, 'heads', 'have to divide the dim of the sequence: heads 3, dim 4'],
  [{ ...self, weightQkv: '4x4' }, 'weightQkv', has('4x4', '12, 4')],
  [{ ...self, biasQkv: '4' }, 'biasQkv', has('4', '12')],
  [{ ...self, weightOut: '12x4' }, 'weightOut', has('12x4', '4, 4')],
  [{ ...self, biasOut: '12' }, 'biasOut', has('12', '4')],
  [{ ...hstu, linearDim: 3 }, 'weightUvqk', has('16x4', '20, 4')],
  [{ ...hstu, attentionDim: 1 }, 'weightUvqk', has('16x4', '12, 4')],
  [{ ...hstu, biasUvqk: '12' }, 'biasUvqk', has('12', '16')],
  [{ ...hstu, positionBias: '5' }, 'positionBias', has('5', '9')],
  [{ ...hstu, weightOut: '12x4' }, 'weightOut', has('12x4', '4, 4')],
  [{ ...hstu, biasOut: '5' }, 'biasOut', has('5', '4')],
])('a dim or a tensor that does not fit is refused by its key: %j', (layer, key, message) => {
  const column = { type: 'fc', name: 'column', input: 's', weight: '1x4' };
  expect(() => resolve(column, layer)).toThrow(
    expect.objectContaining({ code: 'bad_model', message: `model.json: nets[0].layers[${READERS.length + 1}].${key}: ${message}` }),
  );
});

test('sequences of as many positions whose last ones were appended to one of them are no sequences of one length', () => {
  const longer = { type: 'embedding_sequence', name: 'longer', table: 'four', maxLength: 6 };
  const appended = { ...append, name: 'appended' };
  const sum = { type: 'sum', name: 'out', inputs: ['appended', 'longer'] };
  expect(() => resolve(longer, appended, sum)).toThrow(/reads vectors, or sequences of one length: a sequence of 6, a sequence of 6/);
  expect(resolve(appended, { ...append, name: 'other', input: 't' }, { ...sum, inputs: ['appended', 'other'] })).toHaveLength(3);
});

test('a sequence is no output', () => {
  const output = (name: string, value: string | string[]): (() => unknown) => {
    const spec = { ...specOf({ ...append, name: 'out' }), [name]: value } as ModelSpec;
    return () => resolveModel(spec, SHAPES);
  };
  expect(output('output', 'out')).toThrow(
    expect.objectContaining({ code: 'bad_model', message: 'model.json: output: has to be a vector, not a sequence: out' }),
  );
  expect(output('outputs', ['out'])).toThrow(/outputs\[0\]: has to be a vector, not a sequence: out/);
});

test.each([
  [{ ...READERS[2], name: 'out', maxLength: 0 }, 'maxLength'],
  [{ ...READERS[2], name: 'out', maxLength: 65_536 }, 'maxLength'],
  [{ ...READERS[2], name: 'out', maxLength: 1.5 }, 'maxLength'],
  [{ ...READERS[2], name: 'out', maxLength: undefined }, 'maxLength'],
  [{ ...READERS[2], name: 'out', truncate: 'middle' }, 'truncate'],
  [{ ...READERS[2], name: 'out', poolingFactor: -1 }, 'poolingFactor'],
  [{ ...READERS[2], name: 'out', side: 'both' }, 'side'],
  [{ ...pool, pooling: 'median' }, 'pooling'],
  [{ ...append, vector: '' }, 'vector'],
  [{ ...positions, weight: '' }, 'weight'],
  [{ ...attend, normalize: undefined }, 'normalize'],
  [{ ...attend, normalize: 'max' }, 'normalize'],
  [{ ...attend, features: [] }, 'features'],
  [{ ...attend, features: ['ratio'] }, 'features.0'],
  [{ ...attend, layers: [] }, 'layers'],
  [activated({ activation: 'step' }), 'layers.0.activation'],
  [activated({ ...dice, epsilon: 1e-40 }), 'layers.0.epsilon'],
  [{ ...gru, weightInput: undefined }, 'weightInput'],
  [{ ...augru, scores: undefined }, 'scores'],
  [{ ...self, heads: 0 }, 'heads'],
  [{ ...self, causal: 'yes' }, 'causal'],
  [{ ...hstu, heads: 1.5 }, 'heads'],
  [{ ...hstu, linearDim: 0 }, 'linearDim'],
  [{ ...hstu, attentionDim: 0 }, 'attentionDim'],
  [{ ...hstu, normalizer: 0 }, 'normalizer'],
  [{ ...hstu, normalizer: 1e39 }, 'normalizer'],
  [{ ...hstu, epsilon: 1e-40 }, 'epsilon'],
])('a field that has another value than it can is refused by its path: %j', (layer, field) => {
  expect(() => specOf(layer)).toThrow(
    expect.objectContaining({
      issues: [
        expect.objectContaining({
          path: ['nets', 0, 'layers', READERS.length, ...field.split('.').map((key) => (/^\d/.test(key) ? Number(key) : key))],
        }),
      ],
    }),
  );
});

test.each([pool, flatten, append, positions, attend, scores, gru, augru, self, hstu])(
  'a key that $type does not have is refused',
  (layer) => {
    expect(() => specOf({ ...layer, unknown: 1 })).toThrow(/unknown/);
  },
);
