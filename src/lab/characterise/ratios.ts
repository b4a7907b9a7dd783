import { cpuMsPerRequest, type LoadRun, latencyAt } from '../load/load-run.js';
import type { Overhead, Ratio } from '../report/characterisation.js';

/** The median of ratios of pairs, and the lowest and highest of them; null without any. Of an even number, the median is the mean of the middle two. */
export function ratioOf(ratios: readonly number[]): Ratio | null {
  if (ratios.length === 0) return null;
  const ascending = [...ratios].sort((a, b) => a - b);
  const at = (place: number): number => ascending[place] as number;
  const half = ascending.length / 2;
  const median = Number.isInteger(half) ? (at(half - 1) + at(half)) / 2 : at(Math.floor(half));
  return { median, low: at(0), high: at(ascending.length - 1) };
}

/** Figures of one setup, round by round; null or infinite where a round has none. */
type Figures = readonly (number | null)[];

/** Pairs of the same round; one in which either side has no figure says nothing. */
function ratios(own: Figures, baseline: Figures): number[] {
  return own.flatMap((value, round) => {
    const base = baseline[round] ?? null;
    return value === null || base === null || !Number.isFinite(value) || !Number.isFinite(base) || base <= 0 ? [] : [value / base];
  });
}

/** CPU per request of main and shards, ms; null without an answer, and when shards did not tell theirs. */
export function cpuOf(
  run: LoadRun,
  shards: number,
): { readonly main: number; readonly shards: number | null; readonly total: number | null } | null {
  const cpu = cpuMsPerRequest(run);
  if (cpu === null) return null;
  const ofShards = shards === 0 ? 0 : cpu.shards;
  return { main: cpu.main, shards: ofShards, total: ofShards === null ? null : cpu.main + ofShards };
}

/** The rounds of a setup with so many shards. */
export interface Rounds {
  readonly runs: readonly LoadRun[];
  readonly shards: number;
}

/** Round by round, what a setup needs of what its baseline needs under the same load; null when no pair was answered. A run that is invalid is in no pair. */
export function pairRounds(own: Rounds, baseline: Rounds): Pick<Overhead, 'pairs' | 'p50' | 'p90' | 'p99' | 'cpu'> | null {
  const over = (figure: (run: LoadRun, shards: number) => number | null): number[] => {
    const figures = ({ runs, shards }: Rounds): Figures => runs.map((run) => (run.invalid.length > 0 ? null : figure(run, shards)));
    return ratios(figures(own), figures(baseline));
  };
  const latency = (q: number): number[] => over((run) => latencyAt(run, q));
  const [p50, p90, p99] = [0.5, 0.9, 0.99].map((q) => ratioOf(latency(q)));
  if (!p50 || !p90 || !p99) return null;
  return { pairs: latency(0.5).length, p50, p90, p99, cpu: ratioOf(over((run, shards) => cpuOf(run, shards)?.total ?? null)) };
}
