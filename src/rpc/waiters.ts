import type { Clock } from '../clock.js';
import type { TerabagError } from '../errors.js';

interface Waiter<T> {
  readonly cancelTimer: () => void;
  readonly resolve: (value: T) => void;
  readonly reject: (error: TerabagError) => void;
}

/** Those who wait for something until a timer, by a key of their own. */
export class Waiters<K, T> {
  readonly #waiting = new Map<K, Waiter<T>>();

  constructor(private readonly clock: Clock) {}

  /** Rejects with what late says after ms. */
  wait(key: K, ms: number, late: () => TerabagError): Promise<T> {
    return new Promise((resolve, reject) => {
      const cancelTimer = this.clock.after(ms, () => this.reject(key, late()));
      this.#waiting.set(key, { cancelTimer, resolve, reject });
    });
  }

  /** False when nobody waits. */
  resolve(key: K, value: T): boolean {
    const waiter = this.#take(key);
    waiter?.resolve(value);
    return waiter !== undefined;
  }

  /** False when nobody waits. */
  reject(key: K, error: TerabagError): boolean {
    const waiter = this.#take(key);
    waiter?.reject(error);
    return waiter !== undefined;
  }

  resolveAll(value: T): void {
    for (const key of [...this.#waiting.keys()]) this.resolve(key, value);
  }

  rejectAll(error: TerabagError): void {
    for (const key of [...this.#waiting.keys()]) this.reject(key, error);
  }

  #take(key: K): Waiter<T> | undefined {
    const waiter = this.#waiting.get(key);
    this.#waiting.delete(key);
    waiter?.cancelTimer();
    return waiter;
  }
}
