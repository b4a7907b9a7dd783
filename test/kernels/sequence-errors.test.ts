import { describe, expect, it } from 'vitest';
import { availableKernels, layer, type NetJob, runJobs } from './jobs.js';

type Layers = NetJob['layers'];
type Run = NetJob['runs'][number];

const zeros = (length: number): Float32Array => new Float32Array(length);
const POSITIONS = 5;
/** Inputs: a vector of dim 4, sequences 1 and 2 of dim 4 and as many positions, 3 of fewer, and 4 of dim 1. Values of layers begin at 5. */
const netOf = (...layers: Layers): NetJob => ({
  ...{ inputDims: [4, 4, 4, 4, 1], inputPositions: [0, POSITIONS, POSITIONS, 3, POSITIONS], numDense: 1 },
  ...{ layers, output: 4 + layers.length, runs: [] },
});
const of = (op: Layers[number]['op'], inputs: number[], dim: number, more: Partial<Layers[number]> = {}): Layers[number] =>
  layer(op, inputs, dim, 1, more);
/** A sequence, with as many positions unless said otherwise. */
const along = (op: Layers[number]['op'], inputs: number[], dim: number, more: Partial<Layers[number]> = {}): Layers[number] =>
  of(op, inputs, dim, { positions: POSITIONS, ...more });

const fc = (input: number, dim: number): Layers[number] => along('fc', [input], dim, { tensors: [zeros(4 * dim), null] });
const scores = { features: ['query', 'key'] as const, tensors: [zeros(2 * 8), zeros(2)] };
const heads = { heads: 2, normalizer: 5, epsilon: 1e-6, causal: true, tensors: [zeros(2 * POSITIONS - 1)] };

/** Each net fits; of each, changes of its last layer that do not. */
const LAYERS: [Layers, Partial<Layers[number]>[]][] = [
  [[of('sequence_pool', [1], 4)], [{ inputs: [0] }, { inputs: [1, 2] }, { dim: 3 }, { positions: POSITIONS }, { tensors: [zeros(4)] }]],
  [[of('flatten', [1], 20)], [{ inputs: [0] }, { inputs: [1, 2] }, { dim: 19 }, { positions: POSITIONS }, { inputs: [3] }]],
  [
    [along('append', [1, 0], 4, { positions: POSITIONS + 1 })],
    [{ inputs: [1] }, { inputs: [1, 2] }, { inputs: [4, 0] }, { inputs: [0, 0] }, { dim: 3 }, { positions: POSITIONS }],
  ],
  [
    [along('positions', [1], 4, { tensors: [zeros(20)] })],
    [
      { inputs: [0] },
      { inputs: [1, 2] },
      { inputs: [3] },
      { dim: 3 },
      { positions: 4 },
      { tensors: [zeros(19)] },
      { tensors: [null] },
      { tensors: [] },
    ],
  ],
  [
    [along('query_key', [1, 0], 2, scores)],
    [
      ...[{ inputs: [1] }, { inputs: [1, 2] }, { inputs: [4, 0] }, { inputs: [0, 1] }, { positions: 4 }, { positions: 0 }],
      ...[{ features: [] }, { features: ['key'] as const }, { features: ['key', 'key'] as const }, { features: ['ratio' as 'key'] }],
      ...[{ tensors: [zeros(15), zeros(2)] }, { tensors: [zeros(16), zeros(1)] }, { tensors: [null, null] }, { dim: 3 }],
    ],
  ],
  [
    [along('sequence_softmax', [4], 1)],
    [{ inputs: [1] }, { inputs: [0] }, { inputs: [4, 4] }, { dim: 2 }, { positions: 0 }, { positions: 4 }],
  ],
  [
    [of('weighted_pool', [1, 4], 4)],
    [{ inputs: [1] }, { inputs: [1, 2] }, { inputs: [3, 4] }, { inputs: [1, 0] }, { dim: 1 }, { positions: POSITIONS }],
  ],
  [
    [fc(1, 12), along('attention', [5], 4, { heads: 2 })],
    [{ heads: 0 }, { heads: 3 }, { dim: 8 }, { inputs: [1] }, { inputs: [0] }, { inputs: [5, 5] }, { positions: 4 }, { tensors: [null] }],
  ],
  [
    [fc(1, 16), along('hstu_attention', [5], 4, heads)],
    [
      ...[{ heads: 0 }, { heads: 3 }, { dim: 8 }, { inputs: [1] }, { inputs: [0] }, { inputs: [5, 5] }, { positions: 4 }],
      ...[
        { normalizer: 0 },
        { normalizer: Number.NaN },
        { normalizer: Number.POSITIVE_INFINITY },
        { epsilon: -1 },
        { epsilon: Number.NaN },
      ],
      ...[{ tensors: [zeros(8)] }, { tensors: [] }],
    ],
  ],
  [
    [fc(1, 6), along('gru', [5], 2, { tensors: [zeros(12), zeros(6)] })],
    [
      ...[{ inputs: [1] }, { inputs: [5, 4] }, { inputs: [0] }, { dim: 3 }, { positions: 4 }],
      ...[{ tensors: [zeros(11), null] }, { tensors: [zeros(12), zeros(5)] }, { tensors: [null, null] }, { tensors: [zeros(12)] }],
    ],
  ],
  [
    [fc(1, 6), along('augru', [5, 4], 2, { tensors: [zeros(12), null] })],
    [
      { inputs: [5] },
      { inputs: [5, 1] },
      { inputs: [5, 0] },
      { inputs: [4, 5] },
      { dim: 3 },
      { positions: 0 },
      { tensors: [zeros(13), null] },
    ],
  ],
  [[along('sum', [1, 2], 4)], [{ inputs: [1, 0] }, { inputs: [1, 3] }, { inputs: [1, 4] }, { positions: 0 }, { positions: 4 }, { dim: 3 }]],
];

