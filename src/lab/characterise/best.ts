import { STRATEGIES, type Strategy } from '../../plan/placement/strategies.js';
import type { Configuration, Overhead } from '../report/characterisation.js';
import type { Judged } from './hypothesis.js';
import { type Setup, SINGULAR, setupId, sharded } from './setup.js';

const SINGULAR_ID = setupId(SINGULAR);

/** A configuration that is sharded as the paper's are, in the given row format, on hosts and a network like main's; with its overhead over singular. */
export interface StrategyResult {
  readonly configuration: Configuration;
  readonly overhead: Overhead;
}

/** Strategies with whole requests, one RPC per request and shard, as measured against singular under a kind of load. */
export function strategyResults(results: Judged, kind: Overhead['kind']): StrategyResult[] {
  const overheads = new Map(
    results.overheads
      .filter((overhead) => overhead.kind === kind && overhead.baseline === SINGULAR_ID)
      .map((overhead) => [overhead.configuration, overhead]),
  );
  return results.configurations.flatMap((configuration) => {
    const { shards, strategy } = configuration;
    const overhead = overheads.get(configuration.id);
    const plain = STRATEGIES.includes(strategy as Strategy) && configuration.id === setupId(sharded(strategy as Strategy, shards));
    return plain && overhead !== undefined ? [{ configuration, overhead }] : [];
  });
}

/** The configuration of several shards with the lowest serial P99 over singular; null when none was measured. */
export function bestStrategy(results: Judged): StrategyResult | null {
  return strategyResults(results, 'serial')
    .filter(({ configuration }) => configuration.shards > 1)
    .reduce<StrategyResult | null>(
      (best, each) => (best === null || each.overhead.p99.median < best.overhead.p99.median ? each : best),
      null,
    );
}

/** What the experiments beyond the strategies are made with: the best strategy that was measured, else load-balanced on the fewest shards. */
export function chosenSetup(results: Judged, shards: readonly number[]): Setup {
  const best = bestStrategy(results)?.configuration;
  return best === undefined ? sharded('load-balanced', Math.min(...shards)) : sharded(best.strategy as Strategy, best.shards);
}
