import type { Clock } from '../clock.js';

/** Something that becomes due, in at most one list at a time. */
export class Due {
  dueAt = 0;
  previous: Due | null = null;
  next: Due | null = null;
  listed = false;
}

/**
 * Things in the order in which they become due, with one timer for all: most are added last and removed before they are due, both of which touch
 * no timer. A list whose timer is in the background does not keep the process alive.
 */
export class DueList<T extends Due> {
  #first: T | null = null;
  #last: T | null = null;
  #armedFor = Number.POSITIVE_INFINITY;
  #cancelTimer: (() => void) | null = null;

  /** onDue: is told that something is due, and takes it then or later. */
  constructor(
    private readonly clock: Clock,
    private readonly onDue: () => void,
    private readonly background?: 'background',
  ) {}

  add(item: T, dueAt: number): void {
    let before = this.#last;
    while (before !== null && before.dueAt > dueAt) before = before.previous as T | null;
    const after = before === null ? this.#first : (before.next as T | null);
    item.dueAt = dueAt;
    item.previous = before;
    item.next = after;
    item.listed = true;
    if (before === null) this.#first = item;
    else before.next = item;
    if (after === null) this.#last = item;
    else after.previous = item;
    if (dueAt < this.#armedFor) this.#arm(dueAt);
  }

  /** Nothing of what is not listed. */
  remove(item: T): void {
    if (!item.listed) return;
    const { previous, next } = item;
    if (previous === null) this.#first = next as T | null;
    else previous.next = next;
    if (next === null) this.#last = previous as T | null;
    else next.previous = previous;
    item.previous = item.next = null;
    item.listed = false;
    // A timer in the background may find nothing; another would keep the process from its end.
    if (this.#first === null && this.background === undefined) this.#disarm();
  }

  get first(): T | null {
    return this.#first;
  }

  /** Removes the first when it is due. */
  takeDue(now: number): T | null {
    const first = this.#first;
    if (first === null || first.dueAt > now) {
      if (first !== null && first.dueAt < this.#armedFor) this.#arm(first.dueAt);
      return null;
    }
    this.remove(first);
    return first;
  }

  close(): void {
    this.#disarm();
  }

  #arm(at: number): void {
    this.#cancelTimer?.();
    this.#armedFor = at;
    this.#cancelTimer = this.clock.after(Math.max(0, at - this.clock.now()), () => this.#wake(), this.background);
  }

  #disarm(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#armedFor = Number.POSITIVE_INFINITY;
  }

  /** Timers count whole milliseconds, and what this one was set for may be gone. */
  #wake(): void {
    this.#disarm();
    const first = this.#first;
    if (first === null) return;
    if (first.dueAt > this.clock.now()) this.#arm(first.dueAt);
    else this.onDue();
  }
}
