import { TerabagError } from '../../errors.js';
import { modelHash } from '../../model/hash.js';
import { plainId } from '../../model/id-rules.js';
import type { EmbeddingBagSpec, EmbeddingSequenceSpec } from '../../model/layers.js';
import type { ModelSpec } from '../../model/spec.js';
import { endKept, firstKept } from '../../model/truncate.js';
import { HOT_ROWS, type Profile, type TableProfile } from './profile.js';

/** A request that was checked against the model, ids included. */
export interface ProfiledRequest {
  readonly items: number;
  /** In the order of the model's bag and sequence layers; one bag for the user, or one per item. */
  readonly bags: readonly ProfiledBags[];
}

export interface ProfiledBags {
  readonly numBags: number;
  readonly input: {
    readonly indices: ArrayLike<number | bigint | string>;
    /** Where bags end, by which long sequences are cut off; left out: as if there were one bag. */
    readonly offsets?: ArrayLike<number | bigint>;
  };
}

/** Lookups, of all tables together, whose rows are counted for hotShare: some hundred MB at most. Requests beyond count in all else. */
const COUNTED_LOOKUPS = 2 ** 22;

/** What requests give of one bag layer. */
interface LayerSums {
  /** Position in the order of the model's bag and sequence layers. */
  readonly at: number;
  readonly layer: EmbeddingBagSpec | EmbeddingSequenceSpec;
  /** Requests of other numbers of items that give one bag for all, or one per item. */
  readonly given: { once: number; perItem: number };
  /** Given once for all items; in requests of one item it could be the item's too. */
  readonly user: BagSums;
  readonly eitherWay: BagSums;
}

interface BagSums {
  bags: number;
  lookups: number;
}

interface TableSums {
  readonly name: string;
  /** Those that read it. */
  readonly layers: LayerSums[];
  numBags: number;
  lookups: number;
  uniqueRows: number;
  /** By id. */
  readonly rowCounts: Map<number | bigint, number>;
}

/** Sums what requests ask of each table, in memory that does not grow with their number (but for a number per request). */
export class ProfileBuilder {
  readonly #tables: TableSums[];
  readonly #items: number[] = [];
  #countedLookups = 0;

  constructor(private readonly spec: ModelSpec) {
    const tables = new Map<string, TableSums>(
      spec.tables.map(({ name }) => [name, { name, layers: [], numBags: 0, lookups: 0, uniqueRows: 0, rowCounts: new Map() }]),
    );
    let at = 0;
    for (const layer of spec.nets.flatMap(({ layers }) => layers)) {
      if (!('table' in layer)) continue;
      const none = (): BagSums => ({ bags: 0, lookups: 0 });
      tables.get(layer.table)?.layers.push({ at: at++, layer, given: { once: 0, perItem: 0 }, user: none(), eitherWay: none() });
    }
    this.#tables = [...tables.values()];
  }

  add(request: ProfiledRequest): void {
    this.#items.push(request.items);
    const counting = this.#countedLookups < COUNTED_LOOKUPS;
    for (const table of this.#tables) {
      const rows = new Set<number | bigint>();
      for (const { at, layer, given, user, eitherWay } of table.layers) {
        const asked = request.bags[at] as ProfiledBags;
        const ids = layer.type === 'embedding_sequence' ? distinctIds(layer, asked) : asked.input.indices;
        const lookups = ids.length;
        // Each id of a sequence is asked for as a bag of its own.
        const bags = layer.type === 'embedding_sequence' ? lookups : asked.numBags;
        table.numBags += bags;
        table.lookups += lookups;
        if (request.items !== 1) given[asked.numBags === 1 ? 'once' : 'perItem']++;
        if (asked.numBags === 1) {
          const sums = request.items === 1 ? eitherWay : user;
          sums.bags += bags;
          sums.lookups += lookups;
        }
        for (let position = 0; position < lookups; position++) {
          const row = exactId(ids[position] as number | bigint | string);
          rows.add(row);
          if (counting) table.rowCounts.set(row, (table.rowCounts.get(row) ?? 0) + 1);
        }
        if (counting) this.#countedLookups += lookups;
      }
      table.uniqueRows += rows.size;
    }
  }

  /** The means per request; at least one has to be added. */
  build(): Profile {
    const requests = this.#items.length;
    if (requests === 0) throw new TerabagError('invalid_argument', 'a profile needs at least one request: 0 sampled');
    const { spec } = this;
    const items = Float64Array.from(this.#items).sort();
    const quantile = (q: number): number => items[Math.ceil(q * requests) - 1] as number;
    return {
      terabagProfile: 1,
      model: { name: spec.name, version: spec.version, hash: modelHash(spec) },
      source: 'requests',
      requests,
      items: { mean: items.reduce((sum, count) => sum + count, 0) / requests, p50: quantile(0.5), p99: quantile(0.99) },
      tables: this.#tables.map(
        ({ name, numBags, lookups, uniqueRows, layers, rowCounts }): TableProfile => ({
          table: name,
          bags: numBags / requests,
          lookups: lookups / requests,
          uniqueRows: uniqueRows / requests,
          hotShare: hotShare([...rowCounts.values()]),
          userBags: ofUser(layers, 'bags') / requests,
          userLookups: ofUser(layers, 'lookups') / requests,
        }),
      ),
    };
  }
}

/** Keys, and ids that no table has, are any 64 bits, which a double does not tell apart; -1 and 2^64 - 1 are one. */
function exactId(id: number | bigint | string): number | bigint {
  const number = Number(id);
  return Number.isSafeInteger(number) ? number : plainId(BigInt.asIntN(64, BigInt(id)));
}

/** What is asked for a request's sequences of a layer. */
function distinctIds(layer: EmbeddingSequenceSpec, { input: { indices, offsets = [0, indices.length] } }: ProfiledBags): bigint[] {
  const ids = new Set<bigint>();
  for (let bag = 0; bag + 1 < offsets.length; bag++) {
    const [from, to] = [Number(offsets[bag]), Number(offsets[bag + 1])];
    for (let position = firstKept(layer, from, to); position < endKept(layer, from, to); position++)
      ids.add(BigInt(indices[position] as number | bigint | string));
  }
  return [...ids];
}

/** With one item nothing tells a bag of the user from one of the item, but the other requests, and where there are none, the spec. */
function ofUser(layers: readonly LayerSums[], what: keyof BagSums): number {
  return layers.reduce((sum, { layer, given: { once, perItem }, user, eitherWay }) => {
    const isUser = once + perItem > 0 ? once > perItem : layer.side === 'user';
    return sum + user[what] + (isUser ? eitherWay[what] : 0);
  }, 0);
}

function hotShare(counts: number[]): number {
  if (counts.length === 0) return 0;
  const sum = (values: readonly number[]): number => values.reduce((total, count) => total + count, 0);
  counts.sort((a, b) => b - a);
  return sum(counts.slice(0, Math.ceil(counts.length * HOT_ROWS))) / sum(counts);
}
