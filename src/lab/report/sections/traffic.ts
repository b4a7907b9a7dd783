import type { Characterisation } from '../characterisation.js';
import { stackedBars } from '../charts/stacked-bars.js';
import type { Charts } from '../charts.js';
import { html } from '../html.js';
import { formatBytes, formatNumber, NOT_MEASURED } from '../numbers.js';
import { dataBehind, legend, panels, type Section } from '../page.js';
import { colour, lineColour } from '../palette.js';

const KIB = 1024;
const SENT = colour('bytes');
const RECEIVED = lineColour(2);

/** Reads serial runs, or the first that counted: what a request sends does not depend on the load. */
export function trafficSection({ configurations }: Characterisation, charts: Charts): Section | null {
  const rows = configurations.flatMap(({ id, runs }) => {
    const run = runs.find(({ rpcsPerRequest, bytesPerRequest }) => rpcsPerRequest !== null || bytesPerRequest !== null);
    return run === undefined ? [] : [{ id, rpcs: run.rpcsPerRequest, bytes: run.bytesPerRequest }];
  });
  if (rows.length === 0) return null;
  const names = rows.map(({ id }) => id);
  const rpcs = { name: 'RPCs', colour: lineColour(1), values: rows.map((row) => row.rpcs ?? 0) };
  const bytes = [
    { name: 'sent to shards', colour: SENT, values: rows.map((row) => (row.bytes?.sent ?? 0) / KIB) },
    { name: 'received', colour: RECEIVED, values: rows.map((row) => (row.bytes?.received ?? 0) / KIB) },
  ];
  return {
    id: 'traffic',
    heading: 'Messages and bytes',
    content: [
      html`<p class="note">What the mean request costs on the network, at main. Each RPC is work at both ends: their number drives CPU more than their bytes do.</p>`,
      legend(bytes),
      panels(
        [
          {
            title: 'Bytes per request',
            aside: 'KiB',
            description: `Bytes per request: ${rows.map((row) => `${row.id} ${row.bytes === null ? 'not measured' : `${formatBytes(row.bytes.sent)} sent, ${formatBytes(row.bytes.received)} received`}`).join('; ')}.`,
            chart: stackedBars({ names, segments: bytes, unit: '', format: formatNumber }),
          },
          {
            title: 'RPCs per request',
            description: `RPCs per request: ${rows.map((row) => `${row.id} ${formatNumber(row.rpcs)}`).join(', ')}.`,
            chart: stackedBars({ names, segments: [rpcs], unit: '', format: formatNumber }),
          },
        ],
        charts,
      ),
      dataBehind([
        {
          caption: 'Messages and bytes per request',
          head: ['configuration', 'RPCs', 'sent', 'received'],
          rows: rows.map((row) => [
            row.id,
            formatNumber(row.rpcs),
            row.bytes === null ? NOT_MEASURED : formatBytes(row.bytes.sent),
            row.bytes === null ? NOT_MEASURED : formatBytes(row.bytes.received),
          ]),
        },
      ]),
    ],
  };
}
