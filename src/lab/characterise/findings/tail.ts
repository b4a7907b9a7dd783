import { bestStrategy, strategyResults } from '../best.js';
import { compareRatios, type Order, ratioText } from '../compare-ratios.js';
import { type Hypothesis, notMeasured } from '../hypothesis.js';

/** P99 of a sharded model may be this much longer than that of all tables in one process. */
const HEADLINE = 1.01;

const NO_STRATEGY = 'no strategy on several shards was';

function counts(orders: readonly Order[]): { lower: number; equal: number; higher: number } {
  const count = (order: Order): number => orders.filter((each) => each === order).length;
  return { lower: count('lower'), equal: count('equal'), higher: count('higher') };
}

export const TAIL_FINDINGS: readonly Hypothesis[] = [
  {
    id: 'p99-within-1-percent',
    statement: 'In the best sharded configuration, P99 is within 1 % of that of all tables in one process.',
    judge: (results) => {
      const best = bestStrategy(results);
      if (best === null) return notMeasured(results, 'strategies', NO_STRATEGY);
      const { configuration, overhead } = best;
      const { p50, p90, p99, cpu } = overhead;
      const all = [
        `P99 ${ratioText(p99)}`,
        `P50 ${ratioText(p50)}`,
        `P90 ${ratioText(p90)}`,
        ...(cpu === null ? [] : [`CPU ${ratioText(cpu)}`]),
      ];
      return {
        held: p99.median <= HEADLINE,
        numbers: `${configuration.id} over singular, serial: ${all.join(', ')}; held if the median of P99 is at most ${HEADLINE}`,
      };
    },
  },
  {
    id: 'tail-overhead-below-median-overhead',
    statement: 'The overhead of sharding at P99 is below that at P50, because large requests carry the cost of RPCs more easily.',
    judge: (results) => {
      const all = strategyResults(results, 'serial');
      if (all.length === 0) return notMeasured(results, 'strategies', NO_STRATEGY);
      const { lower, equal, higher } = counts(all.map(({ overhead: { p99, p50 } }) => compareRatios(p99, p50)));
      const best = bestStrategy(results) ?? all[0];
      const shown = best ? `; ${best.configuration.id}: P99 ${ratioText(best.overhead.p99)}, P50 ${ratioText(best.overhead.p50)}` : '';
      return {
        held: lower > all.length / 2,
        numbers: `of ${all.length} sharded configurations, serial: lower at P99 ${lower}, equal ${equal}, higher ${higher}${shown}; held if lower in more than half`,
      };
    },
  },
  {
    id: 'steady-rate-shrinks-tail-overhead',
    statement: 'At a steady open-loop rate, the overhead at P99 is smaller than with one request at a time.',
    judge: (results) => {
      const serial = new Map(strategyResults(results, 'serial').map((each) => [each.configuration.id, each]));
      const pairs = strategyResults(results, 'open-loop').flatMap((open) => {
        const own = serial.get(open.configuration.id);
        return own === undefined ? [] : [{ open, own }];
      });
      if (pairs.length === 0) return notMeasured(results, 'strategies', 'no strategy was measured both serially and at a steady rate');
      const { lower, equal, higher } = counts(pairs.map(({ open, own }) => compareRatios(open.overhead.p99, own.overhead.p99)));
      const best = bestStrategy(results)?.configuration.id;
      const shown = pairs.find(({ open }) => open.configuration.id === best) ?? pairs[0];
      const example =
        shown === undefined
          ? ''
          : `; ${shown.open.configuration.id}: ${ratioText(shown.open.overhead.p99)} at ${shown.open.overhead.qps} a second, ${ratioText(shown.own.overhead.p99)} serial`;
      return {
        held: lower > pairs.length / 2,
        numbers: `P99 over singular, of ${pairs.length} configurations: smaller at the steady rate ${lower}, equal ${equal}, larger ${higher}${example}; held if smaller in more than half`,
      };
    },
  },
];
