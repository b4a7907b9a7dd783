import { TerabagError } from '../../errors.js';
import type { BagsInput, PredictRequest } from '../../predictor/predictor.js';
import type { BagShape, RequestShape } from './request-shape.js';
import { type Reuse, type RowSampler, rowSampler } from './row-reuse.js';
import { SeededNumbers } from './synthetic-values.js';

/** Of one bag layer: beyond, there is hardly memory for them. */
const MAX_IDS = 2 ** 31 - 1;

/** Requests of a shape; the same seed gives the same requests in the same order. Which rows are popular does not depend on the seed. */
export class RequestGenerator {
  readonly #numbers: SeededNumbers;
  readonly #shape: RequestShape;
  readonly #bags: readonly { readonly shape: BagShape; readonly rows: RowSampler }[];

  /** reuse: of all bags, in place of what the shape says of each. */
  constructor(shape: RequestShape, seed: number, options: { readonly reuse?: Reuse } = {}) {
    this.#numbers = new SeededNumbers(seed);
    this.#shape = shape;
    this.#bags = shape.bags.map((bag) => ({ shape: bag, rows: rowSampler(bag.rows, options.reuse ?? bag.reuse, bag.table) }));
  }

  /** One request: one user, `items` candidates. */
  next(items: number): PredictRequest {
    const dense = this.#shape.dense.map(({ name, dim }): [string, Float32Array] => {
      const values = new Float32Array(items * dim);
      this.#numbers.fill(values, 1);
      return [name, values];
    });
    const sparse = this.#bags.map(({ shape, rows }): [string, BagsInput] => [
      shape.name,
      this.#draw(shape, rows, shape.side === 'user' ? 1 : items),
    ]);
    return { items, dense: Object.fromEntries(dense), sparse: Object.fromEntries(sparse) };
  }

  #draw(shape: BagShape, rows: RowSampler, bags: number): BagsInput {
    const offsets = new Uint32Array(bags + 1);
    for (let bag = 0; bag < bags; bag++) {
      const ids = (offsets[bag] as number) + this.#bagSize(shape);
      if (ids > MAX_IDS)
        throw new TerabagError(
          'invalid_argument',
          `bags of a request have at most 2^31 - 1 ids: ${shape.name}, poolingFactor ${shape.poolingFactor}, bags ${bags}`,
          { field: 'poolingFactor', bag: shape.name },
        );
      offsets[bag + 1] = ids;
    }
    const indices = new Int32Array(offsets[bags] as number);
    rows.fill(indices, this.#numbers);
    if (!shape.weighted) return { indices, offsets };
    const weights = new Float32Array(indices.length);
    this.#numbers.fill(weights, 1);
    return { indices, offsets, weights };
  }

  /** Spread sizes are 0 to n, all equally likely; a random n next to twice the pooling factor keeps the mean where that is no integer. */
  #bagSize({ poolingFactor, bagSizes }: BagShape): number {
    if (poolingFactor === 1) return 1;
    const twice = (bagSizes === 'spread' ? 2 : 1) * poolingFactor;
    const whole = Math.floor(twice);
    const most = twice === whole || this.#numbers.uniform() >= twice - whole ? whole : whole + 1;
    return bagSizes === 'fixed' ? most : Math.floor(this.#numbers.uniform() * (most + 1));
  }
}
