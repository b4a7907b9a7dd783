/** A queue of each peer, taken from in turn: one that asks for much makes others wait for a single request of its own at most. */
export class FairQueue<P, T> {
  /** In the order in which they are served next. */
  readonly #queues = new Map<P, Set<T>>();

  add(peer: P, item: T): void {
    const queue = this.#queues.get(peer);
    if (queue === undefined) this.#queues.set(peer, new Set([item]));
    else queue.add(item);
  }

  /** False when it does not wait. */
  delete(peer: P, item: T): boolean {
    const queue = this.#queues.get(peer);
    if (queue === undefined || !queue.delete(item)) return false;
    if (queue.size === 0) this.#queues.delete(peer);
    return true;
  }

  /** All of a peer, in their order. */
  takeAll(peer: P): ReadonlySet<T> {
    const queue = this.#queues.get(peer);
    this.#queues.delete(peer);
    return queue ?? new Set();
  }

  /** The first of the peer whose turn it is; null when nothing waits. */
  take(): T | null {
    const [turn] = this.#queues;
    if (turn === undefined) return null;
    const [peer, queue] = turn;
    const [item] = queue as Set<T> & Iterable<T>;
    this.#queues.delete(peer);
    queue.delete(item as T);
    if (queue.size > 0) this.#queues.set(peer, queue);
    return item as T;
  }
}
