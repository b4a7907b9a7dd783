import type { Characterisation } from '../characterisation.js';
import { waterfallChart } from '../charts/waterfall.js';
import type { Charts } from '../charts.js';
import { html } from '../html.js';
import { formatNumber } from '../numbers.js';
import { dataBehind, figure, legend, type Section } from '../page.js';
import { layerColour, layersInOrder, layerTitle } from '../palette.js';

export function requestSection({ waterfall }: Characterisation, charts: Charts): Section | null {
  if (waterfall === null || waterfall.spans.length === 0) return null;
  const { configuration, request, items, latencyMs, spans } = waterfall;
  const layers = layersInOrder(spans.flatMap(({ layer }) => layer ?? []));
  const lanes = [...new Set(spans.map(({ lane }) => lane))];
  return {
    id: 'request',
    heading: 'One request',
    content: [
      html`<p class="note">${configuration}: ${request}, ${items} items, ${formatNumber(latencyMs)} ms. Clocks of hosts are not compared: what a shard did is placed in the middle of its RPC.</p>`,
      legend(layers.map((layer) => ({ name: layerTitle(layer), colour: layerColour(layer) }))),
      figure(
        {
          title: 'What happened when',
          aside: 'ms since the call',
          description: `Spans of one request over ${formatNumber(latencyMs)} ms, in lanes: ${lanes.join(', ')}.`,
          chart: waterfallChart(waterfall),
          size: 'full',
        },
        charts,
      ),
      dataBehind([
        {
          caption: 'Spans, ms',
          head: ['lane', 'span', 'start', 'duration'],
          rows: spans.map(({ lane, name, startMs, durationMs }) => [lane, name, formatNumber(startMs), formatNumber(durationMs)]),
        },
      ]),
    ],
  };
}
