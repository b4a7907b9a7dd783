import type { Characterisation, StackLayers } from '../characterisation.js';
import { stackedBars } from '../charts/stacked-bars.js';
import type { Charts } from '../charts.js';
import { type Html, html } from '../html.js';
import { type LoadRuns, runsByLoad } from '../loads.js';
import { formatNumber, NOT_MEASURED, quantileName } from '../numbers.js';
import { dataBehind, legend, panels, type Section } from '../page.js';
import { layerColour, layersInOrder, layerTitle } from '../palette.js';

const STACKS = [
  { kind: 'latency', title: 'Latency stack', about: 'Where the time of a request goes, from the call to the answer.' },
  {
    kind: 'embedded',
    title: 'Embedded portion',
    about: 'The round trip to the shard that answers last, from encoding ids to decoded vectors.',
  },
  { kind: 'compute', title: 'Compute stack', about: 'CPU time of a request, over main and all shards.' },
] as const;

interface Bar {
  readonly name: string;
  readonly quantile: number;
  readonly layers: StackLayers;
}

export function stacksSection({ configurations }: Characterisation, charts: Charts): Section | null {
  const loads = runsByLoad(configurations, ({ stacks }) => stacks.length > 0);
  if (loads.length === 0) return null;
  return {
    id: 'stacks',
    heading: 'Where time goes',
    content: [
      html`<p class="note">Layers are means over the traced requests around a quantile of latency, so that they add up to it.</p>`,
      ...loads.flatMap((load) => STACKS.map((stack) => stackGroup(stack, load, loads.length > 1, charts))),
    ],
  };
}

function stackGroup(
  { kind, title, about }: (typeof STACKS)[number],
  { title: load, runs }: LoadRuns,
  named: boolean,
  charts: Charts,
): Html {
  const bars = runs.flatMap(({ configuration, run }) =>
    run.stacks.map((stacks): Bar => ({ name: configuration.id, quantile: stacks.quantile, layers: stacks[kind] })),
  );
  const quantiles = [...new Set(bars.map(({ quantile }) => quantile))].sort((a, b) => a - b);
  const layers = layersInOrder(bars.flatMap((bar) => bar.layers.filter(({ ms }) => ms > 0).map(({ layer }) => layer)));
  if (layers.length === 0) return html``;
  const msOf = (bar: Bar, layer: string): number => bar.layers.find((one) => one.layer === layer)?.ms ?? 0;
  const figures = quantiles.map((quantile) => {
    // A stack without layers has nothing to show: singular has no embedded portion when main holds all tables.
    const shown = bars.filter((bar) => bar.quantile === quantile && bar.layers.some(({ ms }) => ms > 0));
    return {
      title: quantileName(quantile),
      aside: 'ms',
      description: `${title} at ${quantileName(quantile)}, ${load}: a bar per configuration, ${describe(shown, layers)}`,
      chart: stackedBars({
        names: shown.map(({ name }) => name),
        segments: layers.map((layer) => ({
          name: layerTitle(layer),
          colour: layerColour(layer),
          values: shown.map((bar) => msOf(bar, layer)),
        })),
        unit: '',
        format: formatNumber,
      }),
    };
  });
  const tables = quantiles.map((quantile) => ({
    caption: `${title} at ${quantileName(quantile)}, ms, ${load}`,
    head: ['configuration', ...layers.map(layerTitle), 'total'],
    rows: bars
      .filter((bar) => bar.quantile === quantile)
      .map((bar) => [
        bar.name,
        ...layers.map((layer) => (bar.layers.some((one) => one.layer === layer) ? formatNumber(msOf(bar, layer)) : NOT_MEASURED)),
        formatNumber(total(bar)),
      ]),
  }));
  return html`<h3>${title}${named ? `, ${load}` : ''}</h3>
<p class="note">${about}</p>
${legend(layers.map((layer) => ({ name: layerTitle(layer), colour: layerColour(layer) })))}
${panels(figures, charts)}
${dataBehind(tables)}`;
}

const total = ({ layers }: Bar): number => layers.reduce((sum, { ms }) => sum + ms, 0);

const describe = (bars: readonly Bar[], layers: readonly string[]): string =>
  `stacked of ${layers.map(layerTitle).join(', ')}. Totals: ${bars.map((bar) => `${bar.name} ${formatNumber(total(bar))} ms`).join(', ')}.`;
