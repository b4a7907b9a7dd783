import { SPREADING_STRATEGIES } from '../../../plan/placement/strategies.js';
import type { Configuration } from '../../report/characterisation.js';
import { type StrategyResult, strategyResults } from '../best.js';
import { compareRatios, ratioText } from '../compare-ratios.js';
import { type Hypothesis, type Judged, notMeasured, type Verdict } from '../hypothesis.js';

/** A table that has this share of all bytes dominates. */
const DOMINATING = 0.5;

const p50Text = ({ configuration, overhead }: StrategyResult): string => `${configuration.id} ${ratioText(overhead.p50)}`;

/** Results of one strategy, by the number of shards; null when there are fewer than two numbers. */
function fewestAndMost(results: Judged, strategy: string): { readonly fewest: StrategyResult; readonly most: StrategyResult } | null {
  const ofStrategy = strategyResults(results, 'serial')
    .filter(({ configuration }) => configuration.strategy === strategy)
    .sort((a, b) => a.configuration.shards - b.configuration.shards);
  const [fewest, most] = [ofStrategy[0], ofStrategy.at(-1)];
  return fewest === undefined || most === undefined || fewest === most ? null : { fewest, most };
}

function oneShardIsWorst(results: Judged): Verdict {
  const all = strategyResults(results, 'serial');
  const one = all.find(({ configuration }) => configuration.strategy === 'one-shard');
  const others = all.filter((each) => each !== one);
  if (one === undefined || others.length === 0) return notMeasured(results, 'strategies', 'one-shard and another strategy were not both');
  const orders = others.map((other) => compareRatios(other.overhead.p50, one.overhead.p50));
  const worse = others.filter((_, n) => orders[n] === 'higher');
  const better = orders.filter((order) => order === 'lower').length;
  const fastest = others.reduce((best, each) => (each.overhead.p50.median < best.overhead.p50.median ? each : best));
  return {
    held: worse.length === 0 && better > 0,
    numbers:
      `P50 over singular, serial: ${p50Text(one)}, the fastest ${p50Text(fastest)}; faster than one-shard ${better} of ${others.length}, ` +
      `slower ${worse.length}${worse.length > 0 ? ` (${worse.map(p50Text).join(', ')})` : ''}; held if none is slower and one is faster`,
  };
}

function loadBalancedImproves(results: Judged): Verdict {
  const ends = fewestAndMost(results, 'load-balanced');
  if (ends === null) return notMeasured(results, 'strategies', 'load-balanced was not measured on two numbers of shards');
  const order = compareRatios(ends.most.overhead.p50, ends.fewest.overhead.p50);
  return {
    held: order === 'lower',
    numbers: `P50 over singular, serial: ${p50Text(ends.fewest)}, ${p50Text(ends.most)}: ${order} on more shards; held if lower`,
  };
}

/** Share of the largest table, by the plan of all tables in one process. */
function largestShare(configurations: readonly Configuration[]): number | null {
  const main = configurations.find(({ strategy }) => strategy === 'singular')?.plan[0];
  const largest = main?.largest[0]?.bytes;
  return main === undefined || largest === undefined || main.bytes === 0 ? null : largest / main.bytes;
}

function dominatedModelGainsNothing(results: Judged): Verdict {
  const share = largestShare(results.configurations);
  if (share === null) return notMeasured(results, 'strategies', 'the tables of singular are not known');
  const percent = `the largest table has ${(share * 100).toFixed(1)} % of the bytes`;
  if (share < DOMINATING)
    return { held: null, numbers: `not measured: ${percent}, and none dominates this model (from ${DOMINATING * 100} % on)` };
  const ends = SPREADING_STRATEGIES.flatMap((strategy) => fewestAndMost(results, strategy) ?? []);
  if (ends.length === 0) return notMeasured(results, 'strategies', 'no strategy was measured on two numbers of shards');
  const faster = ends.filter(({ fewest, most }) => compareRatios(most.overhead.p50, fewest.overhead.p50) === 'lower');
  return {
    held: faster.length === 0,
    numbers:
      `${percent}; P50 over singular, serial: ${ends.map(({ fewest, most }) => `${p50Text(fewest)}, ${p50Text(most)}`).join('; ')}; ` +
      'held if no strategy is faster on more shards',
  };
}

export const SHARD_FINDINGS: readonly Hypothesis[] = [
  {
    id: 'one-shard-is-worst',
    statement: 'All tables on one sparse shard is the slowest way to shard.',
    judge: oneShardIsWorst,
  },
  {
    id: 'load-balanced-improves-with-shards',
    statement: 'With tables balanced by load, more shards make requests faster.',
    judge: loadBalancedImproves,
  },
  {
    id: 'dominating-table-gains-nothing',
    statement: 'A model with one dominating table gains nothing from more shards.',
    judge: dominatedModelGainsNothing,
  },
];
