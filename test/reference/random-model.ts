import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { randomRows, SeededNumbers } from '../../src/lab/generate/synthetic-values.js';
import { DENSE_FILE, writeModelJson } from '../../src/model/bundle.js';
import { dtypeOf } from '../../src/model/formats.js';
import { type FileSpec, type ModelSpec, modelSchema } from '../../src/model/spec.js';
import type { BagsInput, PredictRequest } from '../../src/predictor/predictor.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';
import { random } from './small-model.js';

const FORMATS = ['fp32', 'fp16', 'bf16'] as const;
const DENSE_DIM = 3;
const HIDDEN = 8;
/** Rows of the one table that holds about half of all bytes. */
const LARGE_ROWS = 900;

/**
 * A model that follows from its seed: one large table and some small ones, of any plain format and dim, read by random bags (sum, mean, weighted;
 * some tables by several, across nets too) of two nets, the second of which reads the score of the first. dir must not hold a bundle.
 */
export async function writeRandomModel(dir: string, seed: number): Promise<ModelSpec> {
  const next = random(seed);
  const pick = (most: number): number => Math.floor(next() * most);
  const numTables = 5 + pick(4);
  const tables = Array.from({ length: numTables }, (_, at) => ({
    name: `t${at}`,
    rows: at === 0 ? LARGE_ROWS : 1 + pick(120),
    dim: at === 0 ? 24 : 1 + pick(40),
    format: FORMATS[at === 0 ? 0 : pick(3)] as (typeof FORMATS)[number],
    file: `tables/t${at}.safetensors`,
    tensor: 'w',
  }));
  // Every table has a bag; a few have another one, in either net.
  const readers = [...tables.keys(), ...Array.from({ length: 4 }, () => pick(numTables))];
  const bags = readers.map((table, at) => ({
    type: 'embedding_bag',
    name: `bag${at}`,
    table: `t${table}`,
    pooling: pick(2) === 0 ? 'sum' : 'mean',
    weighted: pick(3) === 0,
    side: pick(2) === 0 ? 'user' : 'item',
    poolingFactor: 1 + pick(6),
  }));
  const nets = [0, 1].map((net) => bags.filter((_, at) => at % 2 === net));
  const dims = new Map(tables.map(({ name, dim }) => [name, dim]));
  const width = (net: number): number => (nets[net] ?? []).reduce((sum, { table }) => sum + (dims.get(table) ?? 0), DENSE_DIM + net);
  const fc = (name: string, input: string, activation: string) => ({ type: 'fc', name, input, weight: name, activation });
  await mkdir(join(dir, 'tables'), { recursive: true });
  const numbers = new SeededNumbers(seed);
  const files: Record<string, FileSpec> = {};
  for (const { file, tensor: name, rows, dim, format } of tables) {
    const data = randomRows(format, rows * dim, -1, numbers);
    files[file] = await writeSafetensors(join(dir, file), [{ name, dtype: dtypeOf(format), shape: [rows, dim], data }]);
  }
  const weights = [0, 1].flatMap((net) => [
    { name: `hidden${net}`, shape: [HIDDEN, width(net)] },
    { name: `score${net}`, shape: [1, HIDDEN] },
  ]);
  files[DENSE_FILE] = await writeSafetensors(
    join(dir, DENSE_FILE),
    weights.map(({ name, shape }) => {
      const values = new Float32Array((shape[0] as number) * (shape[1] as number));
      numbers.fill(values, 0.25);
      return { name, dtype: 'F32', shape, data: new Uint8Array(values.buffer) };
    }),
  );
  const spec = modelSchema.parse({
    terabag: 1,
    name: `random-${seed}`,
    version: '1',
    dense: [{ name: 'dense', dim: DENSE_DIM }],
    tables,
    nets: nets.map((own, net) => ({
      name: `net${net}`,
      layers: [
        ...own,
        { type: 'concat', name: `all${net}`, inputs: ['dense', ...(net === 1 ? ['score0'] : []), ...own.map(({ name }) => name)] },
        fc(`hidden${net}`, `all${net}`, 'relu'),
        fc(`score${net}`, `hidden${net}`, 'none'),
      ],
    })),
    output: 'score1',
    files,
  });
  await writeModelJson(dir, spec);
  return spec;
}

/** A request for any model of bags and dense features; bags of the user are given once. */
export function randomRequest(spec: ModelSpec, next: () => number, items: number): PredictRequest {
  const rows = new Map(spec.tables.map((table) => [table.name, table.rows]));
  const sparse: Record<string, BagsInput> = {};
  for (const layer of spec.nets.flatMap(({ layers }) => layers)) {
    if (layer.type !== 'embedding_bag') continue;
    const offsets = [0];
    for (let bag = 0; bag < (layer.side === 'user' ? 1 : items); bag++)
      offsets.push((offsets.at(-1) as number) + Math.floor(next() * 2 * (layer.poolingFactor ?? 1)));
    const indices = Array.from({ length: offsets.at(-1) as number }, () => Math.floor(next() * (rows.get(layer.table) ?? 1)));
    sparse[layer.name] = { indices, offsets, ...(layer.weighted && { weights: indices.map(() => next() * 2 - 1) }) };
  }
  const dense = Object.fromEntries(spec.dense.map(({ name, dim }) => [name, Array.from({ length: items * dim }, () => next() - 0.5)]));
  return { items, dense, sparse };
}
