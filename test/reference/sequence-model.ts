import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeModelJson } from '../../src/model/bundle.js';
import { modelSchema } from '../../src/model/spec.js';
import type { BagsInput, PredictRequest } from '../../src/predictor/predictor.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';
import { random } from './small-model.js';

const DIM = 3;
const ROWS = [50, 7, 200];

/** A layer that reads ids: a sequence where it has a maxLength, else a bag. */
export interface Reader {
  readonly name: string;
  readonly table: number;
  readonly net: number;
  readonly pooling?: 'sum' | 'max' | 'weighted_mean';
  readonly maxLength?: number;
  readonly truncate?: 'first' | 'last';
}

/** Two nets, with sequences and bags of one table, and of a table that sequences alone read. */
export const READERS: readonly Reader[] = [
  { name: 'history', table: 2, net: 0, maxLength: 5 },
  { name: 'largest', table: 1, net: 0, pooling: 'max' },
  { name: 'first', table: 0, net: 0, maxLength: 1, truncate: 'first' },
  { name: 'weighted', table: 2, net: 1, pooling: 'weighted_mean' },
  { name: 'clicks', table: 2, net: 1, maxLength: 3, truncate: 'first' },
  { name: 'late', table: 1, net: 1, maxLength: 4, truncate: 'last' },
];
export const rowsOf = ({ table }: Reader): number => ROWS[table] as number;

export interface SequenceModel {
  readonly dir: string;
  readonly tables: readonly Float32Array[];
}

/** Whose scores are all positions of its sequences, their last ones, and the vectors of its bags. */
export async function writeSequenceModel(seed: number): Promise<SequenceModel> {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
  await mkdir(join(dir, 'tables'));
  const next = random(seed);
  // Exact in float32, and so are sums of some of them in any order.
  const tables = ROWS.map((rows) => Float32Array.from({ length: rows * DIM }, () => Math.round((next() - 0.5) * 512) / 128));
  const files: Record<string, unknown> = {};
  for (const [t, table] of tables.entries()) {
    files[`tables/t${t}.safetensors`] = await writeSafetensors(join(dir, `tables/t${t}.safetensors`), [
      { name: 'weight', dtype: 'F32', shape: [ROWS[t] as number, DIM], data: new Uint8Array(table.buffer) },
    ]);
  }
  files['dense.safetensors'] = await writeSafetensors(join(dir, 'dense.safetensors'), [
    { name: 'unused', dtype: 'F32', shape: [1], data: new Uint8Array(4) },
  ]);
  const layers = (net: number): object[] =>
    READERS.filter((reader) => reader.net === net).flatMap(({ name, table, pooling, maxLength, truncate }): object[] => {
      const reads = { name, table: `t${table}` };
      if (maxLength === undefined) return [{ type: 'embedding_bag', ...reads, pooling, weighted: pooling === 'weighted_mean' }];
      return [
        { type: 'embedding_sequence', ...reads, maxLength, truncate },
        { type: 'flatten', name: `${name}_all`, input: name },
        { type: 'sequence_pool', name: `${name}_last`, input: name, pooling: 'last' },
      ];
    });
  const values = READERS.flatMap(({ name, maxLength }) => (maxLength === undefined ? [name] : [`${name}_all`, `${name}_last`]));
  await writeModelJson(
    dir,
    modelSchema.parse({
      terabag: 1,
      name: 'sequences',
      version: '1',
      dense: [{ name: 'dense', dim: 1 }],
      tables: ROWS.map((rows, t) => ({
        ...{ name: `t${t}`, rows, dim: DIM, format: 'fp32', file: `tables/t${t}.safetensors`, tensor: 'weight' },
      })),
      nets: [
        { name: 'one', layers: layers(0) },
        { name: 'two', layers: [...layers(1), { type: 'concat', name: 'output', inputs: ['dense', ...values] }] },
      ],
      output: 'output',
      files,
    }),
  );
  return { dir, tables };
}

/** The ids that count of a bag of a request. */
export const keptOf = <T>({ maxLength, truncate }: Reader, ids: readonly T[]): readonly T[] =>
  maxLength === undefined ? ids : truncate === 'first' ? ids.slice(0, maxLength) : ids.slice(-maxLength);

/** Scores by slicing, in plain arrays. */
export function sequenceScores({ tables }: SequenceModel, request: PredictRequest, items: number): number[] {
  const dense = request.dense['dense'] as ArrayLike<number>;
  return Array.from({ length: items }, (_, item) => [
    Math.fround(dense[dense.length === 1 ? 0 : item] as number),
    ...READERS.flatMap((reader) => valuesOf(reader, tables[reader.table] as Float32Array, request.sparse[reader.name] as BagsInput, item)),
  ]).flat();
}

function valuesOf(reader: Reader, table: Float32Array, { indices, offsets, weights }: BagsInput, item: number): number[] {
  const bag = offsets.length === 2 ? 0 : item;
  const [from, to] = [Number(offsets[bag]), Number(offsets[bag + 1])];
  const ids = keptOf(
    reader,
    Array.from({ length: to - from }, (_, i) => Number(indices[from + i])),
  );
  const rows = ids.map((id) => [...table.subarray(id * DIM, (id + 1) * DIM)]);
  const none = new Array<number>(DIM).fill(0);
  if (reader.maxLength !== undefined) {
    const padding = Array.from({ length: reader.maxLength - rows.length }, () => none);
    return [...rows, ...padding, rows.at(-1) ?? none].flat();
  }
  const given = Array.from({ length: to - from }, (_, i) => weights?.[from + i] ?? 1);
  const total = given.reduce((sum, weight) => sum + weight, 0);
  return none.map((_, d) => {
    const terms = rows.map((row, i) => (row[d] as number) * (given[i] as number));
    if (reader.pooling === 'max') return terms.length === 0 ? 0 : Math.max(...terms);
    return total === 0 ? 0 : Math.fround(terms.reduce((sum, term) => sum + term, 0) / total);
  });
}
