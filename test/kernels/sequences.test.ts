import { describe, expect, it } from 'vitest';
import { itemScores } from '../reference/sequence-net.js';
import { availableKernels, bytesOf, layer, type NetJob, randomFrom, runJobs } from './jobs.js';
import { alone, floatsOf, itemOf, lengths, runOf } from './sequence-jobs.js';

const random = randomFrom(31);
const floats = (length: number, scale = 1): Float32Array => floatsOf(random, length, scale);
type Layers = NetJob['layers'];

/** What is made of sequences a and b, [positions, dim], and a vector of that dim; the last layer is the output. */
type Make = (sequences: { a: number; b: number; vector: number; dim: number; positions: number; first: number }) => Layers;

const MAKERS: Record<string, Make> = {
  'pooled in every way': ({ a, b, first, dim }) => [
    ...(['sum', 'mean', 'max', 'last'] as const).map((pooling, n) => layer('sequence_pool', [n % 2 === 0 ? a : b], dim, 1, { pooling })),
    layer('concat', [first, first + 1, first + 2, first + 3], 4 * dim, 1),
  ],
  'through layers that are applied position by position': ({ a, b, first, dim, positions }) => [
    layer('concat', [a, b], 2 * dim, 1, { positions }),
    layer('fc', [first], dim, 1, { positions, tensors: [floats(2 * dim * dim, 1 / Math.sqrt(dim)), floats(dim)], activation: 'relu' }),
    layer('sum', [first + 1, a], dim, 1, { positions }),
    layer('layer_norm', [first + 2], dim, 1, { positions, tensors: [floats(dim), floats(dim)], epsilon: 1e-2 }),
    layer('product', [first + 3, b], dim, 1, { positions }),
    layer('multiply_add', [first + 4, a, b], dim, 1, { positions }),
    layer('fc', [first + 5], 2, 1, { positions, tensors: [floats(2 * dim), null], activation: 'sigmoid' }),
    layer('flatten', [first + 6], 2 * positions, 1),
  ],
  'with a vector at the end and position embeddings': ({ a, vector, first, dim, positions }) => [
    layer('append', [a, vector], dim, 1, { positions: positions + 1 }),
    layer('positions', [first], dim, 1, { positions: positions + 1, tensors: [floats((positions + 1) * dim)] }),
    layer('fc', [first + 1], 3, 1, { positions: positions + 1, tensors: [floats(3 * dim), floats(3)] }),
    layer('sequence_pool', [first + 2], 3, 1, { pooling: 'max' }),
    layer('concat', [first + 3, vector], 3 + dim, 1),
  ],
  'with a vector at the end, laid out beside that vector': ({ a, vector, first, dim, positions }) => [
    layer('append', [a, vector], dim, 1, { positions: positions + 1 }),
    layer('flatten', [first], (positions + 1) * dim, 1),
    layer('concat', [first + 1, vector], (positions + 2) * dim, 1),
    layer('fc', [first + 2], 3, 1, { tensors: [floats(3 * (positions + 2) * dim, 1 / dim), null] }),
  ],
  'scored for a query by every feature, with softmax': ({ a, vector, first, dim, positions }) => [
    ...scored(a, vector, first, dim, positions, ['query', 'key', 'difference', 'product']),
    layer('sequence_softmax', [first + 2], 1, 1, { positions }),
    layer('weighted_pool', [a, first + 3], dim, 1),
  ],
  'scored for a query by some features in another order': ({ a, b, vector, first, dim, positions }) => [
    ...scored(a, vector, first, dim, positions, ['product', 'difference']),
    layer('weighted_pool', [b, first + 2], dim, 1),
    ...scored(b, first + 3, first + 4, dim, positions, ['key']),
    layer('weighted_pool', [a, first + 6], dim, 1),
  ],
  'scored through Dice and PReLU': ({ a, vector, first, dim, positions }) => [
    layer('query_key', [a, vector], 9, 1, {
      positions,
      features: ['product', 'query'],
      tensors: [floats(18 * dim, 1 / Math.sqrt(dim)), floats(9)],
    }),
    layer('dice', [first], 9, 1, { positions, epsilon: 1e-3, tensors: [floats(9), floats(9), floats(9).map(Math.abs)] }),
    layer('fc', [first + 1], 1, 1, { positions, tensors: [floats(9), null] }),
    layer('prelu', [first + 2], 1, 1, { positions, tensors: [floats(1)] }),
    layer('weighted_pool', [a, first + 3], dim, 1),
  ],
  'attending to themselves': ({ a, first, dim, positions }) => [
    ...attending('attention', a, first, dim, positions, { heads: dim % 4 === 0 ? 4 : 1 }),
    layer('sequence_pool', [first + 1], dim, 1, { pooling: 'mean' }),
  ],
  'attending to what came before': ({ a, first, dim, positions }) => [
    ...attending('attention', a, first, dim, positions, { heads: dim % 3 === 0 ? 3 : 1, causal: true }),
    layer('flatten', [first + 1], positions * dim, 1),
  ],
  'through the attention of HSTU': ({ a, vector, first, dim, positions }) => [
    layer('append', [a, vector], dim, 1, { positions: positions + 1 }),
    ...attending('hstu_attention', first, first + 1, dim, positions + 1, {
      heads: dim % 2 === 0 ? 2 : 1,
      causal: true,
      normalizer: 7,
      epsilon: 1e-2,
      tensors: [dim % 3 === 0 ? null : floats(2 * positions + 1)],
    }),
    layer('sequence_pool', [first + 2], dim, 1, { pooling: 'last' }),
  ],
  'through a GRU and an AUGRU': ({ a, b, first, dim, positions }) => [
    ...recurrent(a, first, dim, 7, positions),
    layer('fc', [b], 1, 1, { positions, tensors: [floats(dim), null], activation: 'sigmoid' }),
    layer('fc', [first + 1], 15, 1, { positions, tensors: [floats(15 * 7), null] }),
    layer('augru', [first + 3, first + 2], 5, 1, { positions, tensors: [floats(15 * 5), null] }),
    layer('sequence_pool', [first + 4], 5, 1, { pooling: 'last' }),
  ],
};

