/** Retries may be 20 % of requests: this many requests pay for one. */
const REQUESTS_PER_RETRY = 5;
/** ... within so long, in so many slots: a quiet hour does not pay for a storm. */
const SLOTS = 10;
const SLOT_MS = 1000;
/** Retries a second that nobody has to pay for, so that a shard that is asked for little has some; as many as a full window's are saved. */
const FREE_PER_SECOND = 3;
const MOST_FREE = (FREE_PER_SECOND * SLOTS * SLOT_MS) / 1000;
/** Hedged requests leave so many to retries, without which requests fail. */
const KEPT_FROM_HEDGES = MOST_FREE / 2;

/**
 * A token bucket that bounds how much more than its requests a shard is asked: when all its replicas are slow or fail, retries only add load.
 */
export class RetryBudget {
  /** Requests that have not paid for a retry yet, by slot; the oldest slot follows the current one. */
  readonly #unspent = new Int32Array(SLOTS);
  #slot = 0;
  #slotEndsAt: number;
  #total = 0;
  #free = MOST_FREE;
  #freeAt: number;

  constructor(now: number) {
    this.#slotEndsAt = now + SLOT_MS;
    this.#freeAt = now;
  }

  /** A request is made. */
  deposit(now: number): void {
    if (now >= this.#slotEndsAt) this.#advance(now);
    (this.#unspent[this.#slot] as number)++;
    this.#total++;
  }

  /** Whether another retry is within the budget; takes it. */
  take(now: number): boolean {
    return this.#take(now, 0);
  }

  /** Likewise another hedged request. */
  takeHedge(now: number): boolean {
    return this.#take(now, KEPT_FROM_HEDGES);
  }

  #take(now: number, kept: number): boolean {
    if (now >= this.#slotEndsAt) this.#advance(now);
    this.#free = Math.min(MOST_FREE, this.#free + ((now - this.#freeAt) * FREE_PER_SECOND) / 1000);
    this.#freeAt = now;
    if (Math.floor(this.#total / REQUESTS_PER_RETRY) + this.#free < 1 + kept) return false;
    if (this.#total >= REQUESTS_PER_RETRY) this.#spend();
    else this.#free--;
    return true;
  }

  /** The oldest pay first: they are the next to expire. */
  #spend(): void {
    this.#total -= REQUESTS_PER_RETRY;
    let owed = REQUESTS_PER_RETRY;
    for (let n = 1; owed > 0; n++) {
      const slot = (this.#slot + n) % SLOTS;
      const paid = Math.min(owed, this.#unspent[slot] as number);
      (this.#unspent[slot] as number) -= paid;
      owed -= paid;
    }
  }

  #advance(now: number): void {
    const passed = Math.floor((now - this.#slotEndsAt) / SLOT_MS) + 1;
    this.#slotEndsAt += passed * SLOT_MS;
    for (let n = 0; n < Math.min(passed, SLOTS); n++) {
      this.#slot = (this.#slot + 1) % SLOTS;
      this.#total -= this.#unspent[this.#slot] as number;
      this.#unspent[this.#slot] = 0;
    }
  }
}
