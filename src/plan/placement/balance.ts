import { partRows } from '../../tables/rows.js';
import { Heap } from './heap.js';
import { byName, doesNotFit, fewestParts, type Placement, partBytes, roomInParts, type TableLoad } from './table-load.js';

export interface BalanceOptions {
  readonly shards: number;
  /** Bytes of tables that a shard may hold. */
  readonly limitBytes: number;
  /** What is to be the same on all shards. */
  readonly loadOf: (table: TableLoad) => number;
}

/**
 * Equal load per shard: the table with the largest load left goes to the least loaded shard that has room for it (LPT: where every table fits
 * everywhere, at most 4/3 of the best possible maximum; Graham 1969). A table above the limit is split by rows into the fewest parts that
 * fit, and so is one that no shard has room left for. Tables above the limit come first: they need room on many shards.
 */
export function balance(tables: readonly TableLoad[], { shards, limitBytes, loadOf }: BalanceOptions): Placement {
  const open = new OpenShards(shards, limitBytes);
  const placement: Placement = new Map();
  const order = tables
    .map((table) => ({ table, load: loadOf(table), parts: fewestParts(table, limitBytes) }))
    .sort(
      (a, b) => Number(b.parts > 1) - Number(a.parts > 1) || b.load - a.load || b.table.bytes - a.table.bytes || byName(a.table, b.table),
    );
  for (const { table, load, parts } of order) {
    const taken = open.place(table, load, parts) ?? open.placeInRoomLeft(table, load);
    if (taken === null) throw doesNotFit(table, open.roomFor(table), shards === 1 ? 'the shard' : `${shards} shards`);
    placement.set(table, taken);
  }
  return placement;
}

class OpenShards {
  readonly #bytes: Float64Array;
  readonly #load: Float64Array;
  readonly #leastLoaded: Heap;

  constructor(
    shards: number,
    private readonly limitBytes: number,
  ) {
    const bytes = new Float64Array(shards);
    const load = new Float64Array(shards);
    this.#bytes = bytes;
    this.#load = load;
    this.#leastLoaded = new Heap((a, b) => {
      const byLoad = (load[a] as number) - (load[b] as number);
      const byBytes = (bytes[a] as number) - (bytes[b] as number);
      return byLoad !== 0 ? byLoad < 0 : byBytes !== 0 ? byBytes < 0 : a < b;
    });
    for (let shard = 0; shard < shards; shard++) this.#leastLoaded.push(shard);
  }

  /** Puts so many parts on the least loaded shards with room, one on each; null when too few have room. */
  place(table: TableLoad, load: number, parts: number): number[] | null {
    const shards = this.#load.length;
    if (parts > shards) return null;
    const largest = partBytes(table, parts, 0);
    const taken: number[] = [];
    const full: number[] = [];
    while (taken.length < parts && this.#leastLoaded.size > 0) {
      const shard = this.#leastLoaded.pop() as number;
      (this.#room(shard) >= largest ? taken : full).push(shard);
    }
    const found = taken.length === parts;
    if (found) {
      taken.forEach((shard, part) => {
        this.#bytes[shard] = (this.#bytes[shard] as number) + partBytes(table, parts, part);
        this.#load[shard] = (this.#load[shard] as number) + (load * partRows(table.rows, { part, parts })) / table.rows;
      });
    }
    for (const shard of taken) this.#leastLoaded.push(shard);
    for (const shard of full) this.#leastLoaded.push(shard);
    return found ? taken : null;
  }

  /** Splits the table into the fewest parts for which as many shards have room; null when there is no such number. */
  placeInRoomLeft(table: TableLoad, load: number): number[] | null {
    const parts = this.#roomsDescending().findIndex((room, part) => partBytes(table, part + 1, 0) <= room) + 1;
    return parts === 0 ? null : this.place(table, load, parts);
  }

  /** The most bytes of a table that equal parts could bring in; less than its bytes when it does not fit. */
  roomFor(table: TableLoad): number {
    return this.#roomsDescending().reduce((most, room, part) => Math.max(most, roomInParts(table, part + 1, room)), 0);
  }

  #room(shard: number): number {
    return this.limitBytes - (this.#bytes[shard] as number);
  }

  #roomsDescending(): Float64Array {
    return this.#bytes.map((bytes) => this.limitBytes - bytes).sort((a, b) => b - a);
  }
}
