import type { Costs } from './costs.js';
import type { DenseWork } from './dense-work.js';
import { addWork, noWork, type Work } from './work.js';

/** What a sparse shard, or main itself, is asked for a request, in so many RPCs. */
export interface Asked {
  readonly rpcs: number;
  readonly work: Work;
}

const perThousand = (count: number): number => count / 1000;

/**
 * How much of each of main's costs a request has, apart from tables that main pools itself and dense layers. The times of these amounts are in us;
 * calibrating finds the costs that explain measured requests by the same amounts.
 */
export function mainAmounts(shards: readonly Asked[], own: Work): Record<keyof Costs['main'], number> {
  const sent = noWork();
  for (const { work } of shards) addWork(sent, work);
  const rpcs = shards.reduce((sum, asked) => sum + asked.rpcs, 0);
  return {
    fixedUs: 1,
    // A row-wise part that has ids in half of the requests is half an RPC.
    askUs: Math.min(1, rpcs),
    usPerRpc: rpcs,
    nsPerSegment: perThousand(sent.segments + own.segments),
    nsPerRowWiseId: perThousand(sent.rowWiseIds),
    nsPerRowWisePartial: perThousand(sent.rowWisePartials),
    nsPerByteSent: perThousand(sent.sentBytes),
    nsPerByteReceived: perThousand(sent.receivedBytes),
  };
}

/** When main has computed for so long, caches have nothing left of a shard that waits. */
const COLD_AFTER_US = 2000;

/** Amounts that costs multiply, of a request whose dense layers take main so long. */
export function shardAmounts({ rpcs, work }: Asked, denseUs: number): Record<keyof Costs['shard'], number> {
  return {
    usPerRpc: rpcs,
    usPerColdRpc: rpcs * Math.min(1, denseUs / COLD_AFTER_US),
    nsPerByteSent: perThousand(work.sentBytes),
    nsPerByteReceived: perThousand(work.receivedBytes),
  };
}

/** us of these amounts. */
export function usOf<K extends string>(amounts: Readonly<Record<K, number>>, costs: Readonly<Record<K, number>>): number {
  let us = 0;
  for (const key in amounts) us += amounts[key] * costs[key];
  return us;
}

/** us of an engine that pools this, main's or a shard's. */
export const poolUs = ({ pool }: Costs, { segments, bags, lookupNs }: Work): number =>
  perThousand(segments * pool.nsPerSegment + bags * pool.nsPerBag + lookupNs);

/** us of a stage of the dense net for so many items. */
export const denseUs = (
  { dense }: Costs,
  { weights, sharedMacs, macsPerItem, pairMacs, pairMacsPerItem }: DenseWork,
  items: number,
): number =>
  perThousand(
    weights * dense.nsPerWeight +
      (sharedMacs + macsPerItem * items) * dense.nsPerMac +
      (pairMacs + pairMacsPerItem * items) * dense.nsPerPairMac,
  );