/** Two layers that score positions. */
const scored = (
  sequence: number,
  query: number,
  first: number,
  dim: number,
  positions: number,
  features: NonNullable<Layers[number]['features']>,
): Layers => [
  layer('query_key', [sequence, query], 37, 1, {
    ...{ positions, features, activation: 'sigmoid' },
    tensors: [floats(37 * features.length * dim, 1 / Math.sqrt(dim)), floats(37)],
  }),
  layer('fc', [first], 5, 1, { positions, tensors: [floats(5 * 37), floats(5)], activation: 'tanh' }),
  layer('fc', [first + 1], 1, 1, { positions, tensors: [floats(5), floats(1)] }),
];

const attending = (
  op: 'attention' | 'hstu_attention',
  input: number,
  first: number,
  dim: number,
  positions: number,
  more: Partial<Layers[number]>,
): Layers => {
  // Of HSTU, heads whose queries and keys are as wide as it gets.
  const width = op === 'attention' ? 3 * dim : 2 * dim + 6 * more.heads!;
  return [
    layer('fc', [input], width, 1, { positions, tensors: [floats(width * dim, 1 / Math.sqrt(dim)), floats(width)] }),
    layer(op, [first], dim, 1, { positions, ...more }),
  ];
};

const recurrent = (input: number, first: number, dim: number, hidden: number, positions: number): Layers => [
  layer('fc', [input], 3 * hidden, 1, { positions, tensors: [floats(3 * hidden * dim, 1 / Math.sqrt(dim)), floats(3 * hidden)] }),
  layer('gru', [first], hidden, 1, { positions, tensors: [floats(3 * hidden * hidden), floats(3 * hidden)] }),
];

const SIZES = [
  { dim: 1, positions: 1 },
  { dim: 3, positions: 5 },
  { dim: 16, positions: 20 },
  { dim: 33, positions: 50 },
  { dim: 64, positions: 17 },
];

/** Runs of 1 to 130 items with the user's or the items' sequences and vector. */
function netOf(make: Make, { dim, positions }: (typeof SIZES)[number]): NetJob {
  const net: NetJob = {
    inputDims: [dim, dim, dim],
    inputPositions: [0, positions, positions],
    numDense: 1,
    layers: make({ vector: 0, a: 1, b: 2, first: 3, dim, positions }),
    output: 0,
    runs: [],
  };
  const runs = [1, 2, 13, 40, ...(dim < 33 ? [130] : [])].flatMap((items) =>
    [
      [true, true, true],
      [true, false, false],
      [false, true, true],
      [false, false, false],
    ].map((perItem) => ({ ...runOf(random, net, items, perItem, lengths(random)), stages: [1] })),
  );
  return { ...net, output: 2 + net.layers.length, runs };
}

