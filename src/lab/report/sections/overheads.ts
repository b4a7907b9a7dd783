import type { Characterisation, Overhead, Ratio } from '../characterisation.js';
import { html } from '../html.js';
import { groupByLoad, loadTitle } from '../loads.js';
import { formatRatio, NOT_MEASURED } from '../numbers.js';
import { type Cell, dataTable, type Section } from '../page.js';

/** Ratios of this and more, or of its inverse and less, have the full colour. */
const FULL_COLOUR = 2;

export function overheadsSection({ overheads }: Characterisation): Section | null {
  if (overheads.length === 0) return null;
  const tables = groupByLoad(overheads, (overhead) => overhead).map((group) =>
    dataTable({
      caption: `Under load: ${loadTitle(group[0] as Overhead)}`,
      head: ['configuration', 'against', 'P50', 'P90', 'P99', 'CPU', 'pairs'],
      rows: group.map(({ configuration, baseline, p50, p90, p99, cpu, pairs }) => [
        configuration,
        baseline,
        ...[p50, p90, p99].map(ratioCell),
        cpu === null ? NOT_MEASURED : ratioCell(cpu),
        String(pairs),
      ]),
    }),
  );
  return {
    id: 'overheads',
    heading: 'Overhead of sharding',
    content: [
      html`<p class="note">Latency quantiles and CPU per request (main and shards), as a multiple of the other configuration, which ran in turn under the same load. Median of the pairs; below it, the lowest and the highest.</p>`,
      ...tables,
    ],
  };
}

const ratioCell = ({ median, low, high }: Ratio): Cell => ({
  content: html`${formatRatio(median)}<small>${low.toFixed(2)} – ${high.toFixed(2)}</small>`,
  heat: median > 0 ? Math.log(median) / Math.log(FULL_COLOUR) : -1,
});
