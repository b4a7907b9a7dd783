import { TerabagError } from '../../errors.js';
import type { SeededNumbers } from './synthetic-values.js';

/**
 * How ids recur. zipf: row of rank r with probability proportional to r^-exponent; 0 is uniform. trace: as in the embedding accesses that
 * Meta published of its production models (github.com/facebookresearch/dlrm_datasets): training accesses, not serving requests.
 */
export type Reuse = { readonly type: 'zipf'; readonly exponent: number } | { readonly type: 'trace'; readonly year: 2021 | 2022 };

/** uniform, zipf:EXPONENT, trace-2021, trace-2022. */
export function parseReuse(text: string): Reuse {
  const [, exponent] = /^zipf:(\d+(?:\.\d+)?)$/.exec(text) ?? [];
  if (text === 'uniform') return { type: 'zipf', exponent: 0 };
  if (exponent !== undefined) return { type: 'zipf', exponent: Number(exponent) };
  if (text === 'trace-2021' || text === 'trace-2022') return { type: 'trace', year: text === 'trace-2021' ? 2021 : 2022 };
  throw new TerabagError('invalid_argument', `reuse has to be uniform, zipf:EXPONENT, trace-2021 or trace-2022: ${text}`, { reuse: text });
}

type RowClass = readonly [rate: number, rows: number];

/**
 * Rows of a table in classes, the most read first, as [mean accesses per row, share of the table's rows]. A row of a class is read a Poisson
 * number of times over a trace of `idsPerRow` ids per row of the table. Fitted by scripts/fit-reuse.mjs to both published histograms, of rows and
 * of accesses over how often a row is read; classes without weight are left out. Rows that a trace never reads are not published: the lowest
 * class implies them.
 */
const TRACES: Readonly<Record<2021 | 2022, readonly RowClass[]>> = {
  2021: [
    [65536, 1.153e-6],
    [32768, 7.724e-7],
    [16384, 1.242e-5],
    [8192, 1.608e-5],
    [4096, 7.952e-5],
    [2048, 1.022e-4],
    [1024, 2.923e-4],
    [512, 3.505e-4],
    [256, 1.024e-3],
    [128, 1.302e-3],
    [64, 4.483e-3],
    [32, 8.331e-3],
    [16, 3.241e-2],
    [8, 5.222e-2],
    [4, 1.134e-1],
    [2, 1.275e-1],
    [0.5, 6.585e-1],
  ],
  2022: [
    [65536, 7.077e-6],
    [32768, 8.392e-6],
    [8192, 4.137e-5],
    [4096, 9.844e-5],
    [2048, 3.067e-4],
    [1024, 4.994e-4],
    [512, 2.912e-4],
    [256, 2.711e-3],
    [128, 2.095e-3],
    [64, 1.27e-2],
    [32, 2.417e-2],
    [16, 6.89e-2],
    [8, 7.268e-2],
    [4, 1.283e-1],
    [2, 1.036e-1],
    [0.5, 5.836e-1],
  ],
};

/** Ids per row of the table over which a trace's histogram is the published one. */
export const idsPerRow = (year: 2021 | 2022): number => TRACES[year].reduce((sum, [rate, rows]) => sum + rate * rows, 0);

/** Draws rows of one table; all generators agree on which rows are popular. */
export interface RowSampler {
  /** Fills with rows of the table. */
  fill(indices: Int32Array, numbers: SeededNumbers): void;
}

/** key: chooses which tables get the rows that most tables are too small for, such as the table's number. */
export function rowSampler(rows: number, reuse: Reuse, key: number): RowSampler {
  if (reuse.type === 'trace') return new TraceRows(rows, TRACES[reuse.year], key);
  return new ZipfRows(rows, reuse.exponent);
}

/** Spreads popular ranks over the table, as hashed ids are: a permutation, since a prime that does not divide the rows multiplies them. */
class Scatter {
  readonly #factor: number;

  constructor(private readonly rows: number) {
    this.#factor = rows % 1_000_003 === 0 ? 1_000_033 : 1_000_003;
  }

  /** rank * factor mod rows: the product is below 2^53, and the rounded quotient at most one off. */
  row(rank: number): number {
    const product = rank * this.#factor;
    const rest = product - Math.floor(product / this.rows) * this.rows;
    return rest < 0 ? rest + this.rows : rest;
  }
}

/** Inverts the cumulative distribution of the continuous Zipf law, bounded by the rows. */
class ZipfRows implements RowSampler {
  readonly #scatter: Scatter;

  constructor(
    private readonly rows: number,
    private readonly exponent: number,
  ) {
    this.#scatter = new Scatter(rows);
  }

  fill(indices: Int32Array, numbers: SeededNumbers): void {
    for (let i = 0; i < indices.length; i++) indices[i] = this.#row(numbers.uniform());
  }

  #row(u: number): number {
    const { rows, exponent } = this;
    if (exponent === 0) return Math.floor(u * rows);
    const rest = 1 - exponent;
    const rank = exponent === 1 ? (rows + 1) ** u : (((rows + 1) ** rest - 1) * u + 1) ** (1 / rest);
    return this.#scatter.row(Math.min(rows - 1, Math.floor(rank) - 1));
  }
}

/** Draws a class by its share of the accesses, then one of its rows, all alike. */
class TraceRows implements RowSampler {
  readonly #scatter: Scatter;
  /** Share of the accesses of each class and those before it, times 2^32. */
  readonly #accesses: Float64Array;
  /** First rank of each class, and the number of rows at the end. */
  readonly #ranks: Float64Array;

  constructor(rows: number, classes: readonly RowClass[], key: number) {
    this.#scatter = new Scatter(rows);
    this.#ranks = firstRanks(rows, classes, key);
    const weights = classes.map(([rate], k) => rate * this.#rowsOf(k));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    let accesses = 0;
    this.#accesses = Float64Array.from(weights, (weight) => {
      accesses += weight;
      return (accesses / total) * 2 ** 32;
    });
  }

  fill(indices: Int32Array, numbers: SeededNumbers): void {
    const last = this.#accesses.length - 1;
    for (let i = 0; i < indices.length; i++) {
      const draw = numbers.int32() >>> 0;
      let k = 0;
      while (k < last && draw >= (this.#accesses[k] as number)) k++;
      indices[i] = this.#scatter.row((this.#ranks[k] as number) + Math.floor(numbers.uniform() * this.#rowsOf(k)));
    }
  }

  #rowsOf(k: number): number {
    return (this.#ranks[k + 1] as number) - (this.#ranks[k] as number);
  }
}

/** The golden ratio's multiples, modulo 1, are spread evenly: of a class that has 0.2 rows of a table, a fifth of all tables get one. */
const GOLDEN = 0.618_033_988_75;

/** Whole numbers of rows that keep the classes' shares, summed from the hottest class down. */
function firstRanks(rows: number, classes: readonly RowClass[], key: number): Float64Array {
  const offset = (key * GOLDEN) % 1;
  const ranks = new Float64Array(classes.length + 1);
  let share = 0;
  for (const [k, [, part]] of classes.entries()) {
    share += part;
    ranks[k + 1] = k === classes.length - 1 ? rows : Math.min(rows, Math.floor(share * rows + offset));
  }
  return ranks;
}