const expectNear = (got: ArrayLike<number>, want: readonly number[], what: string): void => {
  want.forEach((value, d) => {
    if (!(Math.abs(got[d]! - value) <= 2e-5 * (1 + Math.abs(value)))) expect.fail(`${what}, at ${d}: ${got[d]}, want ${value}`);
  });
};

const joined = (outs: readonly Float32Array[]): Buffer => Buffer.concat(outs.map(bytesOf));

/** Nets of all sizes and what the reference makes of each item, run by run: worked out once for all kernels. */
const REFERENCES = Object.entries(MAKERS).map(([what, make]) => {
  let made: { nets: NetJob[]; wants: (readonly number[])[][][] } | undefined;
  const reference = (): NonNullable<typeof made> => {
    if (made !== undefined) return made;
    const nets = SIZES.map((size) => netOf(make, size));
    const wantOf = (net: NetJob): (readonly number[])[][] =>
      net.runs.map((run) => Array.from({ length: run.items }, (_, item) => itemScores(net.layers, net.output, itemOf(net, run, item))));
    made = { nets, wants: nets.map(wantOf) };
    return made;
  };
  return [what, reference] as const;
});

describe.each(availableKernels)('sequences with %s kernels', (isa) => {
  it.each(REFERENCES)('equal the float64 reference %s', (_, reference) => {
    const { nets, wants } = reference();
    const answer = runJobs(isa, { tables: [], nets });
    nets.forEach((net, n) => {
      const outs = answer.nets[n]!.outs ?? expect.fail(answer.nets[n]!.error!.message);
      const { dim } = net.layers.at(-1)!;
      wants[n]!.forEach((items, r) => {
        items.forEach((want, item) => expectNear(outs[r]!.subarray(item * dim), want, `net ${n}, run ${r}, item ${item}`));
      });
    });
  });

  it.each(Object.entries(MAKERS))('give an item the same bits alone and in a batch, on one thread and on several, %s', (_, make) => {
    const nets = SIZES.map((size) => {
      const net = netOf(make, size);
      return {
        ...net,
        runs: net.runs.slice(8, 16).flatMap((run) => [run, ...[0, 1, 5, 12].map((item) => ({ ...alone(net, run, item), stages: [1] }))]),
      };
    });
    const [one, several] = [1, 4].map((threads) => runJobs(isa, { tables: [], nets }, threads).nets);
    one!.forEach(({ outs, error }, n) => {
      expect(error).toBeUndefined();
      expect(joined(several![n]!.outs!).equals(joined(outs!))).toBe(true);
      const { dim } = nets[n]!.layers.at(-1)!;
      for (let r = 0; r < outs!.length; r += 5)
        [0, 1, 5, 12].forEach((item, i) =>
          expect(joined([outs![r + 1 + i]!]).equals(bytesOf(outs![r]!.slice(item * dim, (item + 1) * dim)))).toBe(true),
        );
    });
  });

  it.each(Object.entries(MAKERS))('give the same bits in several stages as in one, %s', (_, make) => {
    const whole = [netOf(make, { dim: 4, positions: 6 })];
    const runs = whole[0]!.runs.slice(0, 12);
    const staged = whole[0]!.layers.slice(1).map((__, split): NetJob => {
      const layers = whole[0]!.layers.map((given, n) => ({ ...given, stage: n <= split ? 1 : n % 2 === split % 2 ? 3 : 2 }));
      // A stage reads those before it, and none behind.
      for (const [n, given] of layers.entries()) {
        const stages = given.inputs.map((input) => (input < 3 ? 1 : layers[input - 3]!.stage));
        layers[n] = { ...given, stage: Math.max(given.stage, ...stages) };
      }
      const stages = [...new Set(layers.map(({ stage }) => stage))].sort();
      return { ...whole[0]!, layers, runs: runs.map((run) => ({ ...run, stages })) };
    });
    const [{ outs }, ...answers] = runJobs(isa, { tables: [], nets: [{ ...whole[0]!, runs }, ...staged] }).nets as [
      { outs: Float32Array[] },
      ...{ outs?: Float32Array[]; error?: { message: string } }[],
    ];
    for (const { outs: got, error } of answers) {
      expect(error).toBeUndefined();
      expect(joined(got!).equals(joined(outs))).toBe(true);
    }
  });
});
