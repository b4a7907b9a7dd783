import { expect, test } from 'vitest';
import { ShardMetrics } from '../../../../src/observe/metrics/shard-metrics.js';
import { SHARD_STATS, type ShardStats } from '../../../../src/rpc/shard-stats.js';
import { seriesOf, textOf, typesOf } from '../../../reference/metered.js';
import { hasPromtool, promtool } from '../../../reference/promtool.js';

/** Number n of the table is n. */
const stats: ShardStats = {
  ...(Object.fromEntries(Object.keys(SHARD_STATS).map((name, n) => [name, n])) as unknown as ShardStats),
  ...{ shard: 'shard-0', model: 'abc', plan: 'def', epoch: 7, kernels: 'avx2:1', state: 'ready' },
  ...{ uptimeMs: 2500, unseen: { clicks: 3 }, hugePageBytes: null },
};

test('all that a shard says of itself is told, in base units; what the system does not tell is left out', async () => {
  const metrics = new ShardMetrics('shard-0', () => stats);
  const series = seriesOf(await textOf(metrics.pieces()));
  const of = (name: string, labels = '') => series.get(`terabag_shard_${name}{shard="shard-0"${labels}}`);
  expect([metrics.ready, of('ready')]).toEqual([true, 1]);
  expect(of('uptime_seconds')).toBe(2.5);
  expect(of('requests_total')).toBe(stats.requests);
  expect(of('cut_connections_total')).toBe(stats.cut);
  expect(of('unseen_ids_total', ',table="clicks"')).toBe(3);
  expect(of('table_resident_bytes')).toBe(stats.residentBytes);
  expect(of('table_huge_page_bytes')).toBeUndefined();
  expect(of('info', ',model_hash="abc",plan_hash="def",epoch="7",kernels="avx2:1"')).toBe(1);
  expect(series.get('process_resident_memory_bytes')).toBeGreaterThan(0);
});

test('a shard without its tables, or one that drains, is not ready', async () => {
  for (const told of [null, { ...stats, state: 'draining' }]) {
    const metrics = new ShardMetrics('shard-0', () => told);
    const series = seriesOf(await textOf(metrics.pieces()));
    expect([metrics.ready, series.get('terabag_shard_ready{shard="shard-0"}')]).toEqual([false, 0]);
    expect(series.has('terabag_shard_requests_total{shard="shard-0"}')).toBe(told !== null);
  }
});

test.skipIf(!hasPromtool)('promtool finds nothing to say about the metrics of a shard', async () => {
  const body = await textOf(new ShardMetrics('shard-0', () => stats).pieces());
  expect(typesOf(body).size).toBeGreaterThan(40);
  expect(promtool(['check', 'metrics'], body)).toEqual({ status: 0, output: '' });
});
