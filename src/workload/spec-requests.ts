import type { ModelSpec } from '../model/spec.js';
import type { BagsInput, PredictRequest } from '../predictor/predictor.js';
import { SeededNumbers } from './synthetic-values.js';

export interface SpecRequestOptions {
  /** Of every request. */
  readonly items: number;
  readonly seed: number;
}

/** What a spec may say of a bag's requests. */
interface BagHints {
  readonly name: string;
  readonly poolingFactor?: number | undefined;
  readonly side?: 'user' | 'item' | undefined;
}

/**
 * Random requests for any bundle, without end; the same seed gives the same ones. Ids are uniform over a table's rows, which is the worst case
 * for caches; a bag has 0 to twice its pooling factor ids, one when the spec does not say; it is an item's unless the spec says user.
 */
export function* requestsOfSpec(spec: ModelSpec, { items, seed }: SpecRequestOptions): Generator<PredictRequest, never> {
  const numbers = new SeededNumbers(seed);
  const rows = new Map(spec.tables.map((table) => [table.name, table.rows]));
  const layers = spec.nets.flatMap((net) => net.layers).filter((layer) => layer.type === 'embedding_bag');
  const values = (count: number): Float32Array => {
    const array = new Float32Array(count);
    numbers.fill(array, 1);
    return array;
  };
  for (;;) {
    const dense = spec.dense.map(({ name, dim }) => [name, values(items * dim)]);
    const sparse = layers.map((layer): [string, BagsInput] => {
      const { poolingFactor = 1, side = 'item' }: BagHints = layer;
      const bags = side === 'user' ? 1 : items;
      const offsets = new Uint32Array(bags + 1);
      for (let bag = 0; bag < bags; bag++)
        offsets[bag + 1] = (offsets[bag] as number) + (poolingFactor === 1 ? 1 : Math.floor(numbers.uniform() * (2 * poolingFactor + 1)));
      const count = offsets[bags] as number;
      const indices = randomIds(count, rows.get(layer.table) ?? 1, numbers);
      return [layer.name, layer.weighted ? { indices, offsets, weights: values(count) } : { indices, offsets }];
    });
    yield { items, dense: Object.fromEntries(dense), sparse: Object.fromEntries(sparse) };
  }
}

/** A table may have more rows than int32 counts; a uniform number has 32 bits. */
function randomIds(count: number, rows: number, numbers: SeededNumbers): Int32Array | number[] {
  const next = (): number => Math.floor(numbers.uniform() * rows);
  return rows < 2 ** 31 ? Int32Array.from({ length: count }, next) : Array.from({ length: count }, next);
}
