import { compareWithBaseline, ratioText } from '../compare-ratios.js';
import { type Hypothesis, type Judged, notMeasured, type Verdict } from '../hypothesis.js';

/** Sharded against singular, with whole requests on both sides. */
function oneLargeBatch({ configurations, overheads, skipped }: Judged): Verdict {
  const whole = new Map(
    configurations
      .filter(
        ({ shards, batchItems, network, shardCpuLimit }) => shards > 1 && batchItems === null && network === null && shardCpuLimit === null,
      )
      .map((configuration) => [configuration.id, configuration]),
  );
  const all = overheads.filter(
    ({ configuration, baseline, kind }) => kind === 'serial' && baseline === 'singular' && whole.has(configuration),
  );
  if (all.length === 0)
    return notMeasured({ configurations, overheads, skipped }, 'batches', 'no sharded configuration with whole requests was');
  const faster = all.filter(({ p50 }) => compareWithBaseline(p50) === 'lower');
  const fastest = all.reduce((best, each) => (each.p50.median < best.p50.median ? each : best));
  return {
    held: faster.length > 0,
    numbers:
      `whole requests as one batch, serial, P50 over singular: faster ${faster.length} of ${all.length} configurations, ` +
      `the fastest ${fastest.configuration} ${ratioText(fastest.p50)} (${whole.get(fastest.configuration)?.rpc}); held if one is faster`,
  };
}

export const BATCH_FINDINGS: readonly Hypothesis[] = [
  {
    id: 'one-large-batch-beats-singular',
    statement: 'With one large batch per request, shards can be faster than all tables in one process.',
    judge: oneLargeBatch,
  },
];
