import type { RowFormat } from '../../model/formats.js';
import type { Strategy } from '../../plan/placement/strategies.js';
import type { RpcMode } from '../../plan/predict/rpc-mode.js';

/** What lies between main and the shards besides the machine's loopback: added delay one way, and the share of packets that are lost. */
export interface NetworkConditions {
  readonly delayMs: number;
  readonly loss: number;
}

/** A way to serve the model, as data. */
export interface Setup {
  readonly strategy: Strategy;
  /** 0 of singular. */
  readonly shards: number;
  /** Null of singular: there is nothing to call. */
  readonly rpc: RpcMode | null;
  readonly rowFormat: RowFormat | 'as given';
  /** Items per batch; null: requests as a whole. */
  readonly batchItems: number | null;
  readonly network: NetworkConditions | null;
  /** Cores that each shard may use; null without a limit. */
  readonly shardCpuLimit: number | null;
}

export const SINGULAR: Setup = {
  strategy: 'singular',
  shards: 0,
  rpc: null,
  rowFormat: 'as given',
  batchItems: null,
  network: null,
  shardCpuLimit: null,
};

export const sharded = (strategy: Strategy, shards: number): Setup => ({ ...SINGULAR, strategy, shards, rpc: 'coalesced' });

/** The name that results know it by: load-balanced-4, load-balanced-4-paper-batch16, singular-int8. What is usual is left out. */
export function setupId({ strategy, shards, rpc, rowFormat, batchItems, network, shardCpuLimit }: Setup): string {
  return [
    strategy,
    ...(shards > 1 ? [shards] : []),
    ...(rpc === 'paper' ? ['paper'] : []),
    ...(rowFormat === 'as given' ? [] : [rowFormat]),
    ...(batchItems === null ? [] : [`batch${batchItems}`]),
    ...(network === null ? [] : [`delay${network.delayMs}ms`, ...(network.loss > 0 ? [`loss${network.loss * 100}%`] : [])]),
    ...(shardCpuLimit === null ? [] : [`cpu${shardCpuLimit}`]),
  ].join('-');
}

/** A setup, and the one that runs in turn with it and counts as 1. */
export interface Compared {
  readonly setup: Setup;
  /** Itself for a baseline. */
  readonly baseline: Setup;
}

/** Setups that all compare with the first. */
export const comparedWith = (baseline: Setup, others: readonly Setup[]): Compared[] =>
  [baseline, ...others].map((setup) => ({ setup, baseline }));

/**
 * Parts of a comparison that are open at once, with at most so many shards each (more when a single one and its baseline have more). Every part has the
 * baselines of its setups, so that pairs always run side by side.
 */
export function inParts(compared: readonly Compared[], mostShards: number): Compared[][] {
  const parts: Compared[][] = [];
  let part = new Map<string, Compared>();
  const shardsOf = (entries: Iterable<Compared>): number => [...entries].reduce((sum, { setup }) => sum + setup.shards, 0);
  for (const entry of compared) {
    const baseline = { setup: entry.baseline, baseline: entry.baseline };
    const needed = [baseline, entry].filter(({ setup }) => !part.has(setupId(setup)));
    const wanted = new Map([...part, ...needed.map((needs) => [setupId(needs.setup), needs] as const)]);
    if (part.size > 0 && needed.length > 0 && shardsOf(wanted.values()) > mostShards) {
      parts.push([...part.values()]);
      part = new Map([baseline, entry].map((needs) => [setupId(needs.setup), needs]));
    } else part = wanted;
  }
  if (part.size > 0) parts.push([...part.values()]);
  return parts;
}
