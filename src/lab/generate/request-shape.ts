import { TerabagError } from '../../errors.js';
import type { ModelSpec } from '../../model/spec.js';
import { type BagSizes, type ModelShape, tablesOf } from './model-shape.js';
import type { Reuse } from './row-reuse.js';
import { denseFeatures, readerName } from './synthetic-net.js';

/** What requests of a model look like. */
export interface RequestShape {
  /** Given per item. */
  readonly dense: readonly { readonly name: string; readonly dim: number }[];
  readonly bags: readonly BagShape[];
}

export interface BagShape {
  readonly name: string;
  /** Rows of its table. */
  readonly rows: number;
  /** Number of its table: bags of one table find the same rows popular. */
  readonly table: number;
  readonly side: 'user' | 'item';
  readonly weighted: boolean;
  /** Mean number of ids per bag. */
  readonly poolingFactor: number;
  readonly bagSizes: BagSizes;
  readonly reuse: Reuse;
}

export const requestShape = (shape: ModelShape): RequestShape => ({
  dense: denseFeatures(shape),
  bags: tablesOf(shape).map((table, number) => {
    const { rows, side, weighted, poolingFactor, bagSizes, reuse } = table;
    return { name: readerName(table), rows, table: number, side, weighted, poolingFactor, bagSizes, reuse };
  }),
});

const MAX_ROWS = 2 ** 31;

/**
 * Requests for a bundle. A bag without a side is an item's, one without a pooling factor gets one id, a sequence as many as it has positions; reuse is
 * that of the traces of 2021.
 */
export function requestShapeOfSpec(spec: ModelSpec): RequestShape {
  const numbers = new Map(spec.tables.map(({ name }, table) => [name, table]));
  const bags = spec.nets
    .flatMap(({ layers }) => layers)
    .flatMap((layer): BagShape[] => {
      if (!('table' in layer)) return [];
      const table = numbers.get(layer.table) ?? -1;
      const rows = spec.tables[table]?.rows ?? 0;
      if (rows < 1 || rows >= MAX_ROWS)
        throw new TerabagError('invalid_argument', `requests can be made for tables of 1 to 2^31 - 1 rows: ${layer.table} has ${rows}`, {
          table: layer.table,
        });
      const { name, side = 'item' } = layer;
      const weighted = layer.type === 'embedding_bag' && layer.weighted;
      const { poolingFactor = layer.type === 'embedding_bag' ? 1 : layer.maxLength } = layer;
      return [{ ...{ name, rows, table, side, weighted, poolingFactor }, bagSizes: 'spread', reuse: { type: 'trace', year: 2021 } }];
    });
  return { dense: spec.dense, bags };
}
