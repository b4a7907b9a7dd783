import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { finishBundle } from '../../src/model/bundle.js';
import { modelSchema } from '../../src/model/spec.js';
import type { PredictRequest } from '../../src/predictor/predictor.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';
import { random } from './small-model.js';

/** A table, and the bag of its name that reads it: so many ids an item, or of the user. */
export interface Feature {
  readonly name: string;
  readonly rows: number;
  readonly ids: number;
  readonly side: 'user' | 'item';
  /** Whether ids beyond the rows are let pass. */
  readonly unseen?: boolean;
}

const DIM = 16;

/** Writes a model of one bag a table, and a layer over all of them; returns its directory. */
export async function writeFeatureModel(features: readonly Feature[], { name = 'features', seed = 1 } = {}): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
  await mkdir(join(dir, 'tables'));
  const next = random(seed);
  const write = (file: string, tensors: readonly { name: string; shape: number[] }[]) =>
    writeSafetensors(
      join(dir, file),
      tensors.map(({ name: tensorName, shape }) => {
        const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() - 0.5);
        return { name: tensorName, dtype: 'F32' as const, shape, data: new Uint8Array(data.buffer) };
      }),
    );
  const files: Record<string, unknown> = {};
  for (const [t, { rows }] of features.entries())
    files[`tables/t${t}.safetensors`] = await write(`tables/t${t}.safetensors`, [{ name: 'weight', shape: [rows, DIM] }]);
  const width = DIM * features.length;
  files['dense.safetensors'] = await write('dense.safetensors', [
    { name: 'hidden.weight', shape: [64, width] },
    { name: 'hidden.bias', shape: [64] },
    { name: 'top.weight', shape: [1, 64] },
    { name: 'top.bias', shape: [1] },
  ]);
  const spec = modelSchema.parse({
    terabag: 1,
    ...{ name, version: '1', dense: [] },
    tables: features.map((feature, t) => ({
      ...{ name: feature.name, rows: feature.rows, dim: DIM, format: 'fp32', file: `tables/t${t}.safetensors`, tensor: 'weight' },
      ...(feature.unseen && { unseen: { policy: 'zero' } }),
    })),
    nets: [
      {
        name: 'net',
        layers: [
          ...features.map((feature) => ({ type: 'embedding_bag', name: feature.name, table: feature.name })),
          { type: 'concat', name: 'all features', inputs: features.map((feature) => feature.name) },
          { type: 'fc', name: 'hidden', input: 'all features', weight: 'hidden.weight', bias: 'hidden.bias', activation: 'relu' },
          { type: 'fc', name: 'top', input: 'hidden', weight: 'top.weight', bias: 'top.bias', activation: 'sigmoid' },
        ],
      },
    ],
    output: 'top',
    files,
  });
  await finishBundle(dir, spec);
  return dir;
}

/** A request for some items, as JSON takes it: small ids come more often than large ones, and a hundredth of those of some tables was not seen. */
export function featureRequest(features: readonly Feature[], next: () => number, items: number): PredictRequest {
  const sparse = Object.fromEntries(
    features.map(({ name, rows, ids, side, unseen = false }) => {
      const bags = side === 'user' ? 1 : items;
      const id = () => (unseen && next() < 0.01 ? rows + Math.floor(next() * rows) : Math.floor(rows * next() ** 4));
      return [name, { indices: Array.from({ length: bags * ids }, id), offsets: Array.from({ length: bags + 1 }, (_, bag) => bag * ids) }];
    }),
  );
  return { items, dense: {}, sparse };
}
