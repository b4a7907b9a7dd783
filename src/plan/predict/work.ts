import type { ResolvedModel } from '../../model/graph.js';
import { partsPooling, wholePooling } from '../../model/pooling.js';
import type { ModelSpec } from '../../model/spec.js';
import { tableBytes } from '../placement/bytes.js';
import type { Profile } from '../profile/profile.js';
import type { Costs } from './costs.js';
import { cachedShare, lookupCosts } from './lookup-cost.js';

/** What is asked of tables, or parts of them, for one request. */
export interface Work {
  /** Bag layers' tables, or parts of them. */
  segments: number;
  bags: number;
  lookups: number;
  /** ns of all lookups. */
  lookupNs: number;
  /** Bytes of ids, offsets and segments, to a shard. */
  sentBytes: number;
  /** Bytes of pooled vectors, back from it. */
  receivedBytes: number;
  /** Those among the lookups and the bags that are of row-wise tables. */
  rowWiseIds: number;
  rowWisePartials: number;
}

export const noWork = (): Work => ({
  segments: 0,
  bags: 0,
  lookups: 0,
  lookupNs: 0,
  sentBytes: 0,
  receivedBytes: 0,
  rowWiseIds: 0,
  rowWisePartials: 0,
});

/** Adds so many times the work to the sum. */
export function addWork(sum: Work, work: Work, count = 1): void {
  sum.segments += count * work.segments;
  sum.bags += count * work.bags;
  sum.lookups += count * work.lookups;
  sum.lookupNs += count * work.lookupNs;
  sum.sentBytes += count * work.sentBytes;
  sum.receivedBytes += count * work.receivedBytes;
  sum.rowWiseIds += count * work.rowWiseIds;
  sum.rowWisePartials += count * work.rowWisePartials;
}

/** The bags that one net reads from one table, in a request. */
export interface AskedTable {
  /** Index in the spec. */
  readonly table: number;
  readonly net: number;
  /** Floats of a vector in the answer of a part of the table. */
  readonly partFloats: number;
  /** Work of the whole table. */
  readonly work: Work;
}

const SEGMENT_BYTES = 20;
const OFFSET_BYTES = 4;
const WEIGHT_BYTES = 4;
const FLOAT_BYTES = 4;
/** Beyond, ids travel as 64-bit integers. */
const INT32_ROWS = 2 ** 31;

/** A model with what is known of its dense layers. */
export interface PlannedModel {
  readonly spec: ModelSpec;
  readonly model: ResolvedModel;
}

/**
 * What a request of so many items asks of each table, net by net. Bags and ids of the user are as many for any number of items, the rest grows with
 * them. A profile counts all bags of a table together, so that each bag layer that reads it gets an equal share.
 */
export function askedTables({ spec, model }: PlannedModel, profile: Profile, costs: Costs, items: number): AskedTable[] {
  const indexBytes = model.bags.some(({ rows }) => rows > INT32_ROWS) ? 8 : 4;
  const profiled = new Map(profile.tables.map((table) => [table.table, table]));
  const lookupsOfAll = profile.tables.reduce((sum, { lookups }) => sum + lookups, 0);
  const perItem = profile.items.mean > 0 ? items / profile.items.mean : 0;
  const layers = spec.tables.map((): number => 0);
  for (const { table } of model.bags) layers[table] = (layers[table] ?? 0) + 1;
  const asked = new Map<number, AskedTable>();
  const costOf = lookupCosts(costs);
  for (const bag of model.bags) {
    const { table, net, weighted } = bag;
    const { name, dim, format } = spec.tables[table] as ModelSpec['tables'][number];
    const found = profiled.get(name);
    const share = 1 / (layers[table] as number);
    const grow = (all: number, ofUser: number): number => share * (ofUser + (all - ofUser) * perItem);
    const bags = grow(found?.bags ?? 0, found?.userBags ?? 0);
    const lookups = grow(found?.lookups ?? 0, found?.userLookups ?? 0);
    const { ns, inCacheNs } = costOf(format, dim);
    // Caches hold of each table in proportion to how often it is read.
    const room = lookupsOfAll > 0 ? (costs.cacheBytes * (found?.lookups ?? 0)) / lookupsOfAll : 0;
    const cached = cachedShare(tableBytes(spec.tables[table] as ModelSpec['tables'][number]), room, found?.hotShare ?? 0);
    const key = table * spec.nets.length + net;
    // Of several bags of a net the first one's: they mostly are of one kind.
    const entry = asked.get(key) ?? { table, net, partFloats: dim + (partsPooling(bag).divisor ? 1 : 0), work: noWork() };
    asked.set(key, entry);
    addWork(entry.work, {
      segments: 1,
      bags,
      lookups,
      lookupNs: lookups * (cached * inCacheNs + (1 - cached) * ns),
      sentBytes: SEGMENT_BYTES + bags * OFFSET_BYTES + lookups * (indexBytes + (weighted ? WEIGHT_BYTES : 0)),
      receivedBytes: bags * (dim + (wholePooling(bag).divisor ? 1 : 0)) * FLOAT_BYTES,
      rowWiseIds: 0,
      rowWisePartials: 0,
    });
  }
  return [...asked.values()];
}

/**
 * What is asked of one of so many parts of a table that is split by rows, if ids fall on its parts alike: a bag is sent to those parts only on
 * which it has ids, 1 - (1 - 1/parts)^(ids of a bag) of all, and a part without ids is not asked.
 */
export function partWork({ partFloats, work }: AskedTable, parts: number): Work {
  if (parts === 1) return work;
  const idsOfBag = work.bags > 0 ? work.lookups / work.bags : 0;
  const missed = idsOfBag >= 1 ? (1 - 1 / parts) ** idsOfBag : 1 - idsOfBag / parts;
  const bags = work.bags * (1 - missed);
  const segments = work.segments * (1 - missed ** (work.bags / Math.max(1, work.segments)));
  const lookups = work.lookups / parts;
  const idBytes = work.lookups > 0 ? (work.sentBytes - SEGMENT_BYTES * work.segments - OFFSET_BYTES * work.bags) / work.lookups : 0;
  return {
    segments,
    bags,
    lookups,
    lookupNs: work.lookupNs / parts,
    sentBytes: SEGMENT_BYTES * segments + OFFSET_BYTES * bags + idBytes * lookups,
    receivedBytes: bags * partFloats * FLOAT_BYTES,
    rowWiseIds: lookups,
    rowWisePartials: bags,
  };
}
