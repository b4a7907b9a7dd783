import { modelHash } from '../../model/hash.js';
import type { EmbeddingBagSpec, EmbeddingSequenceSpec } from '../../model/layers.js';
import type { ModelSpec } from '../../model/spec.js';
import { HOT_ROWS, type Profile } from './profile.js';

/** Candidate items per request where no request was sampled: what a ranking service that is neither idle nor offline scores at once. */
export const ASSUMED_ITEMS = 64;

type BagSpec = EmbeddingBagSpec | EmbeddingSequenceSpec;

/** Ids that the spec says a bag has: without a figure one; of a sequence as many as it has positions, which are the most. */
function assumedIds(layer: BagSpec): number {
  if (layer.type === 'embedding_bag') return layer.poolingFactor ?? 1;
  return Math.min(layer.poolingFactor ?? layer.maxLength, layer.maxLength);
}

/**
 * Ids and bags per request of one bag or sequence layer, by the spec's own figures; without a side a bag per item. Each id of a sequence is asked
 * for as a bag of its own.
 */
export function assumedBagLoad(layer: BagSpec): { readonly bags: number; readonly lookups: number } {
  const given = layer.side === 'user' ? 1 : ASSUMED_ITEMS;
  const lookups = given * assumedIds(layer);
  return { bags: layer.type === 'embedding_bag' ? given : lookups, lookups };
}

/** The bag and sequence layers that read each table, with the position of their net; in the order of the spec's tables. */
export function bagsOfTables(spec: ModelSpec): { readonly bag: BagSpec; readonly net: number }[][] {
  const byTable = new Map<string, { bag: BagSpec; net: number }[]>(spec.tables.map(({ name }) => [name, []]));
  spec.nets.forEach(({ layers }, net) => {
    for (const layer of layers) if ('table' in layer) byTable.get(layer.table)?.push({ bag: layer, net });
  });
  return spec.tables.map(({ name }) => byTable.get(name) ?? []);
}

/** Stands in for sampled requests: the spec's figures, ASSUMED_ITEMS items, ids that are spread evenly and all differ. */
export function profileFromSpec(spec: ModelSpec): Profile {
  const bagsOfTable = bagsOfTables(spec);
  return {
    terabagProfile: 1,
    model: { name: spec.name, version: spec.version, hash: modelHash(spec) },
    source: 'spec',
    requests: 0,
    items: { mean: ASSUMED_ITEMS, p50: ASSUMED_ITEMS, p99: ASSUMED_ITEMS },
    tables: spec.tables.map(({ name, rows }, table) => {
      const sum = { bags: 0, lookups: 0, userBags: 0, userLookups: 0 };
      for (const { bag } of bagsOfTable[table] ?? []) {
        const { bags, lookups } = assumedBagLoad(bag);
        sum.bags += bags;
        sum.lookups += lookups;
        if (bag.side !== 'user') continue;
        sum.userBags += bags;
        sum.userLookups += lookups;
      }
      return { table: name, ...sum, uniqueRows: Math.min(rows, sum.lookups), hotShare: sum.lookups > 0 ? HOT_ROWS : 0 };
    }),
  };
}
