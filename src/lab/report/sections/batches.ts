import type { BatchScheduleResult, BatchSweep, Characterisation } from '../characterisation.js';
import { lengthAxis, logAxis } from '../charts/axes.js';
import { type Line, lineChart } from '../charts/lines.js';
import type { Charts } from '../charts.js';
import { referenceOf } from '../families.js';
import { type Html, html, NOTHING } from '../html.js';
import { formatNumber } from '../numbers.js';
import { dataBehind, dataTable, panels, type Section } from '../page.js';
import { colour } from '../palette.js';

export function batchesSection({ batchSweeps, batchSchedules, configurations }: Characterisation, charts: Charts): Section | null {
  const sweeps = batchSweeps.filter(({ points }) => points.length > 0);
  if (sweeps.length + batchSchedules.length === 0) return null;
  const reference = referenceOf(configurations)?.id ?? null;
  return {
    id: 'batches',
    heading: 'Batch size',
    content: [
      sweeps.length > 0 ? sweepPart(sweeps, reference, charts) : NOTHING,
      batchSchedules.length > 0 ? schedulePart(batchSchedules, reference, charts) : NOTHING,
    ],
  };
}

function sweepPart(sweeps: readonly BatchSweep[], reference: string | null, charts: Charts): Html {
  const batchAxis = itemsAxis(sweeps.flatMap(({ points }) => points.map(({ batchItems }) => batchItems)));
  const chart = (field: 'p50' | 'p99' | 'cpuMs', title: string) => {
    const values = sweeps.flatMap(({ points }) => points.flatMap((point) => point[field] ?? [])).filter((ms) => ms > 0);
    const lines = sweeps.map(
      ({ configuration, points }): Line => ({
        name: configuration,
        reference: configuration === reference,
        symbols: true,
        points: points.map((point) => [point.batchItems, point[field]]),
      }),
    );
    return {
      title,
      description: `${title} against items per batch. ${sweeps.map((sweep) => describe(sweep, field)).join(' ')}`,
      chart: lineChart({ lines, xAxis: batchAxis, yAxis: logAxis(values.length > 0 ? values : [1, 10], 'ms') }),
    };
  };
  const figures = [chart('p50', 'P50 latency'), chart('p99', 'P99 latency'), chart('cpuMs', 'CPU per request')];
  const tables = sweeps.map(({ configuration, points }) => ({
    caption: configuration,
    head: ['items per batch', 'P50, ms', 'P99, ms', 'CPU, ms'],
    rows: points.map(({ batchItems, p50, p99, cpuMs }) => [String(batchItems), ...[p50, p99, cpuMs].map(formatNumber)]),
  }));
  return html`<p class="note">A request is cut into batches of so many items, which run side by side. Small batches cost more messages, large ones leave cores idle. Serial load.</p>
${panels(figures, charts)}
${dataBehind(tables)}`;
}

const itemsAxis = (items: readonly number[]) => ({ ...logAxis(items, 'items per batch'), nameLocation: 'middle', nameGap: 26 }) as const;

const describe = ({ configuration, points }: BatchSweep, field: 'p50' | 'p99' | 'cpuMs'): string =>
  `${configuration}: ${points.map((point) => `${formatNumber(point[field])} ms at ${point.batchItems}`).join(', ')}.`;

function schedulePart(schedules: readonly BatchScheduleResult[], reference: string | null, charts: Charts): Html {
  const measured = schedules.flatMap((schedule) => schedule.measured);
  const lines = schedules.map(
    (schedule): Line => ({
      name: schedule.configuration,
      reference: schedule.configuration === reference,
      symbols: true,
      points: schedule.measured.map(({ items, qps }) => [items, qps]),
      marked: {
        position: schedule.measured.findIndex(({ items }) => items === schedule.best.items),
        label: `${schedule.best.items} items`,
      },
    }),
  );
  const figure = {
    title: 'Highest rate within the bound',
    description: `Highest rate against items per batch. ${schedules.map(({ configuration, best }) => `Best for ${configuration}: ${best.items} items, ${formatNumber(best.qps)} requests per second.`).join(' ')}`,
    chart: lineChart({
      lines,
      xAxis: itemsAxis(measured.map(({ items }) => items)),
      yAxis: { ...lengthAxis(''), name: 'requests/s', nameTextStyle: { color: colour('muted') } },
    }),
  };
  const best = dataTable({
    caption: 'Best batch sizes',
    head: ['configuration', 'P99 bound, ms', 'items per batch', 'requests/s', 'sizes tried'],
    rows: schedules.map((schedule) => [
      schedule.configuration,
      formatNumber(schedule.p99BoundMs),
      String(schedule.best.items),
      formatNumber(schedule.best.qps),
      String(schedule.measured.length),
    ]),
  });
  return html`<h3>Batch scheduler</h3>
<p class="note">The number of items per batch that answers the most requests a second within the bound, found by climbing; the best is marked. Batches of a request are sent side by side; the bound is met at no rate where the line is at 0.</p>
${measured.length > 0 ? panels([figure], charts) : NOTHING}
${best}`;
}
