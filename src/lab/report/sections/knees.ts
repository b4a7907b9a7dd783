import type { Characterisation, KneeCurve } from '../characterisation.js';
import { lengthAxis, logAxis } from '../charts/axes.js';
import { type Line, lineChart } from '../charts/lines.js';
import type { Charts } from '../charts.js';
import { families, referenceOf } from '../families.js';
import { html } from '../html.js';
import { formatNumber } from '../numbers.js';
import { dataBehind, dataTable, type Figure, panels, type Section } from '../page.js';
import { colour } from '../palette.js';

export function kneesSection(results: Characterisation, charts: Charts): Section | null {
  const knees = results.knees.filter(({ points }) => points.length > 0);
  if (knees.length === 0) return null;
  return {
    id: 'knees',
    heading: 'Latency against load',
    content: [
      html`<p class="note">Open-loop load: requests are sent at random times that were fixed before, and latency counts from then. P99 is drawn solid, P50 dashed. Hollow points are runs in which the load generator was late itself, and say nothing of the system.</p>`,
      panels(kneeFigures(knees, results), charts),
      dataTable({
        caption: 'Highest rate within the bound',
        head: ['configuration', 'P99 bound, ms', 'requests/s'],
        rows: knees.map(({ configuration, p99BoundMs, maxQps }) => [
          configuration,
          formatNumber(p99BoundMs),
          maxQps === null ? 'none' : formatNumber(maxQps),
        ]),
      }),
      dataBehind(knees.map(pointsTable)),
    ],
  };
}

function kneeFigures(knees: readonly KneeCurve[], { configurations }: Characterisation): Figure[] {
  const reference = referenceOf(configurations)?.id;
  const compared = knees.filter(({ configuration }) => configuration === reference);
  const points = knees.flatMap((knee) => knee.points);
  const latencies = points.flatMap(({ p50, p99 }) => [p50, p99].filter((ms): ms is number => ms !== null && ms > 0));
  const mostQps = Math.max(...points.map(({ qps }) => qps));
  const grouped = families(configurations)
    .map(({ title, members }) => ({ title, knees: knees.filter(({ configuration }) => members.some(({ id }) => id === configuration)) }))
    .filter((group) => group.knees.length > 0);
  const groups = grouped.length > 0 ? grouped : [{ title: 'singular', knees: [] }];
  return groups.map(({ title, knees: members }) => {
    const drawn = [...compared, ...members];
    const [bound] = drawn.flatMap(({ p99BoundMs }) => p99BoundMs ?? []);
    return {
      title,
      description: `Latency against requests per second. ${drawn.map(describe).join(' ')}`,
      chart: lineChart({
        lines: drawn.flatMap((knee) => kneeLines(knee, knee.configuration === reference)),
        xAxis: {
          ...lengthAxis(''),
          max: mostQps,
          name: 'requests/s',
          nameLocation: 'middle',
          nameGap: 26,
          nameTextStyle: { color: colour('muted') },
          axisLabel: { ...lengthAxis('').axisLabel, showMaxLabel: false },
        },
        yAxis: logAxis(latencies.length > 0 ? latencies : [1, 10], 'ms'),
        ...(bound !== undefined && { bound: { name: `bound of P99: ${formatNumber(bound)} ms`, y: bound } }),
      }),
    };
  });
}

function kneeLines({ configuration, points }: KneeCurve, reference: boolean): Line[] {
  const hollow = points.flatMap(({ valid }, n) => (valid ? [] : [n]));
  return [
    { name: configuration, reference, symbols: true, hollow, points: points.map(({ qps, p99 }) => [qps, p99]) },
    { name: configuration, reference, dashed: true, points: points.map(({ qps, p50 }) => [qps, p50]) },
  ];
}

function describe({ configuration, points }: KneeCurve): string {
  const [first, last] = [points[0], points.at(-1)];
  const at = (point: typeof first): string =>
    point === undefined ? '' : `${formatNumber(point.p99)} ms at ${formatNumber(point.qps)} requests/s`;
  return `P99 of ${configuration}: ${at(first)}, ${at(last)}.`;
}

const pointsTable = ({ configuration, points }: KneeCurve) => ({
  caption: configuration,
  head: ['requests/s', 'P50, ms', 'P99, ms', 'valid'],
  rows: points.map(({ qps, p50, p99, valid }) => [formatNumber(qps), formatNumber(p50), formatNumber(p99), valid ? 'yes' : 'no']),
});
