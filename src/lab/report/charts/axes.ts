import { CHARACTER_WIDTH, FONT_SIZE } from '../charts.js';
import { formatTick } from '../numbers.js';
import { colour } from '../palette.js';

const text = { color: colour('muted'), fontSize: FONT_SIZE };
const rule = { lineStyle: { color: colour('rule') } };

/** A horizontal axis of values from 0. */
export const lengthAxis = (unit: string) =>
  ({
    type: 'value',
    axisLabel: { ...text, hideOverlap: true, formatter: (value: number) => `${formatTick(value)}${unit}` },
    splitLine: rule,
    splitNumber: 4,
  }) as const;

/** A vertical axis of names, from the top down, each as far as it fits. */
export const namesAxis = (names: readonly string[], width: number) => ({
  type: 'category' as const,
  data: [...names],
  inverse: true,
  axisTick: { show: false },
  axisLine: rule,
  axisLabel: { ...text, color: colour('ink'), interval: 0, width: namesWidth(names, width), overflow: 'truncate' as const },
});

/** Pixels for the longest name: at most half of the chart. */
export const namesWidth = (names: readonly string[], width: number): number =>
  Math.min(width / 2, CHARACTER_WIDTH * Math.max(4, ...names.map(({ length }) => length)) + 4);

const FEWEST_TICKS = 4;
const MOST_TICKS = 8;
/** Ticks within each power of ten, from coarse to fine. */
const STEPS = [[1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8], Array.from({ length: 90 }, (_, n) => (n + 10) / 10)];

/** A logarithmic axis around the values, all positive, with ticks at 1, 2 and 5 of each power of ten, or finer where those are too few. */
export function logAxis(values: readonly number[], name: string) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const tried = STEPS.map((steps) => ticksAround(least, most, steps));
  const ticks = thinned(tried.find(({ length }) => length >= FEWEST_TICKS) ?? tried.at(-1) ?? []);
  return {
    type: 'log',
    name,
    nameTextStyle: text,
    min: Math.min(least, ticks[0] ?? least),
    max: Math.max(most, ticks.at(-1) ?? most),
    axisLine: { show: true, ...rule },
    axisTick: { show: true, customValues: ticks, ...rule },
    axisLabel: { ...text, customValues: ticks, formatter: (value: number) => formatTick(value) },
    splitLine: { show: false },
  } as const;
}

/** Every so many of them, with the first, so that they do not crowd. */
const thinned = (ticks: readonly number[]): number[] => {
  const every = Math.ceil(ticks.length / MOST_TICKS);
  return ticks.filter((_, n) => n % every === 0 || (every > 1 && n === ticks.length - 1 && n % every > every / 2));
};

/** All ticks between the last one below and the first one above. */
function ticksAround(least: number, most: number, steps: readonly number[]): number[] {
  const ticks: number[] = [];
  for (let power = Math.floor(Math.log10(least)) - 1; power <= Math.ceil(Math.log10(most)) + 1; power++)
    ticks.push(...steps.map((step) => Number((step * 10 ** power).toPrecision(6))));
  const from = ticks.findLastIndex((tick) => tick <= least);
  const to = ticks.findIndex((tick) => tick >= most);
  return ticks.slice(from, to + 1);
}

export const legendStyle = {
  bottom: 0,
  left: 0,
  itemWidth: 26,
  itemHeight: 8,
  itemGap: 18,
  textStyle: { ...text, color: colour('ink') },
} as const;

/** Lines that a legend of these names takes, at the given width. */
export function legendLines(names: readonly string[], width: number): number {
  let lines = 1;
  let at = 0;
  for (const { length } of names) {
    const item = 26 + 5 + 18 + CHARACTER_WIDTH * length;
    if (at > 0 && at + item > width) {
      lines++;
      at = 0;
    }
    at += item;
  }
  return lines;
}
