import fc from 'fast-check';
import { ROW_FORMATS } from '../../src/model/formats.js';
import type { ResolvedModel } from '../../src/model/graph.js';
import type { EmbeddingBagSpec, EmbeddingSequenceSpec } from '../../src/model/layers.js';
import type { ModelSpec, TableSpec } from '../../src/model/spec.js';
import { PLAIN_BAG } from './plain-bag.js';

/** Specs without files, for what plans by sizes alone. */

export const table = (name: string, rows: number, dim = 4): TableSpec => ({
  name,
  rows,
  dim,
  format: 'fp32',
  file: `${name}.safetensors`,
  tensor: 'w',
});

export const specOf = (tables: TableSpec[], nets: ModelSpec['nets'] = []): ModelSpec => ({
  terabag: 1,
  name: 'm',
  version: '1',
  dense: [],
  tables,
  nets,
  output: 'o',
  files: {},
});

export const bagOf = (name: string, tableName: string, more: Partial<EmbeddingBagSpec> = {}): EmbeddingBagSpec => ({
  type: 'embedding_bag',
  name,
  table: tableName,
  pooling: 'sum',
  weighted: false,
  ...more,
});

export const sequenceOf = (name: string, tableName: string, more: Partial<EmbeddingSequenceSpec> = {}): EmbeddingSequenceSpec => ({
  type: 'embedding_sequence',
  name,
  table: tableName,
  maxLength: 10,
  ...more,
});

/** Random tables of all formats, and one to three nets whose bags read any of them: some tables are shared, some are read by none. */
export const anySpec: fc.Arbitrary<ModelSpec> = fc
  .record({
    sizes: fc.array(
      fc.record({
        rows: fc.integer({ min: 1, max: 10_000 }),
        dim: fc.integer({ min: 1, max: 64 }),
        format: fc.constantFrom(...ROW_FORMATS),
      }),
      { minLength: 1, maxLength: 40 },
    ),
    nets: fc.array(
      fc.array(
        fc.record({
          read: fc.nat(39),
          poolingFactor: fc.option(fc.nat(50), { nil: undefined }),
          side: fc.constantFrom('user', 'item', undefined),
        }),
        { maxLength: 25 },
      ),
      { minLength: 1, maxLength: 3 },
    ),
  })
  .map(({ sizes, nets }) =>
    specOf(
      sizes.map(({ rows, dim, format }, at) => ({ ...table(`t${at}`, rows, dim), format })),
      nets.map((bags, net) => ({
        name: `net${net}`,
        layers: bags.map(({ read, poolingFactor, side }, bag) =>
          bagOf(`bag${net}_${bag}`, `t${read % sizes.length}`, {
            ...(poolingFactor !== undefined && { poolingFactor }),
            ...(side !== undefined && { side }),
          }),
        ),
      })),
    ),
  );

/** The model of a spec with its bags alone: what plans are predicted by when dense layers do not matter. */
export function bagsOnly(spec: ModelSpec): ResolvedModel {
  const numbers = new Map(spec.tables.map(({ name }, number) => [name, number]));
  const bags = spec.nets.flatMap(({ layers }, net) =>
    layers.flatMap((layer) => {
      const number = 'table' in layer ? numbers.get(layer.table) : undefined;
      if (!('table' in layer) || number === undefined) return [];
      const { dim, rows } = spec.tables[number] as TableSpec;
      const { name, table: tableName } = layer;
      const how = layer.type === 'embedding_bag' ? { pooling: layer.pooling, weighted: layer.weighted } : { maxLength: layer.maxLength };
      return [{ ...PLAIN_BAG, name, table: number, tableName, dim, rows, ...how, net }];
    }),
  );
  return { dense: [], bags, layers: [], output: 0, outputDim: 1 };
}
