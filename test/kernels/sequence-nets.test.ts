import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FEATURES, SEQUENCE_POOLINGS } from '../../src/model/ops.js';
import { itemScores } from '../reference/sequence-net.js';
import { availableKernels, bytesOf, layer, type NetJob, randomFrom, runJobs } from './jobs.js';
import { below, floatsOf, itemOf, lengths, merged, runOf } from './sequence-jobs.js';

type Layers = NetJob['layers'];
interface Value {
  readonly number: number;
  readonly dim: number;
  readonly positions: number;
  readonly appended: number;
}

const SEQUENCE_STEPS = [
  'fc',
  'sum',
  'product',
  'layer_norm',
  'append',
  'positions',
  'target',
  'gru',
  'augru',
  'attention',
  'hstu',
] as const;
/** What a layer is made with: its first input, and the seed of all else. */
const steps = fc.array(fc.record({ step: fc.constantFrom(...SEQUENCE_STEPS), input: fc.nat(99), seed: fc.nat() }), { maxLength: 6 });
const nets = fc.record({
  dim: fc.constantFrom(1, 2, 4, 6, 17),
  positions: fc.integer({ min: 1, max: 9 }),
  items: fc.constantFrom(1, 2, 5, 33),
  vectorPerItem: fc.boolean(),
  sequencesPerItem: fc.boolean(),
  seed: fc.nat(),
  steps,
});

/** A net of the steps over a vector and two sequences of the same lengths; all that it makes is pooled in some way, and side by side its output. */
class RandomNet {
  readonly layers: Layers = [];
  readonly #values: Value[];
  #random = randomFrom(0);

