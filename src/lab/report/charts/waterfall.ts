import type { Waterfall } from '../characterisation.js';
import { CHARACTER_WIDTH, type Chart } from '../charts.js';
import { colour, layerColour, onLayerColour } from '../palette.js';
import { lengthAxis, namesAxis, namesWidth } from './axes.js';

type Span = Waterfall['spans'][number];

export interface SpanRow {
  /** Empty below the first row of a lane. */
  readonly lane: string;
  readonly spans: readonly Span[];
}

const PITCH = 21;
const BAR_HEIGHT = 15;
const AXIS_HEIGHT = 28;
const NARROWEST = 1;
/** A span that begins where another ends may seem to begin before, by the rounding of a sum. */
const ROUNDING_MS = 1e-6;

/** Lanes in the order in which they first come; spans that overlap one before them, as those within it do, are put into rows below. */
export function spanRows(spans: readonly Span[]): SpanRow[] {
  const lanes = [...new Set(spans.map(({ lane }) => lane))];
  return lanes.flatMap((lane) => {
    const rows: Span[][] = [];
    // Sort the longer of two that start together first: it holds the other.
    const inTime = spans.filter((span) => span.lane === lane).sort((a, b) => a.startMs - b.startMs || b.durationMs - a.durationMs);
    for (const span of inTime) {
      const free = rows.find((row) => row.every((other) => other.startMs + other.durationMs <= span.startMs + ROUNDING_MS));
      if (free === undefined) rows.push([span]);
      else free.push(span);
    }
    return rows.map((row, r) => ({ lane: r === 0 ? lane : '', spans: row }));
  });
}

/** What a request did when: a row or more a lane, a bar a span. */
export const waterfallChart =
  ({ spans, latencyMs }: Waterfall): Chart =>
  (width) => {
    const rows = spanRows(spans);
    const lanes = rows.map(({ lane }) => lane);
    const bars = rows.flatMap((row, r) => row.spans.map((span) => ({ r, span })));
    const end = Math.max(latencyMs, ...spans.map(({ startMs, durationMs }) => startMs + durationMs));
    return {
      height: AXIS_HEIGHT + PITCH * rows.length,
      option: {
        grid: { left: namesWidth(lanes, width) + 10, right: 16, top: 2, bottom: AXIS_HEIGHT - 2, outerBoundsMode: 'none' },
        xAxis: { ...lengthAxis(' ms'), max: end, axisLabel: { ...lengthAxis(' ms').axisLabel, showMaxLabel: false } },
        // Rows of one lane have one label: positions, since names of rows may be the same.
        yAxis: {
          ...namesAxis(lanes, width),
          data: lanes.map((_, r) => String(r)),
          axisLabel: { ...namesAxis(lanes, width).axisLabel, formatter: (r: string) => lanes[Number(r)] ?? '' },
        },
        series: [
          {
            type: 'custom',
            silent: true,
            data: bars.map(({ r, span }) => [span.startMs, span.startMs + span.durationMs, r]),
            encode: { x: [0, 1], y: 2 },
            renderItem: ({ dataIndex }, api) => {
              const { r, span } = bars[dataIndex] as (typeof bars)[number];
              const [left = 0, middle = 0] = api.coord([span.startMs, r]);
              const [right = 0] = api.coord([span.startMs + span.durationMs, r]);
              const barWidth = Math.max(NARROWEST, right - left);
              return {
                type: 'rect' as const,
                shape: { x: left, y: middle - BAR_HEIGHT / 2, width: barWidth, height: BAR_HEIGHT, r: Math.min(2, barWidth / 3) },
                style: {
                  fill: span.layer === null ? colour('rule') : layerColour(span.layer),
                  stroke: colour('surface'),
                  lineWidth: barWidth > 4 ? 0.75 : 0,
                },
                ...(barWidth > CHARACTER_WIDTH * span.name.length && {
                  textContent: {
                    type: 'text' as const,
                    style: { text: span.name, fontSize: 10, fill: span.layer === null ? colour('ink') : onLayerColour(span.layer) },
                  },
                  textConfig: { position: 'inside' as const },
                }),
              };
            },
          },
        ],
      },
    };
  };
