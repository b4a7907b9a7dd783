import { TerabagError } from '../../errors.js';
import type { ModelSpec } from '../../model/spec.js';
import { assumedBagLoad, bagsOfTables } from '../profile/profile-from-spec.js';
import { balance } from './balance.js';
import { packFirstFit } from './first-fit.js';
import { type Placement, type TableLoad, totalBytes } from './table-load.js';

/** A group of tables that is placed by itself: those of one net. */
type Group = readonly TableLoad[];

/**
 * The tables of each net that has any. A table that several nets read belongs to the one that looks up the most ids by the spec's own
 * figures, since a profile counts all bags of a table together; to the first of equals. One that none reads belongs to the first net.
 */
export function groupByNet(spec: ModelSpec, tables: readonly TableLoad[]): Group[] {
  const bags = new Map(bagsOfTables(spec).map((read, table) => [spec.tables[table]?.name ?? '', read]));
  const groups = Array.from({ length: Math.max(1, spec.nets.length) }, (): TableLoad[] => []);
  for (const table of tables) {
    const lookups = new Array<number>(groups.length).fill(0);
    for (const { bag, net } of bags.get(table.name) ?? []) lookups[net] = (lookups[net] ?? 0) + assumedBagLoad(bag).lookups;
    groups[lookups.indexOf(Math.max(...lookups))]?.push(table);
  }
  return groups.filter((group) => group.length > 0);
}

/** Net after net, as many shards as the sizes need, none with more than the limit. @returns the placement and the shards used. */
export function packNets(groups: readonly Group[], limitBytes: number, maxShards: number): { placement: Placement; shards: number } {
  const placement: Placement = new Map();
  let shards = 0;
  for (const group of groups) {
    const packed = packFirstFit(group, limitBytes, maxShards - shards);
    addShifted(placement, packed.placement, shards);
    shards += packed.shards;
  }
  return { placement, shards };
}

/**
 * A given number of shards over the nets, so that the fullest net's mean of bytes per shard is the least possible; equal bytes within a net.
 * With more nets than shards, the smallest nets share one.
 */
export function spreadNets(groups: readonly Group[], shards: number, limitBytes: number): Placement {
  const joined = joinSmallest(groups, shards);
  const least = joined.map(() => 1);
  for (;;) {
    const counts = apportion(joined, shards, least);
    const { placement, refusal } = balanceEach(joined, counts, limitBytes);
    if (refusal === null) return placement;
    // Tables that do not fill their shards need more of them than the net's share of bytes.
    least[refusal.group] = (counts[refusal.group] as number) + 1;
    if (least.reduce((sum, count) => sum + count, 0) > shards) throw refusal.error;
  }
}

/** Balances the groups over their shards, those of one after those of the other, until one is refused. */
function balanceEach(
  groups: readonly Group[],
  counts: readonly number[],
  limitBytes: number,
): { placement: Placement; refusal: { readonly group: number; readonly error: TerabagError } | null } {
  const placement: Placement = new Map();
  let first = 0;
  for (const [group, tables] of groups.entries()) {
    const shards = counts[group] as number;
    try {
      addShifted(placement, balance(tables, { shards, limitBytes, loadOf: ({ bytes }) => bytes }), first);
    } catch (thrown) {
      const error = TerabagError.from(thrown);
      if (error.code !== 'does_not_fit') throw error;
      return { placement, refusal: { group, error } };
    }
    first += shards;
  }
  return { placement, refusal: null };
}

function addShifted(placement: Placement, added: Placement, firstShard: number): void {
  for (const [table, parts] of added)
    placement.set(
      table,
      parts.map((shard) => shard + firstShard),
    );
}

function joinSmallest(groups: readonly Group[], most: number): Group[] {
  const joined = [...groups];
  while (joined.length > most) {
    joined.sort((a, b) => totalBytes(b) - totalBytes(a));
    const [a = [], b = []] = joined.splice(-2);
    joined.push([...a, ...b]);
  }
  return joined;
}

/** Shards per group, at least `least`: one by one to the group with the most bytes per shard (D'Hondt), which makes the greatest mean least. */
function apportion(groups: readonly Group[], shards: number, least: readonly number[]): number[] {
  const bytes = groups.map(totalBytes);
  const counts = [...least];
  const mean = (group: number): number => (bytes[group] as number) / (counts[group] as number);
  for (let left = groups.length === 0 ? 0 : shards - counts.reduce((sum, count) => sum + count, 0); left > 0; left--) {
    let fullest = 0;
    for (let group = 1; group < groups.length; group++) if (mean(group) > mean(fullest)) fullest = group;
    counts[fullest] = (counts[fullest] as number) + 1;
  }
  return counts;
}
