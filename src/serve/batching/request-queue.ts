import { PRIORITIES, type Priority } from '../../predictor/predictor.js';

/** What waits. */
export interface Queued {
  readonly priority: Priority;
  readonly caller: string;
  readonly items: number;
  /** When it has to start, whatever else runs. */
  readonly dueAt: number;
}

/** Items that a caller may have before it is the next one's turn. */
const QUANTUM = 64;

interface Caller<Q> {
  readonly waiting: Set<Q>;
  items: number;
  /** Items that it may still have in this turn, or saved for the next. */
  credit: number;
}

/**
 * Requests by priority, and within one by caller: deficit round robin (Shreedhar and Varghese, 1995) by items, so that a caller of large requests, or of
 * many, takes no more than its share.
 */
export class RequestQueue<Q extends Queued> {
  /** By priority, callers in the order of their turns. */
  readonly #levels = PRIORITIES.map(() => new Map<string, Caller<Q>>());
  #size = 0;
  #items = 0;
  #dueAt = Number.POSITIVE_INFINITY;

  get size(): number {
    return this.#size;
  }

  get items(): number {
    return this.#items;
  }

  /** When the first of them has to start; Infinity when none waits. */
  get dueAt(): number {
    return this.#dueAt;
  }

  add(request: Q): void {
    const level = this.#levelOf(request.priority);
    let caller = level.get(request.caller);
    if (caller === undefined) {
      caller = { waiting: new Set(), items: 0, credit: 0 };
      level.set(request.caller, caller);
    }
    caller.waiting.add(request);
    caller.items += request.items;
    this.#size++;
    this.#items += request.items;
    this.#dueAt = Math.min(this.#dueAt, request.dueAt);
  }

  /** Of no effect when it does not wait. */
  delete(request: Q): void {
    const level = this.#levelOf(request.priority);
    const caller = level.get(request.caller);
    if (caller === undefined || !caller.waiting.delete(request)) return;
    caller.items -= request.items;
    if (caller.waiting.size === 0) level.delete(request.caller);
    this.#size--;
    this.#items -= request.items;
  }

  /** The one whose turn it is, null when none waits; it stays until it is deleted. */
  next(): Q | null {
    for (const level of this.#levels) {
      for (let [turn] = level; turn !== undefined; [turn] = level) {
        const [name, caller] = turn;
        const [first] = caller.waiting as Set<Q> & Iterable<Q>;
        if (first !== undefined && caller.credit >= first.items) return first;
        caller.credit += QUANTUM;
        level.delete(name);
        level.set(name, caller);
      }
    }
    return null;
  }

  /** Takes the one whose turn it is out, for its caller's account. */
  take(request: Q): void {
    const caller = this.#levelOf(request.priority).get(request.caller);
    if (caller !== undefined) caller.credit -= request.items;
    this.delete(request);
  }

  /** After some were taken out. */
  updateDueAt(): void {
    this.#dueAt = Number.POSITIVE_INFINITY;
    for (const level of this.#levels) {
      for (const { waiting } of level.values()) for (const { dueAt } of waiting) this.#dueAt = Math.min(this.#dueAt, dueAt);
    }
  }

  /**
   * Who has to go when one more does not fit: the latest of the caller that has most waiting, in the lowest priority; of the same priority only when
   * that caller has more than the one that comes. Null: the one that comes.
   */
  toDrop(coming: Pick<Q, 'priority' | 'caller'>): Q | null {
    const own = PRIORITIES.indexOf(coming.priority);
    for (let level = PRIORITIES.length - 1; level >= own; level--) {
      const callers = this.#levels[level] as Map<string, Caller<Q>>;
      let most: Caller<Q> | null = null;
      for (const caller of callers.values()) if (most === null || caller.items > most.items) most = caller;
      if (most === null) continue;
      if (level === own && most.items <= (callers.get(coming.caller)?.items ?? 0)) return null;
      return [...most.waiting].at(-1) as Q;
    }
    return null;
  }

  #levelOf(priority: Priority): Map<string, Caller<Q>> {
    return this.#levels[PRIORITIES.indexOf(priority)] as Map<string, Caller<Q>>;
  }
}
