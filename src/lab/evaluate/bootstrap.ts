import { TerabagError } from '../../errors.js';
import { SeededNumbers } from '../generate/synthetic-values.js';
import { quantile } from '../report/quantiles.js';

export interface BootstrapOptions {
  /** Default 1000. */
  readonly resamples?: number;
  /** Share of the distribution that an interval covers; default 0.95. */
  readonly confidence?: number;
  /** The same seed gives the same intervals; default 1. */
  readonly seed?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface ConfidenceInterval {
  readonly low: number;
  readonly high: number;
}

/** Draws for each resample that may be worked out to nothing. */
const MOST_DRAWS = 10;

/**
 * Percentile bootstrap (Efron and Tibshirani, 1993) of several statistics: so many units are drawn with replacement as there are, again and again. Units
 * are requests, since items of one request are not independent. work gets how often each unit was drawn; null draws again.
 */
export async function bootstrap<Name extends string>(
  units: number,
  names: readonly Name[],
  work: (counts: Uint32Array) => Readonly<Record<Name, number>> | null,
  { resamples = 1000, confidence = 0.95, seed = 1, signal, onProgress = () => undefined }: BootstrapOptions = {},
): Promise<Record<Name, ConfidenceInterval>> {
  const numbers = new SeededNumbers(seed);
  const samples = new Map(names.map((name) => [name, new Float64Array(resamples)]));
  const counts = new Uint32Array(units);
  let draws = 0;
  for (let done = 0; done < resamples; ) {
    if (signal?.aborted) throw new TerabagError('aborted', 'evaluating was interrupted');
    if (draws++ === MOST_DRAWS * resamples)
      throw new TerabagError('invalid_argument', `too few requests with a label of one class for intervals: ${units} requests`, { units });
    counts.fill(0);
    for (let unit = 0; unit < units; unit++) {
      const drawn = Math.floor(numbers.uniform() * units);
      counts[drawn] = (counts[drawn] as number) + 1;
    }
    const values = work(counts);
    if (values === null) continue;
    for (const [name, sample] of samples) sample[done] = values[name];
    onProgress(++done, resamples);
    // Signals are seen, and progress is drawn.
    await new Promise((resolve) => setImmediate(resolve));
  }
  const tail = (1 - confidence) / 2;
  const interval = (sample: Float64Array): ConfidenceInterval => {
    sample.sort();
    return { low: quantile(sample, tail), high: quantile(sample, 1 - tail) };
  };
  return Object.fromEntries(names.map((name) => [name, interval(samples.get(name) as Float64Array)])) as Record<Name, ConfidenceInterval>;
}

/** Of the relative rise of summed losses from before to after, each of the same requests: requests are drawn for both at once. */
export async function relativeRise(
  before: Float64Array,
  after: Float64Array,
  options: BootstrapOptions = {},
): Promise<ConfidenceInterval & { readonly value: number }> {
  const dot = (losses: Float64Array, counts: Uint32Array): number =>
    losses.reduce((total, loss, at) => total + loss * (counts[at] as number), 0);
  const rise = (counts: Uint32Array): number | null => {
    const base = dot(before, counts);
    return base === 0 ? null : dot(after, counts) / base - 1;
  };
  const work = (counts: Uint32Array) => {
    const loss = rise(counts);
    return loss === null ? null : { loss };
  };
  const { loss } = await bootstrap(before.length, ['loss'], work, options);
  return { value: rise(new Uint32Array(before.length).fill(1)) ?? 0, ...loss };
}