/** Gives a vector, as an output has to be, of the last layer's value. */
function ended(layers: Layers): NetJob {
  const { positions, dim } = layers.at(-1)!;
  return positions === 0 ? netOf(...layers) : netOf(...layers, of('sequence_pool', [4 + layers.length], dim));
}

const rows = (perItem: boolean, items: number): number => (perItem ? items : 1);
/** A run of the given lengths of each sequence; per item, unless the sequence has one. */
function runOf({ inputDims, inputPositions }: NetJob, lengths: readonly (readonly number[])[], more: Partial<Run> = {}): Run {
  const items = 3;
  const perItem = [true, ...lengths.map(({ length }) => length !== 1)];
  const pooled = inputDims.slice(1).reduce((sum, dim, at) => sum + dim * inputPositions![at + 1]! * rows(perItem[at + 1]!, items), 0);
  return {
    ...{ items, perItem: Uint8Array.from(perItem, Number), dense: zeros(4 * items), pooled: zeros(pooled) },
    ...{ lengths: Uint32Array.from(lengths.flat()), outLength: 4 * items, stages: [1] },
    ...more,
  };
}

describe.each(availableKernels)('with %s kernels', (isa) => {
  it.each(LAYERS)(
    'layers of sequences are refused with other inputs, dims, positions or tensors than they need: case %#',
    (layers, changes) => {
      const changed = changes.map((change) => [...layers.slice(0, -1), { ...layers.at(-1)!, ...change }]);
      const [good, ...bad] = runJobs(isa, { tables: [], nets: [layers, ...changed].map(ended) }).nets;
      expect(good!.error).toBeUndefined();
      bad.forEach(({ error }, n) =>
        expect(error?.message, `change ${n}: ${Object.keys(changes[n]!)}`).toMatch(/^layer \d |features|heads|normalizer|epsilon|inputs/),
      );
    },
  );

  it('nets whose inputs or output are no sequences where they may be none, or the reverse, are refused', () => {
    const good = netOf(of('sequence_pool', [1], 4));
    const cases: [NetJob, RegExp][] = [
      [{ ...good, inputPositions: [POSITIONS, POSITIONS, POSITIONS, 3, POSITIONS] }, /a dense input has to be a vector/],
      [{ ...good, inputPositions: [0, POSITIONS] }, /inputPositions has to have one entry per input/],
      [{ ...good, inputPositions: [0, POSITIONS, POSITIONS, 3, -1] }, /inputPositions has to be an integer/],
      [{ ...good, inputPositions: [0, POSITIONS, POSITIONS, 3, 2 ** 32] }, /inputPositions has to be an integer/],
      [netOf(fc(1, 4)), /output has to be a vector/],
    ];
    const { nets } = runJobs(isa, { tables: [], nets: [good, ...cases.map(([net]) => net)] });
    expect(nets[0]!.error).toBeUndefined();
    cases.forEach(([, message], n) => expect(nets[n + 1]!.error?.message).toMatch(message));
  });

  it('lengths are refused that are not one per row, above the positions, or differ where a layer combines sequences', () => {
    const net = netOf(along('sum', [1, 2], 4), of('sequence_pool', [5], 4), of('weighted_pool', [2, 4], 4), of('sum', [6, 7], 4));
    const good = [
      [0, 5, 2],
      [0, 5, 2],
      [3, 0, 1],
      [0, 5, 2],
    ];
    const changed = (at: number, lengths: number[]): Run =>
      runOf(
        net,
        good.map((given, input) => (input === at ? lengths : given)),
      );
    const count = /lengths has to have one entry per row of each sequence/;
    const cases: [Run, RegExp][] = [
      [runOf(net, good, { lengths: Uint32Array.of(...good.flat().slice(1)) }), count],
      [runOf(net, good, { lengths: Uint32Array.of(...good.flat(), 0) }), count],
      [runOf(net, good, { lengths: null }), /lengths/],
      [runOf(net, good, { lengths: new Int32Array(12) as unknown as Uint32Array }), /lengths/],
      [changed(0, [0, 6, 2]), /more positions than input 1 has: row 1, 6, at most 5/],
      [changed(2, [3, 0, 4]), /more positions than input 3 has: row 2, 4, at most 3/],
      [changed(3, [2 ** 32 - 1, 5, 2]), /more positions than input 4 has: row 0, 4294967295, at most 5/],
      [changed(1, [0, 5, 1]), /lengths of inputs 1 and 2 have to be equal: item 2, 2 and 1/],
      [changed(3, [1, 5, 2]), /lengths of inputs 2 and 4 have to be equal: item 0, 0 and 1/],
      // One of the user for all items, beside those of the items.
      [changed(0, [5]), /lengths of inputs 1 and 2 have to be equal: item 0, 5 and 0/],
      [runOf(net, good, { pooled: zeros(1) }), /pooled has another length/],
    ];
    // Sequences that no layer combines may differ.
    const accepted = [runOf(net, good), changed(2, [0, 1, 2]), runOf(net, [[4], [4, 4, 4], [1], [4]]), runOf(net, [[0], [0], [0], [0]])];
    const jobs = [...accepted, ...cases.map(([run]) => run)].map((run) => ({ ...net, runs: [run] }));
    const { nets } = runJobs(isa, { tables: [], nets: jobs });
    accepted.forEach((_, n) => expect(nets[n]!.error, `accepted ${n}`).toBeUndefined());
    cases.forEach(([, message], n) => expect(nets[accepted.length + n]!.error?.message, `case ${n}`).toMatch(message));
  });

  it('a later stage is refused with other lengths than the one before it', () => {
    const net = netOf(of('sequence_pool', [1], 4), layer('sum', [5, 0], 4, 2));
    const run = (length: number, stages: number[]): Run => runOf(net, [[length], [5], [3], [5]], { stages });
    const nets = [
      { ...net, runs: [run(2, [1, 2])] },
      { ...net, runs: [run(2, [1]), run(2, [2])] },
      { ...net, runs: [run(2, [1]), run(3, [2])] },
      { ...net, runs: [run(2, [1]), run(2, [1, 2])] },
    ];
    const [whole, same, other, again] = runJobs(isa, { tables: [], nets }).nets;
    for (const answer of [whole, same, again]) expect(answer!.error).toBeUndefined();
    expect(other!.error!.message).toMatch(/a stage needs those before it .* lengths/);
  });
});
