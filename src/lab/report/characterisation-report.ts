import type { Characterisation, Overhead } from './characterisation.js';
import type { Charts } from './charts.js';
import { isPlain, referenceOf } from './families.js';
import { type Html, html } from './html.js';
import { machineLine } from './machine.js';
import { formatBytes, formatCount, formatNumber, formatRatio } from './numbers.js';
import { renderPage, type Section } from './page.js';
import { batchesSection } from './sections/batches.js';
import { findingsSection } from './sections/findings.js';
import { kneesSection } from './sections/knees.js';
import { methodSection, skippedSection } from './sections/method.js';
import { overheadsSection } from './sections/overheads.js';
import { plansSection } from './sections/plans.js';
import { requestSection } from './sections/request.js';
import { stacksSection } from './sections/stacks.js';
import { tailsSection } from './sections/tails.js';
import { trafficSection } from './sections/traffic.js';

/** The sections by what they tell; null: the results hold nothing for it. */
const SECTIONS: Readonly<Record<string, (results: Characterisation, charts: Charts) => Section | null>> = {
  findings: findingsSection,
  overheads: overheadsSection,
  tails: tailsSection,
  stacks: stacksSection,
  traffic: trafficSection,
  'latency against load': kneesSection,
  batches: batchesSection,
  plans: plansSection,
  'one request': requestSection,
};

/** The whole report as one HTML file that needs nothing else. Of results that are not complete, what there is. */
export function renderCharacterisation(results: Characterisation, charts: Charts): string {
  const drawn = Object.entries(SECTIONS).map(([name, section]) => ({ name, section: section(results, charts) }));
  const missing = drawn.filter(({ section }) => section === null).map(({ name }) => name);
  const { model, endedAt, machine } = results;
  const lead = html`${model.name} ${model.version}: ${formatBytes(model.bytes)} in ${formatCount(model.tables)} tables, served by one process and by sparse shards, measured on ${machine.cpu} with ${machine.cores} ${machine.cores === 1 ? 'core' : 'cores'}.${endedAt === null ? ' The run has not ended: this is what it measured so far.' : ''}${missing.length > 0 ? ` Not measured: ${missing.join(', ')}.` : ''}`;
  const sections = [...drawn.map(({ section }) => section), skippedSection(results), methodSection(results)];
  return renderPage({
    title: `Scale-out inference of ${model.name}`,
    lead,
    summary: tiles(results),
    sections: sections.filter((section) => section !== null),
    ranOn: machineLine(machine),
  });
}

interface Tile {
  readonly figure: string;
  readonly about: string;
}

/** The figures that are asked for first. */
function tiles({ overheads, knees, configurations }: Characterisation): Html {
  const reference = referenceOf(configurations)?.id;
  const plain = configurations.filter((configuration) => isPlain(configuration, configurations)).map(({ id }) => id);
  const serial = overheads.filter(
    ({ kind, baseline, configuration }) => kind === 'serial' && baseline === reference && plain.includes(configuration),
  );
  const shown = [
    bestRatio(serial, 'lowest P99 against singular', ({ p99 }) => p99.median),
    bestRatio(serial, 'lowest P50 against singular', ({ p50 }) => p50.median),
    bestRatio(serial, 'lowest CPU against singular', ({ cpu }) => cpu?.median ?? null),
    highestRate(knees),
  ].filter((tile) => tile !== null);
  if (shown.length === 0) return html``;
  return html`<ul class="tiles">${shown.map(({ figure, about }) => html`<li><strong>${figure}</strong><span>${about}</span></li>`)}</ul>`;
}

function bestRatio(overheads: readonly Overhead[], what: string, ratioOf: (overhead: Overhead) => number | null): Tile | null {
  const [best] = overheads
    .flatMap((overhead) => {
      const ratio = ratioOf(overhead);
      return ratio === null ? [] : [{ id: overhead.configuration, ratio }];
    })
    .sort((a, b) => a.ratio - b.ratio);
  return best === undefined ? null : { figure: formatRatio(best.ratio), about: `${what}, serial: ${best.id}` };
}

function highestRate(knees: Characterisation['knees']): Tile | null {
  const [best] = knees
    .flatMap(({ configuration, maxQps, p99BoundMs }) =>
      maxQps === null || p99BoundMs === null ? [] : [{ configuration, maxQps, p99BoundMs }],
    )
    .sort((a, b) => b.maxQps - a.maxQps);
  if (best === undefined) return null;
  return {
    figure: `${formatNumber(best.maxQps)}/s`,
    about: `most requests with P99 within ${formatNumber(best.p99BoundMs)} ms: ${best.configuration}`,
  };
}
