import { byName, doesNotFit, fewestParts, ownBytes, type Placement, partBytes, roomInParts, type TableLoad } from './table-load.js';

/**
 * First fit decreasing: each table, the largest first, goes to the first shard with room (at most 11/9 of the fewest possible shards and one
 * more; Johnson 1973). A table above the limit is split by rows into the fewest parts that fit; no two of these fit on one shard.
 * @returns the placement, and the number of shards it uses, at most maxShards.
 */
export function packFirstFit(
  tables: readonly TableLoad[],
  limitBytes: number,
  maxShards: number,
): { readonly placement: Placement; readonly shards: number } {
  const order = tables
    .map((table) => ({ table, parts: fewestParts(table, limitBytes) }))
    .sort((a, b) => partBytes(b.table, b.parts, 0) - partBytes(a.table, a.parts, 0) || byName(a.table, b.table));
  const where = `the ${maxShards} shards left for its net, of ${limitBytes} bytes each`;
  const tooLarge = order.find(({ parts }) => parts > maxShards);
  if (tooLarge !== undefined) {
    const { table } = tooLarge;
    // Whole it needs no copies, and there may be no shard left.
    const rooms = [Math.min(1, maxShards), maxShards].map((most) => roomInParts(table, most, limitBytes));
    throw doesNotFit(table, Math.max(...rooms), where);
  }
  const shards = new FirstFit(
    // What does not fit on the shards lands on the one after them.
    Math.min(
      maxShards + 1,
      order.reduce((sum, { parts }) => sum + parts, 0),
    ),
    limitBytes,
  );
  const placement: Placement = new Map();
  for (const { table, parts } of order) {
    const taken = Array.from({ length: parts }, (_, part) => shards.put(partBytes(table, parts, part)));
    if (shards.used > maxShards) {
      const placed = taken.reduce((sum, shard, part) => sum + (shard < maxShards ? ownBytes(table, parts, part) : 0), 0);
      throw doesNotFit(table, Math.max(placed, shards.largestRoom(maxShards)), where);
    }
    placement.set(table, taken);
  }
  return { placement, shards: shards.used };
}

/** Shards in the order in which they are opened, as the leaves of a tree; inner nodes hold the largest room below them. */
class FirstFit {
  used = 0;
  readonly #leaves: number;
  readonly #room: Float64Array;

  constructor(most: number, limitBytes: number) {
    this.#leaves = 2 ** Math.ceil(Math.log2(Math.max(1, most)));
    this.#room = new Float64Array(2 * this.#leaves).fill(limitBytes);
  }

  put(bytes: number): number {
    const room = this.#room;
    let node = 1;
    while (node < this.#leaves) node = (room[2 * node] as number) >= bytes ? 2 * node : 2 * node + 1;
    room[node] = (room[node] as number) - bytes;
    for (let above = node >> 1; above >= 1; above >>= 1) room[above] = Math.max(room[2 * above] as number, room[2 * above + 1] as number);
    const shard = node - this.#leaves;
    this.used = Math.max(this.used, shard + 1);
    return shard;
  }

  /** The largest room of the first so many shards. */
  largestRoom(shards: number): number {
    return this.#room.subarray(this.#leaves, this.#leaves + shards).reduce((most, room) => Math.max(most, room), 0);
  }
}
