import { CHARACTER_WIDTH, type Chart, FONT_SIZE, STILL } from '../charts.js';
import { colour } from '../palette.js';
import { lengthAxis, namesAxis, namesWidth } from './axes.js';

export interface BarSegment {
  readonly name: string;
  readonly colour: string;
  /** One a bar. */
  readonly values: readonly number[];
}

export interface StackedBars {
  /** Names of the bars, from the top down. */
  readonly names: readonly string[];
  /** From the left to the right. */
  readonly segments: readonly BarSegment[];
  /** After the numbers of the axis, with a space if it needs one. */
  readonly unit: string;
  /** Text of a bar's sum, at its end. */
  readonly format: (total: number) => string;
}

const BAR_PITCH = 24;
const BAR_WIDTH = 14;
const AXIS_HEIGHT = 28;

/** A horizontal bar a name, with its sum at the end. */
export const stackedBars =
  ({ names, segments, unit, format }: StackedBars): Chart =>
  (width) => {
    const totals = names.map((_, n) => format(segments.reduce((sum, { values }) => sum + (values[n] ?? 0), 0)));
    return {
      height: AXIS_HEIGHT + BAR_PITCH * names.length,
      option: {
        grid: {
          left: namesWidth(names, width) + 10,
          right: 14 + CHARACTER_WIDTH * Math.max(...totals.map(({ length }) => length)),
          top: 2,
          bottom: AXIS_HEIGHT - 2,
          outerBoundsMode: 'none',
        },
        xAxis: lengthAxis(unit),
        yAxis: namesAxis(names, width),
        series: [
          ...segments.map((segment) => ({
            ...STILL,
            type: 'bar' as const,
            stack: 'all',
            name: segment.name,
            barWidth: BAR_WIDTH,
            data: [...segment.values],
            itemStyle: { color: segment.colour, borderColor: colour('surface'), borderWidth: 0.75 },
          })),
          {
            ...STILL,
            type: 'bar' as const,
            stack: 'all',
            data: names.map(() => 0),
            label: {
              show: true,
              position: 'right' as const,
              color: colour('ink'),
              fontSize: FONT_SIZE,
              formatter: ({ dataIndex }: { dataIndex: number }) => totals[dataIndex] ?? '',
            },
          },
        ],
      },
    };
  };
