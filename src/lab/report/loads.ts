import type { CharacterisedRun, Configuration } from './characterisation.js';
import { formatNumber } from './numbers.js';

/** The same load on several configurations. */
export interface LoadRuns {
  readonly title: string;
  /** Loads of at least one configuration, in the order of the file. */
  readonly runs: readonly { readonly configuration: Configuration; readonly run: CharacterisedRun }[];
}

type Load = Pick<CharacterisedRun, 'kind' | 'qps'>;

export const loadTitle = ({ kind, qps }: Load): string =>
  kind === 'serial' ? 'serial, one request at a time' : `open loop, ${formatNumber(qps)} requests/s`;

/** Serial load first, then open-loop by rate. Only runs that the predicate takes. */
export function runsByLoad(configurations: readonly Configuration[], wanted: (run: CharacterisedRun) => boolean): LoadRuns[] {
  const all = configurations.flatMap((configuration) => configuration.runs.filter(wanted).map((run) => ({ configuration, run })));
  return groupByLoad(all, ({ run }) => run).map((runs) => ({ title: loadTitle((runs[0] as (typeof runs)[number]).run), runs }));
}

/** Groups of one load each, serial first, then ascending in rate. */
export function groupByLoad<T>(all: readonly T[], loadOf: (one: T) => Load): T[][] {
  const groups = new Map<number, T[]>();
  for (const one of all) {
    const rate = loadOf(one).qps ?? 0;
    groups.set(rate, [...(groups.get(rate) ?? []), one]);
  }
  return [...groups].sort(([a], [b]) => a - b).map(([, group]) => group);
}
