import { type Setup, SINGULAR, setupId, sharded } from '../../../../src/lab/characterise/setup.js';
import type { Configuration, Overhead, Ratio } from '../../../../src/lab/report/characterisation.js';

/** Ratios of rounds that lie within 0.01 of the median. */
export const about = (median: number, spread = 0.01): Ratio => ({ median, low: median - spread, high: median + spread });

export interface MadeUp {
  readonly setup: Setup;
  readonly baseline?: Setup;
  readonly kind?: Overhead['kind'];
  readonly p50?: Ratio;
  readonly p90?: Ratio;
  readonly p99?: Ratio;
  readonly cpu?: Ratio | null;
}

const GIGABYTE = 1e9;
const BYTES: Readonly<Record<string, number>> = { 'as given': 4 * GIGABYTE, int8: 1.125 * GIGABYTE, int4: 0.5625 * GIGABYTE };

export function configuration(setup: Setup, largestShare = 0.02): Configuration {
  const { strategy, shards, rpc, rowFormat, batchItems, network, shardCpuLimit } = setup;
  const bytes = BYTES[rowFormat] ?? 0;
  const holder = (name: string, share: number): Configuration['plan'][number] => ({
    ...{ name, bytes: bytes * share, tables: 10, lookupsPerRequest: 100 },
    largest: [{ table: 'table_00', bytes: bytes * share * largestShare, parts: 1 }],
  });
  return {
    ...{ id: setupId(setup), strategy, shards, rpc, batchItems, network, shardCpuLimit },
    rowFormat: rowFormat === 'as given' ? 'fp32' : rowFormat,
    plan: shards === 0 ? [holder('main', 1)] : Array.from({ length: shards }, (_, shard) => holder(`shard-${shard}`, 1 / shards)),
    runs: [],
  };
}

/** Results with singular, and what is given over it or over another baseline. */
export function results(entries: readonly MadeUp[], options: { readonly largestShare?: number } = {}) {
  const setups = new Map(
    [SINGULAR, ...entries.flatMap(({ setup, baseline = SINGULAR }) => [baseline, setup])].map((setup) => [setupId(setup), setup]),
  );
  return {
    configurations: [...setups.values()].map((setup) => configuration(setup, options.largestShare)),
    overheads: entries.map(
      ({
        setup,
        baseline = SINGULAR,
        kind = 'serial',
        p50 = about(1.2),
        p90 = about(1.1),
        p99 = about(1.1),
        cpu = about(1.5),
      }): Overhead => ({
        ...{ configuration: setupId(setup), baseline: setupId(baseline), kind, qps: kind === 'serial' ? null : 25, pairs: 5 },
        ...{ p50, p90, p99, cpu },
      }),
    ),
    skipped: [] as { experiment: string; reason: string }[],
  };
}

export const ONE = sharded('one-shard', 1);
export const LOAD_2 = sharded('load-balanced', 2);
export const LOAD_8 = sharded('load-balanced', 8);
export const CAPACITY_8 = sharded('capacity-balanced', 8);
export const NSBP_8 = sharded('nsbp', 8);
