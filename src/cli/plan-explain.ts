import { formatBytes } from '../lab/report/numbers.js';
import type { PlanPrediction, PredictedShard } from '../plan/predict/predict-plan.js';
import type { ComparedStrategy, Planned } from '../plan/search/scenario.js';

/** Tables with more rows than these do not help; the slowest shards are shown. */
const SHOWN_SHARDS = 32;

const us = (value: number): string => (value >= 10_000 ? `${(value / 1000).toFixed(1)} ms` : `${value.toFixed(0)} us`);

/** What each shard holds and is asked, the slowest first. */
export function printShards({ shards, main, boundingShard }: PlanPrediction): void {
  const row = ({ shard, tables, bytes, lookups, rpcs, serviceUs, cpuUs }: PredictedShard): Record<string, string | number> => ({
    shard: shard === boundingShard ? `${shard} (bounding)` : shard,
    tables,
    bytes: formatBytes(bytes),
    'rows per request': Number(lookups.toFixed(1)),
    'RPCs per request': Number(rpcs.toFixed(2)),
    pooling: us(serviceUs),
    'CPU per request': us(cpuUs),
  });
  const slowest = [...shards].sort((a, b) => b.serviceUs - a.serviceUs).slice(0, SHOWN_SHARDS);
  console.table([...slowest, main].map(row));
  if (shards.length > SHOWN_SHARDS) console.log(`and ${shards.length - SHOWN_SHARDS} shards that pool for less time than these`);
}

const figures = ({ shards, rpcs, cpuUs, p50Us, p99Us, sentBytes, receivedBytes, boundingShard }: PlanPrediction) => ({
  shards: shards.length,
  P50: us(p50Us),
  P99: us(p99Us),
  'CPU per request': us(cpuUs),
  'RPCs per request': Number(rpcs.toFixed(1)),
  'sent, received': `${formatBytes(sentBytes)}, ${formatBytes(receivedBytes)}`,
  'bounding shard': boundingShard ?? 'none',
});

export function printStrategies(compared: readonly ComparedStrategy[]): void {
  console.table(
    compared.map(({ strategy, prediction }) =>
      prediction === null ? { strategy, P50: 'does not fit' } : { strategy, ...figures(prediction) },
    ),
  );
  for (const { strategy, refused } of compared) if (refused !== null) console.log(`${strategy}: ${refused.message}`);
}

/** The plan beside what it would be under other circumstances. */
export function printWhatIf(whatIf: string, baseline: Planned, changed: Planned): void {
  const row = (plan: string, { prediction, plan: { strategy } }: Planned) => ({ plan, strategy, ...figures(prediction) });
  console.table([row('as given', baseline), row(whatIf, changed)]);
  const ratio = (of: (prediction: PlanPrediction) => number): string =>
    `${((100 * of(changed.prediction)) / of(baseline.prediction)).toFixed(0)} %`;
  console.log(
    `${whatIf}: P50 ${ratio(({ p50Us }) => p50Us)}, P99 ${ratio(({ p99Us }) => p99Us)}, CPU ${ratio(({ cpuUs }) => cpuUs)} of what it is as given`,
  );
}
