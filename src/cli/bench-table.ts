import { ENDPOINT_LAYERS, type EndpointStack, type EndpointStacks } from '../lab/endpoint/server-stages.js';
import type { NetworkCounters } from '../lab/hosts/host-network.js';
import type { BatchSchedule } from '../lab/load/batch-scheduler.js';
import { type Capacity, type Probe, probeAsJson } from '../lab/load/capacity-search.js';
import { answeredQps, cpuMsPerRequest, failures, type LoadRun, latencyAt, runAsJson } from '../lab/load/load-run.js';
import { type Column, figure, numeric, printTable, text } from './table.js';

/** One line of results: a load, and what it is called. */
export interface BenchResult {
  readonly name: string;
  /** Items per batch; null: requests as a whole. */
  readonly batchItems: number | null;
  /** All repeats. */
  readonly run: LoadRun;
  readonly repeats: readonly LoadRun[];
  readonly capacity?: Capacity;
  /** Of a served model, where it tells; otherwise empty. */
  readonly stacks: EndpointStacks;
}

const milliseconds = (value: number | null): string => (value === null ? '' : Number.isFinite(value) ? value.toFixed(3) : 'failed');

/** The table for people. Latencies in ms; a failed request is slower than any other. */
export function printResults(results: readonly BenchResult[]): void {
  const has = (of: (result: BenchResult) => boolean): boolean => results.some(of);
  const quantile = (heading: string, q: number): Column<BenchResult> =>
    figure(`${heading}, ms`, ({ run }) => milliseconds(latencyAt(run, q)));
  printTable(results, [
    text('load', ({ name }) => name),
    ...only(
      has(({ capacity }) => capacity !== undefined),
      figure('max qps', maxQps),
    ),
    ...only(
      has(({ run }) => run.offeredQps !== null),
      numeric('qps meant', ({ run }) => run.offeredQps, 1),
    ),
    numeric('qps answered', ({ run }) => answeredQps(run), 1),
    ...[quantile('P50', 0.5), quantile('P90', 0.9), quantile('P99', 0.99), quantile('P99.9', 0.999)],
    ...only(
      has(({ repeats }) => repeats.length > 1),
      figure('P99 of repeats, ms', p99OfRepeats),
    ),
    numeric('answered', ({ run }) => run.latency.count),
    figure('failed', ({ run }) => failedByCode(run)),
    figure('CPU main, ms', ({ run }) => milliseconds(cpuMsPerRequest(run)?.main ?? null)),
    ...only(
      has(({ run }) => cpuMsPerRequest(run)?.shards != null),
      figure('CPU shards, ms', ({ run }) => milliseconds(cpuMsPerRequest(run)?.shards ?? null)),
    ),
    numeric('GC, ms per s', ({ run: { cost, measuredMs } }) => (cost.collectionMs * 1000) / Math.max(1, measuredMs), 1),
    figure('loop delay P99, ms', ({ run }) => milliseconds(run.cost.loopDelayMs.p99)),
    ...only(
      has(({ run }) => run.lag.count > 0),
      figure('lag P99, ms', ({ run }) => milliseconds(run.lag.quantile(0.99))),
    ),
    text('valid', ({ run }) => (run.invalid.length === 0 ? 'yes' : 'no')),
  ]);
}

const STACK_QUANTILES = [0.5, 0.99];
const stacksOf = ({ stacks }: BenchResult): EndpointStack[] => STACK_QUANTILES.flatMap((q) => stacks.at(q) ?? []);

/** Where the round trips of a served model go; nothing where no server told. */
export function printStacks(results: readonly BenchResult[]): void {
  const rows = results.flatMap((result) => stacksOf(result).map((stack) => ({ name: result.name, stack })));
  if (rows.length === 0) return;
  printTable(rows, [
    text('load', ({ name }) => name),
    text('round trip', ({ stack }) => `P${stack.quantile * 100}`),
    ...ENDPOINT_LAYERS.map((layer) => numeric<(typeof rows)[number]>(`${layer}, ms`, ({ stack }) => stack.layers[layer], 3)),
    numeric('sum, ms', ({ stack }) => stack.totalMs, 3),
  ]);
}

const only = (condition: boolean, column: Column<BenchResult>): Column<BenchResult>[] => (condition ? [column] : []);

const maxQps = ({ capacity }: BenchResult): string =>
  capacity === undefined ? '' : (capacity.qps?.toFixed(1) ?? (capacity.limitedBy === 'search' ? 'not found yet' : 'none'));

function p99OfRepeats({ repeats }: BenchResult): string {
  const p99s = repeats.map((repeat) => latencyAt(repeat, 0.99) ?? Number.POSITIVE_INFINITY);
  return `${milliseconds(Math.min(...p99s))} to ${milliseconds(Math.max(...p99s))}`;
}

/** 0, or how many failed of what: 12 deadline_exceeded. */
function failedByCode({ errors }: LoadRun): string {
  const failed = Object.entries(errors).map(([code, times]) => `${times} ${code}`);
  return failed.length === 0 ? '0' : failed.join(', ');
}

export function probeLine({ qps, meetsBound, run }: Probe): string {
  const [p50, p99] = [0.5, 0.99].map((q) => milliseconds(latencyAt(run, q)));
  const verdict = run.invalid.length > 0 ? 'invalid' : meetsBound ? 'meets the bound' : 'misses it';
  return `  ${qps.toFixed(1)} qps: P50 ${p50}, P99 ${p99} ms, ${failures(run)} failed: ${verdict}`;
}

export const resultAsJson = (result: BenchResult): object => ({
  ...asJson(result),
  ...(result.stacks.count > 0 && { stacks: stacksOf(result) }),
});

const asJson = ({ name, batchItems, run, repeats, capacity }: BenchResult): object => ({
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
