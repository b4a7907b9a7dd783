import { type Chart, type ChartOption, STILL } from '../charts.js';
import { colour, lineColour } from '../palette.js';
import { legendLines, legendStyle } from './axes.js';

export interface Line {
  readonly name: string;
  /** Null leaves a gap. */
  readonly points: readonly (readonly [x: number, y: number | null])[];
  /** The one that others are compared with, in the colour of text. Others take the colours of the palette in turn. */
  readonly reference?: boolean;
  readonly dashed?: boolean;
  /** Positions of points that are drawn hollow. */
  readonly hollow?: readonly number[];
  readonly symbols?: boolean;
  /** The point that is larger than the others, with a label. */
  readonly marked?: { readonly position: number; readonly label: string };
}

export interface LineChart {
  readonly lines: readonly Line[];
  readonly xAxis: NonNullable<ChartOption['xAxis']>;
  readonly yAxis: NonNullable<ChartOption['yAxis']>;
  /** A horizontal line with its name. */
  readonly bound?: { readonly name: string; readonly y: number };
}

const PLOT_HEIGHT = 230;
const LEGEND_HEIGHT = 20;
/** Each line after the first takes less. */
const LEGEND_LINE_HEIGHT = 29;

/** Lines of one name have one colour and one entry in the legend. */
export const lineChart =
  ({ lines, xAxis, yAxis, bound }: LineChart): Chart =>
  (width) => {
    const names = [...new Set(lines.map(({ name }) => name))];
    const compared = [...new Set(lines.filter(({ reference }) => !reference).map(({ name }) => name))];
    const colourOf = ({ name, reference }: Line): string => (reference ? colour('ink') : lineColour(compared.indexOf(name)));
    const legendHeight = LEGEND_HEIGHT + LEGEND_LINE_HEIGHT * (legendLines(names, width) - 1);
    return {
      height: PLOT_HEIGHT + legendHeight,
      option: {
        grid: { left: 44, right: 22, top: 28, bottom: legendHeight + 46, outerBoundsMode: 'none' },
        legend: { ...legendStyle, data: names },
        xAxis,
        yAxis,
        series: [
          ...lines.map((line) => ({
            ...STILL,
            type: 'line' as const,
            name: line.name,
            showSymbol: line.symbols ?? false,
            symbol: 'circle',
            symbolSize: 6,
            itemStyle: { color: colourOf(line) },
            lineStyle: {
              color: colourOf(line),
              width: line.dashed ? 1.25 : 2,
              type: line.dashed ? ('dashed' as const) : ('solid' as const),
            },
            data: line.points.map(([x, y], n) => ({
              value: [x, y ?? '-'],
              ...(line.hollow?.includes(n) && { itemStyle: { color: colour('surface'), borderColor: colourOf(line), borderWidth: 1.5 } }),
              ...(line.marked?.position === n && {
                symbolSize: 12,
                label: { show: true, position: 'top' as const, color: colour('ink'), formatter: line.marked.label },
              }),
            })),
          })),
          ...(bound === undefined
            ? []
            : [
                {
                  ...STILL,
                  type: 'line' as const,
                  data: [],
                  markLine: {
                    ...STILL,
                    symbol: 'none',
                    lineStyle: { color: colour('muted'), type: 'dotted' as const, width: 1.5 },
                    label: { position: 'insideStartTop' as const, color: colour('muted'), formatter: () => bound.name },
                    data: [{ yAxis: bound.y }],
                  },
                },
              ]),
        ],
      },
    };
  };
