import { TerabagError } from '../../errors.js';
import { SeededNumbers } from '../generate/synthetic-values.js';

/** The most requests a second: the load generator sends one in a turn of the event loop, which takes microseconds even when it is empty. */
export const HIGHEST_QPS = 200_000;

/** When requests are meant to be sent, as data: so many a second, evenly spaced or as independent users send them. */
export interface Arrivals {
  readonly process: 'poisson' | 'constant';
  readonly qps: number;
  /** Seeds poisson arrivals: the same seed gives the same times. */
  readonly seed: number;
}

/** Intended send times in ms from the start, without end. Poisson: gaps are exponential with mean 1 / qps. */
export function* arrivalTimes({ process, qps, seed }: Arrivals): Generator<number, never> {
  if (!(qps > 0 && qps <= HIGHEST_QPS))
    throw new TerabagError('invalid_argument', `qps has to be above 0, and at most ${HIGHEST_QPS}: ${qps}`, { field: 'qps' });
  const meanMs = 1000 / qps;
  const numbers = new SeededNumbers(seed);
  for (let n = 1, at = 0; ; n++) {
    // Evenly spaced times are multiplied, not added up: rounding would shift the last of millions.
    at = process === 'constant' ? n * meanMs : at - meanMs * Math.log(1 - numbers.uniform());
    yield at;
  }
}
