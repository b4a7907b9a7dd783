import type { Scheduler } from './scheduler.js';

/** What happened, as a hash that two runs of one seed have in common, and on request as lines. */
export class Trace {
  #hash = 0x811c9dc5;
  #other = 0x9e3779b9;
  readonly lines: string[] = [];
  readonly #bits = new Float64Array(1);
  readonly #words = new Uint32Array(this.#bits.buffer);

  constructor(
    private readonly scheduler: Scheduler,
    private readonly recording: boolean,
  ) {}

  add(who: string, what: string, ...values: readonly (number | string)[]): void {
    this.#number(this.scheduler.now);
    this.#text(who);
    this.#text(what);
    for (const value of values) {
      if (typeof value === 'number') this.#number(value);
      else this.#text(value);
    }
    if (this.recording)
      this.lines.push(`${this.scheduler.now.toFixed(3).padStart(12)}  ${who.padEnd(12)} ${what} ${values.join(' ')}`.trimEnd());
  }

  get hash(): string {
    return [this.#hash, this.#other].map((half) => (half >>> 0).toString(16).padStart(8, '0')).join('');
  }

  #number(value: number): void {
    this.#bits[0] = value;
    this.#mix(this.#words[0] as number);
    this.#mix(this.#words[1] as number);
  }

  #text(text: string): void {
    for (let at = 0; at < text.length; at++) this.#mix(text.charCodeAt(at));
  }

  #mix(word: number): void {
    this.#hash = Math.imul(this.#hash ^ word, 0x01000193);
    this.#other = Math.imul((this.#other << 5) ^ (this.#other >>> 27) ^ word, 0x85ebca6b);
  }
}
