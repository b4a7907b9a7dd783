import { TerabagError } from '../../errors.js';
import type { ScoredItems } from './scored-items.js';

/** How well scores predict labels. */
export interface Accuracy {
  /** Area under the ROC curve: the share of pairs of a positive and a negative item in which the positive has the higher score; ties count half. */
  readonly auc: number;
  /** Mean cross entropy, in nats. */
  readonly logLoss: number;
  /** Normalized entropy (He et al., 2014): the log loss over that of the base rate, which is 1. */
  readonly ne: number;
  /** Mean score over the base rate. */
  readonly calibration: number;
}
export const ACCURACIES = ['auc', 'logLoss', 'ne', 'calibration'] as const satisfies readonly (keyof Accuracy)[];

/** Scores nearer to 0 and 1 are moved there for the log loss: half of the distance from 1 to the float32 below it. */
export const CLIP = 2 ** -25;

/** Works out accuracies of items that count any number of times, in one pass over them for each. */
export class AccuracyMeter {
  /** Items from the lowest score to the highest. */
  readonly #order: Uint32Array;
  /** Of each item, as if it counted once. */
  readonly #losses: Float64Array;
  /** Items whose scores were moved. */
  readonly clipped: number;

  constructor(private readonly items: ScoredItems) {
    const { scores, labels } = items;
    this.#order = Uint32Array.from(scores.keys()).sort((a, b) => (scores[a] as number) - (scores[b] as number));
    this.#losses = Float64Array.from(scores, (score, at) => lossOf(score, labels[at] as number));
    this.clipped = scores.reduce((sum, score) => sum + (score < CLIP || score > 1 - CLIP ? 1 : 0), 0);
  }

  /** Of all items. One class alone is refused (invalid_argument): nothing ranks, and the base rate has no entropy. */
  accuracy(): Accuracy {
    const accuracy = this.weighted(new Uint32Array(this.items.numRequests).fill(1));
    if (accuracy !== null) return accuracy;
    const positives = this.items.labels.reduce((sum, label) => sum + label, 0);
    throw new TerabagError(
      'invalid_argument',
      `labels have to be of both classes: ${positives} positive, ${this.items.labels.length - positives} negative`,
      { positives, items: this.items.labels.length },
    );
  }

  /** Of items that count as often as their request does; null when one class is left, or none. */
  weighted(counts: ArrayLike<number>): Accuracy | null {
    const { scores, labels, requests } = this.items;
    let [positives, negatives, losses, scoreSum] = [0, 0, 0, 0];
    // Twice the pairs that are in the right order.
    let pairs = 0;
    for (let from = 0, to = 0; from < scores.length; from = to) {
      const score = scores[this.#order[from] as number] as number;
      let [tiedPositives, tiedNegatives] = [0, 0];
      for (; to < scores.length && scores[this.#order[to] as number] === score; to++) {
        const item = this.#order[to] as number;
        const count = counts[requests[item] as number] as number;
        if (labels[item] === 1) tiedPositives += count;
        else tiedNegatives += count;
        losses += count * (this.#losses[item] as number);
      }
      pairs += tiedPositives * (2 * negatives + tiedNegatives);
      scoreSum += score * (tiedPositives + tiedNegatives);
      positives += tiedPositives;
      negatives += tiedNegatives;
    }
    if (positives === 0 || negatives === 0) return null;
    const total = positives + negatives;
    const logLoss = losses / total;
    return {
      auc: pairs / (2 * positives * negatives),
      logLoss,
      ne: logLoss / entropy(positives / total),
      calibration: scoreSum / positives,
    };
  }
}

/** The sum of the items' cross entropies for each request, in nats: those of the labels, or of other probabilities of each item. */
export function lossesByRequest({ scores, labels, requests, numRequests }: ScoredItems, targets: ArrayLike<number> = labels): Float64Array {
  const losses = new Float64Array(numRequests);
  for (const [item, request] of requests.entries())
    losses[request] = (losses[request] as number) + lossOf(scores[item] as number, targets[item] as number);
  return losses;
}

/** target: a label, or a probability. */
function lossOf(score: number, target: number): number {
  const clipped = Math.min(1 - CLIP, Math.max(CLIP, score));
  if (target === 1) return -Math.log(clipped);
  if (target === 0) return -Math.log1p(-clipped);
  return -(target * Math.log(clipped) + (1 - target) * Math.log1p(-clipped));
}

/** Of a base rate between 0 and 1, in nats. */
export const entropy = (rate: number): number => -(rate * Math.log(rate) + (1 - rate) * Math.log1p(-rate));
