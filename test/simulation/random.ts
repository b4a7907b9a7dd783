/** The one source of chance in a simulation: sfc32, which passes the usual batteries of tests and takes a few nanoseconds. */
export class SeededRandom {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** Streams of one seed with different labels are independent: what one of them is asked for changes nothing in the others. */
  constructor(seed: number, label = '') {
    let hash = 0x811c9dc5 ^ (seed >>> 0);
    for (const letter of `${label}:${seed}`) hash = Math.imul(hash ^ (letter.codePointAt(0) as number), 0x01000193);
    [this.#a, this.#b, this.#c] = [seed | 0, hash | 0, Math.imul(hash, 0x9e3779b1)];
    for (let round = 0; round < 12; round++) this.uint32();
  }

  uint32(): number {
    const result = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + result) | 0;
    return result >>> 0;
  }

  /** 0 or more, below 1. */
  next(): number {
    return this.uint32() / 2 ** 32;
  }

  /** An integer from 0 to below. */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  between(from: number, to: number): number {
    return from + this.next() * (to - from);
  }

  /** Each order of magnitude is as likely as the others. */
  magnitude(from: number, to: number): number {
    return from * (to / from) ** this.next();
  }

  exponential(mean: number): number {
    return -mean * Math.log(1 - this.next());
  }

  chance(probability: number): boolean {
    return probability > 0 && this.next() < probability;
  }

  pick<T>(among: readonly T[]): T {
    return among[this.below(among.length)] as T;
  }

  /** Each with this probability. */
  some<T>(among: readonly T[], probability: number): T[] {
    return among.filter(() => this.chance(probability));
  }
}
