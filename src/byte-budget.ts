/** Bytes that may be held at once. One that is larger than the whole budget is let through while nothing else is held: it would never be. */
export class ByteBudget {
  #held = 0;

  constructor(readonly most: number) {}

  get held(): number {
    return this.#held;
  }

  /** False, and nothing is taken, when there is no room. */
  take(bytes: number): boolean {
    if (this.#held > 0 && this.#held + bytes > this.most) return false;
    this.#held += bytes;
    return true;
  }

  giveBack(bytes: number): void {
    this.#held -= bytes;
  }
}
