import { TerabagError } from '../../errors.js';

/** The labelled items of a file of requests, in its order: 13 bytes each. */
export interface ScoredItems {
  readonly scores: Float64Array;
  /** 0 or 1. */
  readonly labels: Uint8Array;
  /** The request of each, counted from 0 over the requests that have a label. */
  readonly requests: Uint32Array;
  readonly numRequests: number;
}

/** Scores are probabilities; logits, of a model without a sigmoid at its end, are made such. */
export type ScoreKind = 'probability' | 'logit';

const FIRST_ROOM = 1024;

/** Collects scores with their labels. */
export class ItemCollector {
  #scores = new Float64Array(FIRST_ROOM);
  #labels = new Uint8Array(FIRST_ROOM);
  #requests = new Uint32Array(FIRST_ROOM);
  #items = 0;
  #numRequests = 0;

  constructor(private readonly kind: ScoreKind = 'probability') {}

  /** The scores of one request and their labels, null for an item that does not count. */
  add(scores: ArrayLike<number>, labels: readonly (0 | 1 | null)[]): void {
    let counted = false;
    for (const [item, label] of labels.entries()) {
      if (label === null) continue;
      if (this.#items === this.#labels.length) this.#grow();
      this.#scores[this.#items] = this.#probability(scores[item] as number, item);
      this.#labels[this.#items] = label;
      this.#requests[this.#items++] = this.#numRequests;
      counted = true;
    }
    if (counted) this.#numRequests++;
  }

  items(): ScoredItems {
    const end = this.#items;
    return {
      scores: this.#scores.subarray(0, end),
      labels: this.#labels.subarray(0, end),
      requests: this.#requests.subarray(0, end),
      numRequests: this.#numRequests,
    };
  }

  #probability(score: number, item: number): number {
    if (!Number.isFinite(score))
      throw new TerabagError('unsupported', `scores are not finite: item ${item}, ${score}`, { item, value: String(score) });
    if (this.kind === 'logit') return 1 / (1 + Math.exp(-score));
    if (score >= 0 && score <= 1) return score;
    throw new TerabagError(
      'invalid_argument',
      `scores have to be probabilities, 0 to 1; of a model without a sigmoid at its end use --logits: item ${item}, ${score}`,
      { item, value: String(score) },
    );
  }

  #grow(): void {
    const grown = <T extends Float64Array | Uint8Array | Uint32Array>(from: T, into: T): T => {
      into.set(from);
      return into;
    };
    const room = 2 * this.#labels.length;
    this.#scores = grown(this.#scores, new Float64Array(room));
    this.#labels = grown(this.#labels, new Uint8Array(room));
    this.#requests = grown(this.#requests, new Uint32Array(room));
  }
}
