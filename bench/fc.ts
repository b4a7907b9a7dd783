import { join } from 'node:path';
import { type NativeLayer, native } from '../src/engine/native.js';
import { SeededNumbers } from '../src/lab/generate/synthetic-values.js';
import { NO_ATTRIBUTES } from '../src/model/ops.js';
import { startOnnx } from './peers/onnx.js';
import { binary, startPeer } from './peers/process.js';
import { type Absent, type Contender, type Line, measure, nanosecondsPerCall, perWork, type Suite, type SuiteOptions } from './suite.js';

const NETS: readonly (readonly number[])[] = [
  [13, 512, 256, 64],
  [415, 512, 512, 256, 1],
  [1024, 1024],
  [479, 1024, 1024, 512, 256, 1],
];
const BATCHES = [1, 8, 32, 128, 2048];
const nameOf = (dims: readonly number[]): string => `${dims.length === 2 ? 'fc' : 'mlp'}-${dims.join('-')}`;

export const fcSuite: Suite = {
  name: 'fc',
  description: 'fully connected layers with bias and ReLU on one core, weights packed once; time per batch',
  async *run(options) {
    for (const dims of NETS) {
      for (const batch of BATCHES) if (options.wanted.test(`${nameOf(dims)}-b${batch}`)) yield* runCase(dims, batch, options);
    }
  },
};

async function* runCase(dims: readonly number[], batch: number, { peers, rounds, quick, dir }: SuiteOptions): AsyncGenerator<Line> {
  const gflop = (2 * batch * dims.slice(1).reduce((sum, dim, l) => sum + dim * (dims[l] as number), 0)) / 1e9;
  const contenders: (Contender | Absent)[] = [
    ours(dims, batch),
    perWork(await startPeer('limit', binary('limits'), { what: 'fma' }), gflop),
  ];
  if (peers) {
    contenders.push(await startPeer('onednn', binary('onednn'), { what: 'fc', dims, batch }));
    contenders.push(await startPeer('openblas', binary('openblas'), { what: 'fc', dims, batch }));
    const path = join(dir, `${nameOf(dims)}.onnx`);
    contenders.push(await startOnnx({ what: 'mlp', dims, path }, [{ name: 'x', type: 'float32', shape: [batch, dims[0] as number] }]));
  }
  const params = { dims: dims.join('-'), batch, gflop };
  const described = {
    suite: 'fc',
    name: `${nameOf(dims)}-b${batch}`,
    params,
    metric: 'time per batch',
    unit: 'us',
    roundMs: quick ? 20 : 100,
  };
  yield* await measure({ ...described, fromNs: (ns) => ns / 1000 }, contenders, rounds);
}

function ours(dims: readonly number[], batch: number): Contender {
  const numbers = new SeededNumbers(3);
  const random = (length: number): Float32Array => {
    const values = new Float32Array(length);
    numbers.fill(values, 0.1);
    return values;
  };
  const layers = dims.slice(1).map(
    (dim, layer): NativeLayer => ({
      ...NO_ATTRIBUTES,
      ...{ op: 'fc', inputs: [layer], dim, stage: 0, activation: 'relu' },
      tensors: [random(dim * (dims[layer] as number)), random(dim)],
    }),
  );
  const net = new native.DenseNet([dims[0] as number], 1, layers, layers.length);
  const workspace = net.createWorkspace();
  const perItem = Uint8Array.of(1);
  const input = random(batch * (dims[0] as number));
  const run = (): void => net.runSync(workspace, 0, batch, perItem, input, null, null, null);
  return { peer: null, round: (ms) => nanosecondsPerCall(run, ms), residency: 'none' };
}
