import type { LatencyHistogram } from '../../../observe/latency-histogram.js';
import type { Chart } from '../charts.js';
import { quantileName } from '../numbers.js';
import { colour } from '../palette.js';
import { logAxis } from './axes.js';
import { lineChart } from './lines.js';

export interface TailLine {
  readonly name: string;
  readonly latency: LatencyHistogram;
  readonly reference?: boolean;
}

export interface TailPoint {
  /** 1 - q: the share of requests that are slower. */
  readonly tail: number;
  readonly ms: number;
}

const POINTS_PER_DECADE = 20;

/** The distribution at shares that fall evenly on a logarithmic axis, from nine tenths of the requests down to the last single one. */
export function tailPoints(latency: LatencyHistogram): TailPoint[] {
  const { count } = latency;
  const points: TailPoint[] = [];
  for (let step = 1; 10 ** (-step / POINTS_PER_DECADE) * count >= 1; step++) {
    const tail = 10 ** (-step / POINTS_PER_DECADE);
    const ms = latency.quantile(1 - tail);
    if (ms !== null && ms > 0) points.push({ tail, ms });
  }
  return points;
}

/** Charts that are to be compared share the range of latencies. */
export const tailRange = (lines: readonly TailLine[]): number[] => {
  const values = lines.flatMap(({ latency }) => tailPoints(latency).map(({ ms }) => ms));
  return values.length === 0 ? [1, 10] : [Math.min(...values), Math.max(...values)];
};

/** Latency by quantile, with a decade of the tail as wide as the next. */
export function tailChart(lines: readonly TailLine[], range: readonly number[] = tailRange(lines)): Chart {
  const drawn = lines.map(({ name, latency, reference = false }) => ({
    name,
    reference,
    points: tailPoints(latency).map(({ tail, ms }) => [tail, ms] as const),
  }));
  const last = Math.min(0.1, ...drawn.flatMap(({ points }) => points.map(([tail]) => tail)));
  const ticks = [0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6].filter((tail) => tail >= last);
  const text = { color: colour('muted') };
  const rule = { lineStyle: { color: colour('rule') } };
  return lineChart({
    lines: drawn,
    xAxis: {
      type: 'log',
      inverse: true,
      name: 'quantile of requests',
      nameLocation: 'middle',
      nameGap: 26,
      nameTextStyle: text,
      min: last,
      max: 1,
      axisLine: { ...rule, onZero: false },
      axisTick: { customValues: ticks, ...rule },
      axisLabel: { ...text, customValues: ticks, formatter: (tail: number) => quantileName(1 - tail) },
      splitLine: { show: true, ...rule },
    },
    yAxis: logAxis(range, 'ms'),
  });
}
