import type { NetworkCounters } from '../lab/hosts/host-network.js';
import type { BatchSchedule } from '../lab/load/batch-scheduler.js';
import { type Capacity, type Probe, probeAsJson } from '../lab/load/capacity-search.js';
import { answeredQps, cpuMsPerRequest, failures, type LoadRun, latencyAt, runAsJson } from '../lab/load/load-run.js';

/** One line of results: a load, and what it is called. */
export interface BenchResult {
  readonly name: string;
  /** Items per batch; null: requests as a whole. */
  readonly batchItems: number | null;
  /** All repeats. */
  readonly run: LoadRun;
  readonly repeats: readonly LoadRun[];
  readonly capacity?: Capacity;
}

const milliseconds = (value: number | null): string => (value === null ? '' : Number.isFinite(value) ? value.toFixed(3) : 'failed');

/** A row of the table for people. Latencies in ms; a failed request is slower than any other. */
export function resultRow({ name, run, repeats, capacity }: BenchResult): Record<string, string | number> {
  const { lag, cost, offeredQps, invalid } = run;
  const [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map((q) => milliseconds(latencyAt(run, q)));
  const p99s = repeats.map((repeat) => latencyAt(repeat, 0.99) ?? Number.POSITIVE_INFINITY);
  const cpu = cpuMsPerRequest(run);
  return {
    load: name,
    ...(capacity && { 'max qps': capacity.qps?.toFixed(1) ?? (capacity.limitedBy === 'search' ? 'not found yet' : 'none') }),
    ...(offeredQps !== null && { 'qps meant': offeredQps.toFixed(1) }),
    'qps answered': answeredQps(run).toFixed(1),
    ...{ P50: p50 ?? '', P90: p90 ?? '', P99: p99 ?? '', 'P99.9': p999 ?? '' },
    ...(repeats.length > 1 && { 'P99 of repeats': `${milliseconds(Math.min(...p99s))} to ${milliseconds(Math.max(...p99s))}` }),
    answered: run.latency.count,
    failed: failedByCode(run),
    'CPU main': milliseconds(cpu?.main ?? null),
    ...(cpu?.shards != null && { 'CPU shards': milliseconds(cpu.shards) }),
    'GC ms/s': ((cost.collectionMs * 1000) / Math.max(1, run.measuredMs)).toFixed(1),
    'loop delay P99': milliseconds(cost.loopDelayMs.p99),
    ...(lag.count > 0 && { 'lag P99': milliseconds(lag.quantile(0.99)) }),
    valid: invalid.length === 0 ? 'yes' : 'no',
  };
}

/** 0, or how many failed of what: 12 deadline_exceeded. */
function failedByCode({ errors }: LoadRun): string | number {
  const failed = Object.entries(errors).map(([code, times]) => `${times} ${code}`);
  return failed.length === 0 ? 0 : failed.join(', ');
}

export function probeLine({ qps, meetsBound, run }: Probe): string {
  const [p50, p99] = [0.5, 0.99].map((q) => milliseconds(latencyAt(run, q)));
  const verdict = run.invalid.length > 0 ? 'invalid' : meetsBound ? 'meets the bound' : 'misses it';
  return `  ${qps.toFixed(1)} qps: P50 ${p50}, P99 ${p99} ms, ${failures(run)} failed: ${verdict}`;
}

export const resultAsJson = ({ name, batchItems, run, repeats, capacity }: BenchResult): object => ({
  name,
  batchItems,
  ...runAsJson(run),
  repeats: repeats.map(runAsJson),
  ...(capacity && { capacity: { ...capacity, probes: capacity.probes.map(probeAsJson) } }),
});

export function scheduleLine({ best, measured }: BatchSchedule): string {
  if (measured.length === 0) return 'no batch size was measured';
  const all = `measured: ${measured.map(({ items, qps }) => `${items}: ${qps.toFixed(1)}`).join(', ')}`;
  return best.qps === 0
    ? `no batch size meets the bound (${all})`
    : `best batch size: ${best.items} items, ${best.qps.toFixed(1)} qps (${all})`;
}

export const networkLine = ({ accepted, lost, overflowed, refused, cpuMs }: NetworkCounters): string =>
  `emulated network: ${accepted} frames, ${lost} lost as asked for, ${overflowed + refused} for want of room; ${cpuMs.toFixed(0)} ms CPU of its own, in none of the figures above`;
