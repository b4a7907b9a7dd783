import type { PredictRequest } from '../../predictor/predictor.js';

/** Counts the ids that requests ask for, by bag. */
export class LookupCounter {
  readonly ofBags = new Map<string, number>();

  count({ sparse }: PredictRequest): void {
    for (const bag of Object.keys(sparse)) this.ofBags.set(bag, (this.ofBags.get(bag) ?? 0) + (sparse[bag]?.indices.length ?? 0));
  }
}
