import { ACCURACIES, type Accuracy, AccuracyMeter, lossesByRequest } from './accuracy.js';
import { type BootstrapOptions, bootstrap, type ConfidenceInterval, relativeRise } from './bootstrap.js';
import type { ScoredItems } from './scored-items.js';

/**
 * Of each class. Resamples of fewer hardly differ in the items of that class (of one request not at all), and their interval would be narrower
 * than what is known.
 */
export const LEAST_REQUESTS = 10;

/** The interval is null where requests of a class are fewer than LEAST_REQUESTS. */
export interface Estimate {
  readonly value: number;
  readonly low: number | null;
  readonly high: number | null;
}

/** How well a model predicts labels, with intervals. */
export interface Evaluation {
  /** With a label. */
  readonly requests: number;
  /** Those among them with a positive label, and with a negative one. */
  readonly positiveRequests: number;
  readonly negativeRequests: number;
  readonly items: number;
  readonly positives: number;
  readonly baseRate: number;
  /** Items whose scores were so near to 0 or 1 that the log loss took the nearest that it takes. */
  readonly clipped: number;
  readonly accuracy: Readonly<Record<keyof Accuracy, Estimate>>;
}

export async function evaluate(items: ScoredItems, options: BootstrapOptions = {}): Promise<Evaluation> {
  const meter = new AccuracyMeter(items);
  const values = meter.accuracy();
  const ofClasses = requestsOfClasses(items);
  const intervals = enough(ofClasses) ? await bootstrap(items.numRequests, ACCURACIES, (counts) => meter.weighted(counts), options) : null;
  const positives = items.labels.reduce((sum, label) => sum + label, 0);
  return {
    requests: items.numRequests,
    ...ofClasses,
    items: items.labels.length,
    positives,
    baseRate: positives / items.labels.length,
    clipped: meter.clipped,
    accuracy: Object.fromEntries(
      ACCURACIES.map((name) => [name, { value: values[name], ...(intervals?.[name] ?? NO_INTERVAL) }]),
    ) as Record<keyof Accuracy, Estimate>,
  };
}

/** By how much normalized entropy is above that of other scores of the same items; requests are drawn for both at once. */
export async function riseOver(other: ScoredItems, items: ScoredItems, options: BootstrapOptions = {}): Promise<Estimate> {
  const { value, ...interval } = await relativeRise(lossesByRequest(other), lossesByRequest(items), options);
  return { value, ...(enough(requestsOfClasses(items)) ? interval : NO_INTERVAL) };
}

const NO_INTERVAL: Readonly<Record<keyof ConfidenceInterval, null>> = { low: null, high: null };

type RequestsOfClasses = Pick<Evaluation, 'positiveRequests' | 'negativeRequests'>;

const enough = ({ positiveRequests, negativeRequests }: RequestsOfClasses): boolean =>
  Math.min(positiveRequests, negativeRequests) >= LEAST_REQUESTS;

function requestsOfClasses({ labels, requests }: ScoredItems): RequestsOfClasses {
  const having = (label: number): number => new Set(requests.filter((_, item) => labels[item] === label)).size;
  return { positiveRequests: having(1), negativeRequests: having(0) };
}
