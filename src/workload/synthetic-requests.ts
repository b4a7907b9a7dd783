import type { BagsInput, PredictRequest } from '../predictor/predictor.js';
import type { ModelShape, TableShape } from './model-shape.js';
import { SeededNumbers } from './synthetic-values.js';

/** Spreads the popular ranks over the table, as hashed ids are: a prime, so that most tables get a permutation. */
const SCATTER = 1_000_003;

/** Requests for a synthetic bundle; the same seed gives the same requests in the same order. */
export class SyntheticRequests {
  readonly #numbers: SeededNumbers;

  constructor(
    private readonly shape: ModelShape,
    seed: number,
  ) {
    this.#numbers = new SeededNumbers(seed);
  }

  /** One request: one user, `items` candidates. */
  next(items: number): PredictRequest {
    const dense = new Float32Array(items * this.shape.denseDim);
    this.#numbers.fill(dense, 1);
    const sparse: Record<string, BagsInput> = {};
    for (const table of this.shape.tables) sparse[`${table.name}_bag`] = this.#bags(table, table.side === 'user' ? 1 : items);
    return { items, dense: { dense }, sparse };
  }

  #bags(table: TableShape, bags: number): BagsInput {
    const offsets = new Uint32Array(bags + 1);
    for (let bag = 0; bag < bags; bag++) offsets[bag + 1] = (offsets[bag] as number) + this.#bagSize(table.poolingFactor);
    const indices = new Int32Array(offsets[bags] as number);
    for (let position = 0; position < indices.length; position++) indices[position] = this.#row(table);
    if (!table.weighted) return { indices, offsets };
    const weights = new Float32Array(indices.length);
    this.#numbers.fill(weights, 1);
    return { indices, offsets, weights };
  }

  #bagSize(poolingFactor: number): number {
    return poolingFactor === 1 ? 1 : Math.floor(this.#numbers.uniform() * (2 * poolingFactor + 1));
  }

  /** Inverts the cumulative distribution of the continuous Zipf law, bounded by the rows. */
  #row({ rows, skew }: TableShape): number {
    const u = this.#numbers.uniform();
    if (skew === 0) return Math.floor(u * rows);
    const rank = skew === 1 ? (rows + 1) ** u : (((rows + 1) ** (1 - skew) - 1) * u + 1) ** (1 / (1 - skew));
    return (Math.min(rows - 1, Math.floor(rank) - 1) * SCATTER) % rows;
  }
}
