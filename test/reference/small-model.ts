import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeModelJson } from '../../src/model/bundle.js';
import { modelSchema } from '../../src/model/spec.js';
import type { BagsInput, PredictRequest } from '../../src/predictor/predictor.js';
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

export interface SmallModelOptions {
  readonly format?: 'fp32' | 'fp16' | 'bf16';
  /** Rounds the tables to multiples of 1/128, which every format holds exactly; always so when the format is not fp32. */
  readonly exact?: boolean;
  /** Activation of the top layer; default sigmoid. */
  readonly activation?: 'sigmoid' | 'none';
  readonly version?: string;
  /** Of the three tables; default ROWS. */
  readonly rows?: readonly number[];
}

const DTYPES = { fp32: 'F32', fp16: 'F16', bf16: 'BF16' } as const;

/** Bits of a multiple of 1/128 between -1 and 1. */
function halfBits(value: number, format: 'fp16' | 'bf16'): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] as number;
  if (format === 'bf16' || value === 0) return bits >>> 16;
  return ((bits >>> 16) & 0x8000) | ((((bits >>> 23) & 0xff) - 112) << 10) | ((bits >>> 13) & 0x3ff);
}

/** Writes a DLRM: sum, mean and weighted bags, bottom layer, interaction, top layer. */
export async function writeSmallModel(seed: number, options: SmallModelOptions = {}): Promise<SmallModel> {
  const { format = 'fp32', exact = false, activation = 'sigmoid', version = '1', rows: tableRows = ROWS } = options;
  const dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
  await mkdir(join(dir, 'tables'));
  const next = random(seed);
  const values = (length: number): Float32Array => Float32Array.from({ length }, () => next() - 0.5);
  const bytes = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer);
  const files: Record<string, unknown> = {};
  const tables = tableRows.map((rows) => values(rows * DIM));
  if (exact || format !== 'fp32') for (const table of tables) table.forEach((value, at) => (table[at] = Math.round(value * 128) / 128));
  const stored = (table: Float32Array): Uint8Array =>
    format === 'fp32' ? bytes(table) : new Uint8Array(Uint16Array.from(table, (value) => halfBits(value, format)).buffer);
  for (const [t, rows] of tableRows.entries()) {
    files[`tables/t${t}.safetensors`] = await writeSafetensors(join(dir, `tables/t${t}.safetensors`), [
      { name: 'weight', dtype: DTYPES[format], shape: [rows, DIM], data: stored(tables[t] as Float32Array) },
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
      version,
      dense: [{ name: 'dense', dim: DENSE }],
      tables: tableRows.map((rows, t) => ({
        name: `t${t}`,
        rows,
        dim: DIM,
        format,
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
            { type: 'fc', name: 'top', input: 'interaction', weight: 'top.weight', bias: 'top.bias', activation },
          ],
        },
      ],
      output: 'top',
      files,
    }),
  );
  return { dir, tables, weights };
}

export function smallRequest(next: () => number, items: number, [sum = 0, mean = 0, user = 0]: readonly number[] = ROWS): PredictRequest {
  const bags = (rows: number, count: number) => {
    const lengths = Array.from({ length: count }, () => Math.floor(next() * 6));
    const offsets = [0, ...lengths.map((_, b) => lengths.slice(0, b + 1).reduce((a, c) => a + c, 0))];
    return { indices: Int32Array.from({ length: offsets.at(-1) as number }, () => Math.floor(next() * rows)), offsets };
  };
  const weighted = bags(user, 1);
  return {
    items,
    dense: { dense: Float32Array.from({ length: items * DENSE }, () => next() * 2 - 1) },
    sparse: {
      sum: bags(sum, items),
      mean: bags(mean, items),
      weighted: { ...weighted, weights: Float32Array.from(weighted.indices, () => next()) },
    },
  };
}

/** Scores in float64, one plain loop a layer, sharing no code with src/. */
export function referenceScores(model: SmallModel, request: PredictRequest, items: number): number[] {
  return scoresOf(model, request, items, (value) => value).map((score) => 1 / (1 + Math.exp(-score)));
}

/** The scores of a model without activation on top, and the sums of the absolute values of what they add up: rounding errors are relative to these. */
export function referenceLogits(model: SmallModel, request: PredictRequest, items: number): { logits: number[]; scales: number[] } {
  return { logits: scoresOf(model, request, items, (value) => value), scales: scoresOf(model, request, items, Math.abs) };
}

function scoresOf(model: SmallModel, request: PredictRequest, items: number, read: (value: number) => number): number[] {
  const f32 = (values: ArrayLike<number>, at: number): number => read(Math.fround(values[at] as number));
  const pool = (table: number, name: string, item: number): number[] => {
    const { indices, offsets, weights } = request.sparse[name] as BagsInput;
    const bag = offsets.length === 2 ? 0 : item;
    const [from, to] = [Number(offsets[bag]), Number(offsets[bag + 1])];
    return Array.from({ length: DIM }, (_, d) => {
      let sum = 0;
      for (let i = from; i < to; i++)
        sum += (weights === undefined ? 1 : f32(weights, i)) * f32(model.tables[table] as Float32Array, Number(indices[i]) * DIM + d);
      return name === 'mean' && to > from ? sum / (to - from) : sum;
    });
  };
  const fc = (name: string, x: number[]): number[] => {
    const { shape, data } = model.weights.get(`${name}.weight`) as { shape: number[]; data: Float32Array };
    const bias = (model.weights.get(`${name}.bias`) as { data: Float32Array }).data;
    return Array.from({ length: shape[0] as number }, (_, n) =>
      x.reduce((sum, value, k) => sum + value * f32(data, n * x.length + k), f32(bias, n)),
    );
  };
  const given = request.dense['dense'] as ArrayLike<number>;
  return Array.from({ length: items }, (_, item) => {
    const dense = Array.from({ length: DENSE }, (__, k) => f32(given, given.length === DENSE ? k : item * DENSE + k));
    const vectors = [
      fc('bottom', dense).map((value) => Math.max(0, value)),
      pool(0, 'sum', item),
      pool(1, 'mean', item),
      pool(2, 'weighted', item),
    ];
    const dots = vectors.flatMap((a, i) => vectors.slice(0, i).map((b) => a.reduce((sum, value, d) => sum + value * (b[d] as number), 0)));
    return fc('top', [...(vectors[0] as number[]), ...dots])[0] as number;
  });
}
