import type { PlanPrediction, PredictedShard } from '../plan/predict/predict-plan.js';
import type { ComparedStrategy, Planned } from '../plan/search/scenario.js';
import { bytes, microseconds, numeric, printTable, text } from './table.js';

/** Tables with more rows than these do not help; the slowest shards are shown. */
const SHOWN_SHARDS = 32;

/** What each shard holds and is asked, the slowest first. */
export function printShards({ shards, main, boundingShard }: PlanPrediction): void {
  const slowest = [...shards].sort((a, b) => b.serviceUs - a.serviceUs).slice(0, SHOWN_SHARDS);
  printTable<PredictedShard>(
    [...slowest, main],
    [
      text('shard', ({ shard }) => (shard === boundingShard ? `${shard} (bounding)` : shard)),
      numeric('tables', ({ tables }) => tables),
      bytes('size', (shard) => shard.bytes),
      numeric('rows', ({ lookups }) => lookups, 1),
      numeric('RPCs', ({ rpcs }) => rpcs, 2),
      microseconds('pooling', ({ serviceUs }) => serviceUs),
      microseconds('CPU', ({ cpuUs }) => cpuUs),
    ],
  );
  console.log('rows, RPCs, pooling and CPU are per request');
  if (shards.length > SHOWN_SHARDS) console.log(`and ${shards.length - SHOWN_SHARDS} shards that pool for less time than these`);
}

/** A plan's name, and its prediction; null where it does not fit. */
interface Predicted {
  readonly name: string;
  readonly prediction: PlanPrediction | null;
}

function printPredictions(heading: string, predicted: readonly Predicted[]): void {
  const of = (figureOf: (prediction: PlanPrediction) => number) => (row: Predicted) =>
    row.prediction === null ? null : figureOf(row.prediction);
  printTable(predicted, [
    text(heading, ({ name }) => name),
    numeric(
      'shards',
      of(({ shards }) => shards.length),
    ),
    microseconds(
      'P50',
      of(({ p50Us }) => p50Us),
    ),
    microseconds(
      'P99',
      of(({ p99Us }) => p99Us),
    ),
    microseconds(
      'CPU',
      of(({ cpuUs }) => cpuUs),
    ),
    numeric(
      'RPCs',
      of(({ rpcs }) => rpcs),
      1,
    ),
    bytes(
      'sent',
      of(({ sentBytes }) => sentBytes),
    ),
    bytes(
      'received',
      of(({ receivedBytes }) => receivedBytes),
    ),
    text('bounding', ({ prediction }) => (prediction === null ? 'does not fit' : (prediction.boundingShard ?? 'none'))),
  ]);
}

export function printStrategies(compared: readonly ComparedStrategy[]): void {
  console.log();
  printPredictions(
    'strategy',
    compared.map(({ strategy, prediction }) => ({ name: strategy, prediction })),
  );
  for (const { strategy, refused } of compared) if (refused !== null) console.log(`${strategy}: ${refused.message}`);
}

/** The plan beside what it would be under other circumstances. */
export function printWhatIf(whatIf: string, baseline: Planned, changed: Planned): void {
  const named = (name: string, { prediction }: Planned): Predicted => ({ name, prediction });
  console.log();
  printPredictions('plan', [named('as given', baseline), named(whatIf, changed)]);
  const ratio = (of: (prediction: PlanPrediction) => number): string =>
    `${((100 * of(changed.prediction)) / of(baseline.prediction)).toFixed(0)} %`;
  console.log(
    `${whatIf}: P50 ${ratio(({ p50Us }) => p50Us)}, P99 ${ratio(({ p99Us }) => p99Us)}, CPU ${ratio(({ cpuUs }) => cpuUs)} of what it is as given`,
  );
}
