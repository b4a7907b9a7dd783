import { readFile } from 'node:fs/promises';
import { decimal } from '../../decimal.js';
import { TerabagError } from '../../errors.js';
import type { SeededNumbers } from './synthetic-values.js';

/**
 * Candidate items per request. lognormal: exp of a normal variable, rounded, 1 to max; median items, sigma of the logarithm (the mean is
 * median * exp(sigma^2 / 2)). list: sizes in turn, from the first again after the last.
 */
export type QuerySizes =
  | { readonly type: 'fixed'; readonly items: number }
  | { readonly type: 'lognormal'; readonly median: number; readonly sigma: number; readonly max: number }
  | { readonly type: 'list'; readonly sizes: readonly number[] };

const MAX_ITEMS = 65_536;
const isSize = (value: number): boolean => Number.isInteger(value) && value >= 1 && value <= MAX_ITEMS;

/** N, lognormal:MEDIAN,SIGMA[,MAX] (max defaults to 20 medians), or file:PATH of a text file with a size a line. */
export async function parseQuerySizes(text: string): Promise<QuerySizes> {
  const bad = (): TerabagError =>
    new TerabagError(
      'invalid_argument',
      `items have to be N, lognormal:MEDIAN,SIGMA[,MAX] or file:PATH, with 1 to ${MAX_ITEMS} items: ${text}`,
      {
        items: text,
      },
    );
  const [, kind, rest = ''] = /^(?:(lognormal|file):)?(.+)$/.exec(text) ?? [];
  if (kind === 'file') return { type: 'list', sizes: await readSizes(rest) };
  const [first = Number.NaN, sigma = Number.NaN, max = Math.min(MAX_ITEMS, Math.ceil(20 * first)), ...more] = rest.split(',').map(decimal);
  if (kind === undefined) {
    if (!isSize(decimal(rest))) throw bad();
    return { type: 'fixed', items: first };
  }
  if (!(first >= 1) || !(sigma >= 0) || !isSize(max) || more.length > 0) throw bad();
  return { type: 'lognormal', median: first, sigma, max };
}

async function readSizes(path: string): Promise<number[]> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new TerabagError('invalid_argument', `sizes cannot be read (${error.code}): ${path}`, { path }, { cause: error });
  });
  const lines = text.split('\n').map((line, index) => ({ line: index + 1, value: line.trim() }));
  const sizes = lines.filter(({ value }) => value !== '');
  const wrong = sizes.find(({ value }) => !isSize(decimal(value)));
  if (wrong !== undefined || sizes.length === 0)
    throw new TerabagError(
      'invalid_argument',
      `a line has to be a size from 1 to ${MAX_ITEMS}: ${path}, ${wrong === undefined ? 'no line' : `line ${wrong.line}: ${wrong.value}`}`,
      { path },
    );
  return sizes.map(({ value }) => Number(value));
}

/** Sizes one after another; those of a list do not depend on the numbers. */
export class QuerySizeSequence {
  #drawn = 0;

  constructor(
    private readonly sizes: QuerySizes,
    private readonly numbers: SeededNumbers,
  ) {}

  next(): number {
    const { sizes } = this;
    switch (sizes.type) {
      case 'fixed':
        return sizes.items;
      case 'list':
        return sizes.sizes[this.#drawn++ % sizes.sizes.length] as number;
      case 'lognormal':
        return Math.min(sizes.max, Math.max(1, Math.round(sizes.median * Math.exp(sizes.sigma * this.#normal()))));
    }
  }

  /** Box and Muller, 1958; 1 - u is never 0. */
  #normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.numbers.uniform()));
    return radius * Math.cos(2 * Math.PI * this.numbers.uniform());
  }
}
