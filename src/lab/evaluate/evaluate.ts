import { ACCURACIES, type Accuracy, AccuracyMeter } from './accuracy.js';
import { type BootstrapOptions, bootstrap, type ConfidenceInterval } from './bootstrap.js';
import type { ScoredItems } from './scored-items.js';

export interface Estimate extends ConfidenceInterval {
  readonly value: number;
}

/** How well a model predicts labels, with intervals. */
export interface Evaluation {
  /** With a label. */
  readonly requests: number;
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
  const intervals = await bootstrap(items.numRequests, ACCURACIES, (counts) => meter.weighted(counts), options);
  const positives = items.labels.reduce((sum, label) => sum + label, 0);
  return {
    requests: items.numRequests,
    items: items.labels.length,
    positives,
    baseRate: positives / items.labels.length,
    clipped: meter.clipped,
    accuracy: Object.fromEntries(ACCURACIES.map((name) => [name, { value: values[name], ...intervals[name] }])) as Record<
      keyof Accuracy,
      Estimate
    >,
  };
}
