import type { Configuration } from './characterisation.js';

/** Configurations that differ in one thing, to be drawn together with the reference. */
export interface Family {
  readonly title: string;
  readonly members: readonly Configuration[];
}

/** Whether nothing is varied but strategy and number of shards. */
export const isPlain = (configuration: Configuration, all: readonly Configuration[]): boolean => varied(configuration, all) === null;

/** The configuration that all others are compared with: the first singular one, if it was run. */
export const referenceOf = (configurations: readonly Configuration[]): Configuration | null =>
  configurations.find((configuration) => isSingular(configuration) && isPlain(configuration, configurations)) ?? null;

/** One family a strategy, without singular, and one for each thing that was varied besides, in the order in which they first come. */
export function families(configurations: readonly Configuration[]): Family[] {
  const reference = referenceOf(configurations);
  const members = new Map<string, Configuration[]>();
  for (const configuration of configurations) {
    if (configuration === reference) continue;
    const title = varied(configuration, configurations) ?? configuration.strategy;
    members.set(title, [...(members.get(title) ?? []), configuration]);
  }
  return [...members].map(([title, family]) => ({ title, members: family }));
}

const isSingular = ({ strategy }: Configuration): boolean => strategy === 'singular';

/** What a configuration has other than a plain one, whose row format is that of the first; null: nothing. */
function varied({ rowFormat, batchItems, network, shardCpuLimit, rpc }: Configuration, all: readonly Configuration[]): string | null {
  if (network !== null) return 'network between hosts';
  if (shardCpuLimit !== null) return 'smaller sparse hosts';
  if (rowFormat !== all[0]?.rowFormat) return 'row formats';
  if (batchItems !== null) return 'batches';
  return rpc === 'paper' && all.some((other) => other.rpc === 'coalesced') ? 'one RPC per net and shard' : null;
}