  constructor(given: typeof nets extends fc.Arbitrary<infer Given> ? Given : never) {
    const { dim, positions } = given;
    this.#values = [0, positions, positions].map((own, number) => ({ number, dim, positions: own, appended: 0 }));
    for (const { step, input, seed } of given.steps) {
      this.#random = randomFrom(seed);
      const sequences = this.#values.filter((value) => value.positions > 0);
      this.#step(step, sequences[input % sequences.length]!);
    }
    this.#random = randomFrom(given.seed);
    const pooled = this.#values.map((value) => (value.positions === 0 ? value : this.#pooled(value)));
    this.#add(
      'concat',
      pooled,
      pooled.reduce((sum, value) => sum + value.dim, 0),
      0,
    );
  }

  #floats(length: number, scale = 1): Float32Array {
    return floatsOf(this.#random, length, scale);
  }

  #add(op: Layers[number]['op'], inputs: readonly Value[], dim: number, positions: number, more: Partial<Layers[number]> = {}): Value {
    const numbers = inputs.map(({ number }) => number);
    this.layers.push(layer(op, numbers, dim, 1, { positions, ...more }));
    const appended = positions === 0 ? 0 : inputs[0]!.appended + (op === 'append' ? 1 : 0);
    const value = { number: this.#values.length, dim, positions, appended };
    this.#values.push(value);
    return value;
  }

  #fc(input: Value, dim: number, activation: Layers[number]['activation'] = 'none'): Value {
    const tensors = [this.#floats(dim * input.dim, 1 / Math.sqrt(input.dim)), this.#floats(dim)];
    return this.#add('fc', [input], dim, input.positions, { tensors, activation });
  }

  /** Another value that is like it. */
  #like({ dim, positions, appended }: Value): Value {
    const alike = this.#values.filter((value) => value.dim === dim && value.positions === positions && value.appended === appended);
    return alike[below(this.#random, alike.length)]!;
  }

  #vectorOf(dim: number): Value {
    return this.#values.find((value) => value.positions === 0 && value.dim === dim) ?? this.#fc(this.#values[0]!, dim, 'tanh');
  }

  #step(step: (typeof SEQUENCE_STEPS)[number], input: Value): void {
    const { dim, positions } = input;
    const random = this.#random;
    const heads = dim % 2 === 0 ? 2 : 1;
    switch (step) {
      case 'fc':
        return void this.#fc(input, 1 + below(random, 9), (['none', 'relu', 'sigmoid', 'tanh', 'silu'] as const)[below(random, 5)]!);
      case 'sum':
      case 'product':
        return void this.#add(step, [input, this.#like(input)], dim, positions);
      case 'layer_norm':
        return void this.#add(step, [input], dim, positions, { tensors: [this.#floats(dim), this.#floats(dim)], epsilon: 0.1 });
      case 'append':
        return void this.#add(step, [input, this.#vectorOf(dim)], dim, positions + 1);
      case 'positions':
        return void this.#add(step, [input], dim, positions, { tensors: [this.#floats(positions * dim)] });
      case 'target':
        return void this.#add('weighted_pool', [input, this.#scores(input)], dim, 0);
      case 'gru':
      case 'augru': {
        const hidden = 1 + below(random, 8);
        const scores = step === 'augru' ? [this.#scores(input)] : [];
        const tensors = [this.#floats(3 * hidden * hidden, 1 / Math.sqrt(hidden)), this.#floats(3 * hidden)];
        return void this.#add(step, [this.#fc(input, 3 * hidden), ...scores], hidden, positions, { tensors });
      }
      case 'attention':
        return void this.#add(step, [this.#fc(input, 3 * dim)], dim, positions, { heads, causal: below(random, 2) === 0 });
      case 'hstu': {
        const tensors = [below(random, 2) === 0 ? null : this.#floats(2 * positions - 1)];
        const wide = this.#fc(input, 2 * dim + 2 * heads * (1 + below(random, 4)), 'silu');
        const causal = below(random, 2) === 0;
        return void this.#add('hstu_attention', [wide], dim, positions, { heads, causal, normalizer: positions, epsilon: 0.1, tensors });
      }
    }
  }

  #scores(input: Value): Value {
    const features = FEATURES.filter(() => below(this.#random, 2) === 0);
    if (features.length === 0) features.push('product');
    const tensors = [this.#floats(5 * features.length * input.dim, 1 / Math.sqrt(input.dim)), this.#floats(5)];
    const hidden = this.#add('query_key', [input, this.#vectorOf(input.dim)], 5, input.positions, {
      features,
      tensors,
      activation: 'tanh',
    });
    const scores = this.#fc(hidden, 1, 'sigmoid');
    return below(this.#random, 2) === 0 ? scores : this.#add('sequence_softmax', [scores], 1, input.positions);
  }

  #pooled(value: Value): Value {
    const how = below(this.#random, SEQUENCE_POOLINGS.length + 1);
    if (how === SEQUENCE_POOLINGS.length) return this.#add('flatten', [value], value.dim * value.positions, 0);
    return this.#add('sequence_pool', [value], value.dim, 0, { pooling: SEQUENCE_POOLINGS[how]! });
  }
}

test('random nets of layers over sequences give what their definitions give in float64', () => {
  fc.assert(
    fc.property(fc.constantFrom(...availableKernels), fc.array(nets, { minLength: 4, maxLength: 12 }), (isa, drawn) => {
      const jobs = drawn.map((given): NetJob => {
        const { dim, positions, items, vectorPerItem, sequencesPerItem, seed } = given;
        const { layers } = new RandomNet(given);
        const inputs = { inputDims: [dim, dim, dim], inputPositions: [0, positions, positions], numDense: 1 };
        const net = { ...inputs, layers, output: 2 + layers.length, runs: [] };
        const random = randomFrom(seed);
        const own = [vectorPerItem, sequencesPerItem, sequencesPerItem];
        return { ...net, runs: [{ ...runOf(random, net, items, own, lengths(random)), stages: [1] }] };
      });
      runJobs(isa, { tables: [], nets: jobs }).nets.forEach(({ outs, error }, n) => {
        expect(error, `net ${n}`).toBeUndefined();
        const net = jobs[n]!;
        const { items, outLength } = net.runs[0]!;
        for (let item = 0; item < items; item++) {
          const want = itemScores(net.layers, net.output, itemOf(net, net.runs[0]!, item));
          expect(want).toHaveLength(outLength / items);
          want.forEach((value, d) => {
            const got = outs![0]![item * want.length + d]!;
            if (!(Math.abs(got - value) <= 2e-4 * (1 + Math.abs(value))))
              expect.fail(`net ${n}, item ${item}, value ${d}: ${got}, want ${value}`);
          });
        }
      });
    }),
    { numRuns: 25 },
  );
});

test('items of a group have the bits that they have in a run of their own', () => {
  const grouped = fc.record({
    sizes: fc.array(fc.constantFrom(1, 2, 5, 40), { minLength: 1, maxLength: 9 }),
    threads: fc.constantFrom(1, 3),
  });
  fc.assert(
    fc.property(
      fc.constantFrom(...availableKernels),
      fc.array(nets, { minLength: 4, maxLength: 12 }),
      grouped,
      (isa, drawn, { sizes, threads }) => {
        const jobs = drawn.map((given): NetJob => {
          const { dim, positions, vectorPerItem, sequencesPerItem, seed } = given;
          const { layers } = new RandomNet(given);
          const inputs = { inputDims: [dim, dim, dim], inputPositions: [0, positions, positions], numDense: 1 };
          const net = { ...inputs, layers, output: 2 + layers.length, runs: [] };
          const random = randomFrom(seed);
          const own = [vectorPerItem, sequencesPerItem, sequencesPerItem];
          const runs = sizes.map((items) => ({ ...runOf(random, net, items, own, lengths(random)), stages: [1] }));
          return { ...net, runs: [merged(net, runs), ...runs] };
        });
        for (const { outs, error } of runJobs(isa, { tables: [], nets: jobs }, threads).nets) {
          const [together, ...alone] = outs ?? expect.fail(error?.message);
          expect(Buffer.compare(bytesOf(together!), Buffer.concat(alone.map(bytesOf)))).toBe(0);
        }
      },
    ),
    { numRuns: 40 },
  );
});

test('a sequence whose rows are a page apart gives the same once for all items and repeated', () => {
  const [dim, positions, items] = [1024, 3, 2];
  const net: NetJob = {
    ...{ inputDims: [1, dim], inputPositions: [0, positions], numDense: 1, output: 3, runs: [] },
    layers: [layer('sequence_pool', [1], dim, 1, { pooling: 'sum' }), layer('concat', [0, 2], dim + 1, 1)],
  };
  const once = { ...runOf(randomFrom(5), net, items, [true, false], () => positions), stages: [1] };
  const repeated = {
    ...once,
    perItem: Uint8Array.of(1, 1),
    pooled: Float32Array.of(...once.pooled, ...once.pooled),
    lengths: Uint32Array.of(positions, positions),
  };
  for (const isa of availableKernels) {
    const { outs, error } = runJobs(isa, { tables: [], nets: [{ ...net, runs: [once, repeated] }] }).nets[0]!;
    const [one, each] = outs ?? expect.fail(error?.message);
    expect(Buffer.compare(bytesOf(one!), bytesOf(each!))).toBe(0);
    expect(one![1]).not.toBe(0);
  }
});
