import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeModelJson } from '../../src/model/bundle.js';
import { modelSchema } from '../../src/model/spec.js';
import type { PredictRequest } from '../../src/predictor/predictor.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';

/** Small deterministic generator (Park and Miller's), good enough for weights. */
export function random(seed: number): () => number {
  let state = seed % 2147483647 || 1;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

export const DIM = 12;
export const DENSE = 5;
export const ROWS = [50, 7, 200];

export interface SmallModel {
  readonly dir: string;
  readonly tables: readonly Float32Array[];
  readonly weights: ReadonlyMap<string, { shape: number[]; data: Float32Array }>;
}

/** Writes a DLRM: sum, mean and weighted bags, bottom layer, interaction, top layer. */
export async function writeSmallModel(seed: number): Promise<SmallModel> {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
  await mkdir(join(dir, 'tables'));
  const next = random(seed);
  const values = (length: number): Float32Array => Float32Array.from({ length }, () => next() - 0.5);
  const bytes = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer);
  const files: Record<string, unknown> = {};
  const tables = ROWS.map((rows) => values(rows * DIM));
  for (const [t, rows] of ROWS.entries()) {
    files[`tables/t${t}.safetensors`] = await writeSafetensors(join(dir, `tables/t${t}.safetensors`), [
      { name: 'weight', dtype: 'F32', shape: [rows, DIM], data: bytes(tables[t] as Float32Array) },
    ]);
  }
  const pairs = DIM + (4 * 3) / 2;
  const weights = new Map(
    Object.entries({ 'bottom.weight': [DIM, DENSE], 'bottom.bias': [DIM], 'top.weight': [1, pairs], 'top.bias': [1] }).map(
      ([name, shape]) => [name, { shape, data: values(shape.reduce((a, b) => a * b, 1)) }],
    ),
  );
  files['dense.safetensors'] = await writeSafetensors(
    join(dir, 'dense.safetensors'),
    [...weights].map(([name, { shape, data }]) => ({ name, dtype: 'F32', shape, data: bytes(data) })),
  );
  await writeModelJson(
    dir,
    modelSchema.parse({
      terabag: 1,
      name: 'small',
      version: '1',
      dense: [{ name: 'dense', dim: DENSE }],
      tables: ROWS.map((rows, t) => ({
        name: `t${t}`,
        rows,
        dim: DIM,
        format: 'fp32',
        file: `tables/t${t}.safetensors`,
        tensor: 'weight',
      })),
      nets: [
        {
          name: 'net',
          layers: [
            { type: 'embedding_bag', name: 'sum', table: 't0' },
            { type: 'embedding_bag', name: 'mean', table: 't1', pooling: 'mean' },
            { type: 'embedding_bag', name: 'weighted', table: 't2', weighted: true },
            { type: 'fc', name: 'bottom', input: 'dense', weight: 'bottom.weight', bias: 'bottom.bias', activation: 'relu' },
            { type: 'dot_interaction', name: 'interaction', inputs: ['bottom', 'sum', 'mean', 'weighted'] },
            { type: 'fc', name: 'top', input: 'interaction', weight: 'top.weight', bias: 'top.bias', activation: 'sigmoid' },
          ],
        },
      ],
      output: 'top',
      files,
    }),
  );
  return { dir, tables, weights };
}

export function smallRequest(next: () => number, items: number): PredictRequest {
  const bags = (rows: number, count: number) => {
    const lengths = Array.from({ length: count }, () => Math.floor(next() * 6));
    const offsets = [0, ...lengths.map((_, b) => lengths.slice(0, b + 1).reduce((a, c) => a + c, 0))];
    return { indices: Int32Array.from({ length: offsets.at(-1) as number }, () => Math.floor(next() * rows)), offsets };
  };
  const weighted = bags(200, 1);
  return {
    items,
    dense: { dense: Float32Array.from({ length: items * DENSE }, () => next() * 2 - 1) },
    sparse: {
      sum: bags(50, items),
      mean: bags(7, items),
      weighted: { ...weighted, weights: Float32Array.from(weighted.indices, () => next()) },
    },
  };
}

/** Scores in float64, one plain loop a layer, sharing no code with src/. */
export function referenceScores(model: SmallModel, request: PredictRequest, items: number): number[] {
  const pool = (table: number, name: string, item: number): number[] => {
    const { indices, offsets, weights } = request.sparse[name] as { indices: Int32Array; offsets: number[]; weights?: Float32Array };
    const bag = offsets.length === 2 ? 0 : item;
    const [from, to] = [offsets[bag] as number, offsets[bag + 1] as number];
    return Array.from({ length: DIM }, (_, d) => {
      let sum = 0;
      for (let i = from; i < to; i++)
        sum += (weights?.[i] ?? 1) * ((model.tables[table] as Float32Array)[(indices[i] as number) * DIM + d] as number);
      return name === 'mean' && to > from ? sum / (to - from) : sum;
    });
  };
  const fc = (name: string, x: number[]): number[] => {
    const { shape, data } = model.weights.get(`${name}.weight`) as { shape: number[]; data: Float32Array };
    const bias = (model.weights.get(`${name}.bias`) as { data: Float32Array }).data;
    return Array.from({ length: shape[0] as number }, (_, n) =>
      x.reduce((sum, value, k) => sum + value * (data[n * x.length + k] as number), bias[n] as number),
    );
  };
  return Array.from({ length: items }, (_, item) => {
    const dense = Array.from((request.dense['dense'] as Float32Array).subarray(item * DENSE, (item + 1) * DENSE));
    const vectors = [
      fc('bottom', dense).map((value) => Math.max(0, value)),
      pool(0, 'sum', item),
      pool(1, 'mean', item),
      pool(2, 'weighted', item),
    ];
    const dots = vectors.flatMap((a, i) => vectors.slice(0, i).map((b) => a.reduce((sum, value, d) => sum + value * (b[d] as number), 0)));
    return 1 / (1 + Math.exp(-(fc('top', [...(vectors[0] as number[]), ...dots])[0] as number)));
  });
}
