import { join } from 'node:path';
import { type NativeLayer, native } from '../src/engine/native.js';
import { SeededNumbers } from '../src/lab/generate/synthetic-values.js';
import { FEATURES, NO_ATTRIBUTES } from '../src/model/ops.js';
import { startOnnx } from './peers/onnx.js';
import { python, startPeer } from './peers/process.js';
import { type Absent, type Contender, type Line, measure, nanosecondsPerCall, type Suite, type SuiteOptions } from './suite.js';

const [POSITIONS, DIM, HEADS] = [50, 64, 2];
/** Of the MLP that scores a position. */
const UNIT = [80, 40, 1];

interface Case {
  readonly what: 'din' | 'self-attention';
  readonly batch: number;
  /** Whose the sequence is: one for all items of a batch, or one each. */
  readonly side: 'user' | 'item';
}
const CASES: readonly Case[] = [
  { what: 'din', batch: 64, side: 'user' },
  { what: 'din', batch: 64, side: 'item' },
  { what: 'self-attention', batch: 1, side: 'item' },
  { what: 'self-attention', batch: 64, side: 'item' },
];
const nameOf = ({ what, batch, side }: Case): string => `${what}-b${batch}${what === 'din' ? `-${side}` : ''}`;

export const attentionSuite: Suite = {
  name: 'attention',
  description: `DIN's attention and self attention over ${POSITIONS} positions of dim ${DIM} on one core; time per batch`,
  async *run(options) {
    for (const given of CASES) if (options.wanted.test(nameOf(given))) yield* runCase(given, options);
  },
};

async function* runCase(given: Case, { peers, rounds, quick, dir }: SuiteOptions): AsyncGenerator<Line> {
  const { what, batch, side } = given;
  const task = { what, batch, sequences: side === 'user' ? 1 : batch, positions: POSITIONS, dim: DIM, heads: HEADS, unit: UNIT };
  const contenders: (Contender | Absent)[] = [ours(given)];
  if (peers) {
    contenders.push(await startPeer('torch', python('torch_attention.py', 'torch'), task));
    const path = join(dir, `${nameOf(given)}.onnx`);
    const sequence = { name: 'sequence', type: 'float32' as const, shape: [task.sequences, POSITIONS, DIM] };
    const query = { name: 'query', type: 'float32' as const, shape: [batch, DIM] };
    contenders.push(await startOnnx({ ...task, path }, what === 'din' ? [sequence, query] : [sequence]));
  }
  const params = { batch, side, positions: POSITIONS, dim: DIM, ...(what === 'din' ? { unit: UNIT.join('-') } : { heads: HEADS }) };
  const described = { suite: 'attention', name: nameOf(given), params, metric: 'time per batch', unit: 'us', roundMs: quick ? 20 : 100 };
  yield* await measure({ ...described, fromNs: (ns) => ns / 1000 }, contenders, rounds);
}

const numbers = new SeededNumbers(5);
const random = (length: number): Float32Array => {
  const values = new Float32Array(length);
  numbers.fill(values, 0.1);
  return values;
};

/** Inputs are a query and a sequence; a batch of self attention gives the sum of its positions. */
function ours({ what, batch, side }: Case): Contender {
  const layers = what === 'din' ? dinLayers() : selfAttentionLayers();
  const net = new native.DenseNet([DIM, DIM], 1, layers, layers.length + 1, 'fp32', [0, POSITIONS]);
  const workspace = net.createWorkspace();
  const rows = side === 'user' ? 1 : batch;
  const [query, sequence, out] = [random(batch * DIM), random(rows * POSITIONS * DIM), new Float32Array(batch * DIM)];
  const lengths = new Uint32Array(rows).fill(POSITIONS);
  const perItem = Uint8Array.of(1, side === 'user' ? 0 : 1);
  const run = (): void => net.runSync(workspace, 1, batch, perItem, query, sequence, lengths, out);
  return { peer: null, round: (ms) => nanosecondsPerCall(run, ms), residency: 'none' };
}

const layer = (op: NativeLayer['op'], inputs: number[], dim: number, more: Partial<NativeLayer>): NativeLayer => ({
  ...NO_ATTRIBUTES,
  ...{ op, inputs, dim, stage: 1, positions: POSITIONS },
  ...more,
});
const weights = (outputs: number, inputs: number): Float32Array[] => [random(outputs * inputs), random(outputs)];

function dinLayers(): NativeLayer[] {
  const [first, second, last] = UNIT as [number, number, number];
  return [
    layer('query_key', [1, 0], first, { features: FEATURES, activation: 'sigmoid', tensors: weights(first, FEATURES.length * DIM) }),
    layer('fc', [2], second, { activation: 'sigmoid', tensors: weights(second, first) }),
    layer('fc', [3], last, { tensors: weights(last, second) }),
    layer('weighted_pool', [1, 4], DIM, { positions: 0 }),
  ];
}

const selfAttentionLayers = (): NativeLayer[] => [
  layer('fc', [1], 3 * DIM, { tensors: weights(3 * DIM, DIM) }),
  layer('attention', [2], DIM, { heads: HEADS }),
  layer('fc', [3], DIM, { tensors: weights(DIM, DIM) }),
  layer('sequence_pool', [4], DIM, { positions: 0, pooling: 'sum' }),
];
