import type { Arrangement, Piece } from './arrangement.js';

export interface ImproveOptions {
  /** Less is better. */
  readonly scoreOf: (arrangement: Arrangement) => number;
  /** Bytes that a sparse shard, and main, may hold. */
  readonly limitBytes: number;
  readonly mainBytes: number;
  /** How often the score may be worked out, which takes time in proportion to the shards. */
  readonly evaluations: number;
}

/** Moves pieces as long as that lowers the score: to main, off shards that are then not asked at all, and from the slowest shard to faster ones. */
export function improve(arrangement: Arrangement, options: ImproveOptions): void {
  const search = new Search(arrangement, options);
  search.fillMain();
  search.emptyShards();
  search.levelShards();
}

/** Tries of one kind that may fail in a row. */
const PATIENCE = 8;

class Search {
  #score: number;
  #left: number;

  constructor(
    private readonly at: Arrangement,
    private readonly options: ImproveOptions,
  ) {
    this.#score = options.scoreOf(at);
    this.#left = options.evaluations;
  }

  /** Main saves what a piece's messages cost: those with the most bytes of messages per byte of memory first, twice as many at a time. */
  fillMain(): void {
    const { at } = this;
    const value = ({ works, bytes }: Piece): number => works.reduce((sum, work) => sum + work.sentBytes + work.receivedBytes, 0) / bytes;
    const pieces = at.pieces.filter(({ home, parts }) => home !== at.main && parts === 1).sort((a, b) => value(b) - value(a));
    let next = 0;
    for (let size = 1; next < pieces.length && this.#left > 0; size *= 2) {
      const moves: [Piece, number][] = [];
      let room = this.options.mainBytes - (at.bytes[at.main] as number);
      for (; next < pieces.length && moves.length < size; next++) {
        const piece = pieces[next] as Piece;
        if (piece.bytes > room) continue;
        room -= piece.bytes;
        moves.push([piece, at.main]);
      }
      if (moves.length === 0 || !this.#try(moves)) return;
    }
  }

  /** A shard that holds nothing costs no RPC. The emptiest first: its pieces go to the fullest shards that have room. */
  emptyShards(): void {
    const { at } = this;
    const byBytes = [...at.bytes.keys()].filter((shard) => shard !== at.main && (at.held[shard]?.size ?? 0) > 0);
    byBytes.sort((a, b) => (at.bytes[a] as number) - (at.bytes[b] as number));
    let failures = 0;
    for (const shard of byBytes.slice(0, -1)) {
      if (failures >= PATIENCE || this.#left <= 0) return;
      const moves = this.#packedElsewhere(shard, byBytes);
      failures = moves !== null && this.#try(moves) ? 0 : failures + 1;
    }
  }

  #packedElsewhere(shard: number, shards: readonly number[]): [Piece, number][] | null {
    const { at } = this;
    const added = new Map<number, number>();
    const moves: [Piece, number][] = [];
    const targets = shards.filter((other) => other !== shard && (at.held[other]?.size ?? 0) > 0).reverse();
    for (const piece of [...(at.held[shard] ?? [])].sort((a, b) => b.bytes - a.bytes)) {
      const target = targets.find((other) => at.takes(other, piece, this.options.limitBytes - (added.get(other) ?? 0)));
      if (target === undefined) return null;
      added.set(target, (added.get(target) ?? 0) + piece.bytes);
      moves.push([piece, target]);
    }
    return moves;
  }

  /** From the shard that pools longest to the one that pools shortest and has room, or in exchange for one of its pieces. */
  levelShards(): void {
    const { at } = this;
    const { limitBytes } = this.options;
    while (this.#left > 0) {
      this.#left--;
      const services = at.predict().shards.map(({ serviceUs }) => serviceUs);
      const order = [...services.keys()]
        .filter((shard) => (at.held[shard]?.size ?? 0) > 0)
        .sort((a, b) => (services[b] as number) - (services[a] as number));
      const [slowest] = order;
      if (slowest === undefined || order.length < 2) return;
      const over = (shard: number): number => (services[slowest] as number) - (services[shard] as number);
      const pieces = [...(at.held[slowest] ?? [])].filter(({ poolUs }) => poolUs > 0).sort((a, b) => b.poolUs - a.poolUs);
      const moved = pieces.slice(0, PATIENCE).some((piece) => {
        const target = order.findLast((shard) => piece.poolUs < over(shard) && at.takes(shard, piece, limitBytes));
        if (target !== undefined && this.#try([[piece, target]])) return true;
        return this.#exchange(piece, order.at(-1) as number, over(order.at(-1) as number));
      });
      if (!moved) return;
    }
  }

  #exchange(piece: Piece, other: number, overUs: number): boolean {
    const { at } = this;
    const { limitBytes } = this.options;
    const { home } = piece;
    const given = [...(at.held[other] ?? [])].filter(({ poolUs }) => poolUs < piece.poolUs && piece.poolUs - poolUs < overUs);
    const back = given.find(
      (candidate) => at.takes(other, piece, limitBytes + candidate.bytes) && at.takes(home, candidate, limitBytes + piece.bytes),
    );
    return (
      back !== undefined &&
      this.#try([
        [piece, other],
        [back, home],
      ])
    );
  }

  #try(moves: readonly (readonly [Piece, number])[]): boolean {
    const { at } = this;
    this.#left--;
    const before = moves.map(([piece]) => [piece, piece.home] as const);
    for (const [piece, home] of moves) at.move(piece, home);
    const score = this.options.scoreOf(at);
    if (score < this.#score) {
      this.#score = score;
      return true;
    }
    for (const [piece, home] of before) at.move(piece, home);
    return false;
  }
}
