import { LatencyHistogram } from '../../../observe/latency-histogram.js';
import type { Characterisation, Configuration } from '../characterisation.js';
import { type TailLine, tailChart, tailRange } from '../charts/tail-chart.js';
import type { Charts } from '../charts.js';
import { families, referenceOf } from '../families.js';
import { html } from '../html.js';
import { type LoadRuns, runsByLoad } from '../loads.js';
import { formatNumber } from '../numbers.js';
import { dataBehind, type Figure, panels, type Section } from '../page.js';

export function tailsSection({ configurations }: Characterisation, charts: Charts): Section | null {
  const loads = runsByLoad(configurations, ({ latencyMs }) => latencyMs.count > 0);
  if (loads.length === 0) return null;
  return {
    id: 'tails',
    heading: 'Latency down to the tail',
    content: [
      html`<p class="note">Each step to the right leaves out nine tenths of the slower requests: P90, P99, P99.9. All charts of a load have the same range.</p>`,
      ...loads.flatMap((load) => [
        html`<h3>Load: ${load.title}</h3>`,
        panels(tailFigures(load, configurations), charts),
        dataBehind([latencyTable(load)]),
      ]),
    ],
  };
}

function tailFigures({ title: load, runs }: LoadRuns, configurations: readonly Configuration[]): Figure[] {
  const reference = referenceOf(configurations);
  const lines = runs.map(({ configuration, run }): TailLine & { readonly configuration: Configuration } => ({
    configuration,
    name: configuration.id,
    latency: LatencyHistogram.decode(run.latencyMs.hdr),
    reference: configuration === reference,
  }));
  const range = tailRange(lines);
  const compared = lines.filter((line) => line.configuration === reference);
  const grouped = families(configurations)
    .map(({ title, members }) => ({ title, lines: lines.filter(({ configuration }) => members.includes(configuration)) }))
    .filter((family) => family.lines.length > 0);
  const groups = grouped.length > 0 ? grouped : [{ title: 'singular', lines: [] }];
  return groups.map((group) => {
    const drawn = [...compared, ...group.lines];
    const tails = drawn.map(({ name, latency }) => `${name} ${formatNumber(latency.quantile(0.99))} ms`);
    return {
      title: group.title,
      description: `Latency by quantile, ${load}. P99: ${tails.join(', ')}.`,
      chart: tailChart(drawn, range),
    };
  });
}

const latencyTable = ({ title, runs }: LoadRuns) => ({
  caption: `Latency, ms, ${title}`,
  head: ['configuration', 'P50', 'P90', 'P99', 'P99.9', 'max', 'mean', 'answered'],
  rows: runs.map(({ configuration, run: { latencyMs } }) => [
    configuration.id,
    ...[latencyMs.p50, latencyMs.p90, latencyMs.p99, latencyMs.p999, latencyMs.max, latencyMs.mean].map(formatNumber),
    String(latencyMs.count),
  ]),
});
