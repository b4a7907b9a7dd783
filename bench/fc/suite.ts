import { type NativeLayer, native } from '../../src/engine/native.js';
import { SeededNumbers } from '../../src/workload/synthetic-values.js';
import { alternate, median, type Row, relativeSpread, type Suite } from '../suite.js';
import { fcBatches, fcNets } from './trials.js';

export const fcSuite: Suite = {
  name: 'fc',
  description: 'fully connected layers with bias and ReLU on one core, weights packed once',
  columns: {
    us: 'median over rounds of the time per batch',
    'GFLOP/s': 'a multiply and an add per weight and item, over that time',
    spread: 'half the distance of the quartiles over the median',
  },
  async *run({ quick }) {
    const [rounds, roundMs] = quick ? [3, 20] : [15, 60];
    const trials = fcNets.flatMap(({ name, dims }) =>
      fcBatches.map((batch) => ({
        name,
        dims,
        batch,
        flops: 2 * batch * dims.slice(1).reduce((sum, dim, l) => sum + dim * (dims[l] as number), 0),
      })),
    );
    const samples = alternate(
      trials.map(({ dims, batch }) => prepare(dims, batch)),
      rounds,
      roundMs,
    );
    for (const [index, { name, dims, batch, flops }] of trials.entries()) {
      const ns = median(samples[index] ?? []);
      yield {
        trial: `${name}-batch${batch}`,
        us: ns / 1000,
        'GFLOP/s': flops / ns,
        spread: relativeSpread(samples[index] ?? []),
        description: dims.join('-'),
      } satisfies Row;
    }
  },
};

function prepare(dims: readonly number[], batch: number): () => void {
  const numbers = new SeededNumbers(3);
  const random = (length: number): Float32Array => {
    const values = new Float32Array(length);
    numbers.fill(values, 0.1);
    return values;
  };
  const layers = dims.slice(1).map(
    (dim, layer): NativeLayer => ({
      op: 'fc',
      inputs: [layer],
      dim,
      stage: 0,
      activation: 'relu',
      diagonal: false,
      weight: random(dim * (dims[layer] as number)),
      bias: random(dim),
    }),
  );
  const net = new native.DenseNet([dims[0] as number], 1, layers, layers.length);
  const workspace = net.createWorkspace();
  const perItem = Uint8Array.of(1);
  const input = random(batch * (dims[0] as number));
  return () => net.runSync(workspace, 0, batch, perItem, input, null, null);
}
