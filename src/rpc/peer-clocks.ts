import type { Peer } from './transport/transport.js';

/** Peers that are kept, where nobody tells who is gone; strangers only push out who has been silent for longest. */
const MAX_PEERS = 4096;
/** How long a least difference is kept, on the peer's clock. Clocks drift by some 50 us a second at worst. */
const WINDOW_MS = 10_000;

interface PeerClock {
  windowAt: number;
  least: number;
  leastBefore: number;
}

/**
 * How long messages of each peer waited before they were received. Clocks of hosts differ by an unknown offset, but the least difference of receive
 * and send time over the latest messages is that of one that hardly waited: what others have more, they waited (in a socket, or on the network).
 * Windows go by the peer's clock, so that messages that waited together do not become the measure of themselves.
 */
export class PeerClocks {
  readonly #peers = new Map<Peer, PeerClock>();

  /** changed: is told the least difference of a peer when another one counts. */
  constructor(private readonly changed: (peer: Peer, leastMs: number) => void = () => undefined) {}

  /** ms that a message waited: at least, since the first of a peer has nothing to be compared with. */
  waited(peer: Peer, sentAtMs: number, receivedAt: number): number {
    const difference = receivedAt - sentAtMs;
    const clock = this.#clockOf(peer, sentAtMs);
    const before = Math.min(clock.least, clock.leastBefore);
    clock.least = Math.min(clock.least, difference);
    const least = Math.min(clock.least, clock.leastBefore);
    if (least !== before) this.changed(peer, least);
    return difference - least;
  }

  forget(peer: Peer): void {
    this.#peers.delete(peer);
  }

  #clockOf(peer: Peer, sentAtMs: number): PeerClock {
    const known = this.#peers.get(peer);
    if (known === undefined) {
      const [oldest] = this.#peers.keys();
      if (this.#peers.size >= MAX_PEERS && oldest !== undefined) this.#peers.delete(oldest);
      const made = { windowAt: sentAtMs, least: Number.POSITIVE_INFINITY, leastBefore: Number.POSITIVE_INFINITY };
      this.#peers.set(peer, made);
      return made;
    }
    if (sentAtMs - known.windowAt >= WINDOW_MS || sentAtMs < known.windowAt - WINDOW_MS) {
      known.leastBefore = known.least;
      known.least = Number.POSITIVE_INFINITY;
      known.windowAt = sentAtMs;
      // Moves it behind those that were silent for longer.
      this.#peers.delete(peer);
      this.#peers.set(peer, known);
    }
    return known;
  }
}
