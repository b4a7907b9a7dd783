import { beforeAll, expect, test } from 'vitest';
import { lineChart } from '../../../../src/lab/report/charts/lines.js';
import { planMap } from '../../../../src/lab/report/charts/plan-map.js';
import { stackedBars } from '../../../../src/lab/report/charts/stacked-bars.js';
import { type Chart, Charts } from '../../../../src/lab/report/charts.js';

let charts: Charts;
beforeAll(async () => {
  charts = await Charts.load();
});

/** Width of a character of DejaVu Sans at the charts' size, the widest font that systems have as theirs: what its names take, by the number of their characters. */
const WIDE = 6.2;
const PHONE = 330;
const WIDE_PAGE = 530;
const LONG = ['capacity-balanced-2-paper-batch32', 'load-balanced-2-paper-batch32'];

interface Text {
  readonly left: number;
  readonly right: number;
  readonly y: number;
  readonly text: string;
}

/** All texts of a chart, where a wide font has them. */
function texts(chart: Chart, width: number): Text[] {
  const { markup } = charts.svg(chart, width);
  return [...markup.matchAll(/<text([^>]*)>([^<]*)<\/text>/g)].map(([, attributes = '', text = '']) => {
    const number = (pattern: RegExp): number => Number(pattern.exec(attributes)?.[1] ?? 0);
    const x = number(/ x="([-\d.]+)"/) + number(/translate\(([-\d.]+)/);
    const y = number(/ y="([-\d.]+)"/) + number(/translate\([-\d.]+ ([-\d.]+)/);
    const length = WIDE * text.length;
    const left = x - (attributes.includes('"end"') ? length : attributes.includes('"middle"') ? length / 2 : 0);
    return { left, right: left + length, y, text };
  });
}

test('names beside bars stay within the picture on a phone, where they are cut', () => {
  const bars = stackedBars({
    names: [...LONG, 'short'],
    segments: [{ name: 'all', colour: 'red', values: [1, 2, 3] }],
    unit: '',
    format: String,
  });
  const drawn = texts(bars, PHONE);
  expect(drawn.filter(({ text }) => text.endsWith('...')).length).toBe(2);
  for (const { left, right } of drawn) expect([left >= 0, right <= PHONE]).toEqual([true, true]);
});

test('entries of a legend do not run into each other', () => {
  const lines = [...LONG, 'singular', ...LONG.map((name) => `${name}-again`)].map((name) => ({ name, points: [[1, 1]] as const }));
  const drawn = texts(lineChart({ lines, xAxis: { type: 'value' }, yAxis: { type: 'value' } }), WIDE_PAGE);
  const entries = drawn.filter(({ text }) => lines.some(({ name }) => name === text)).sort((a, b) => a.y - b.y || a.left - b.left);
  expect(entries.length).toBe(lines.length);
  for (const [n, { left, y }] of entries.entries()) {
    const before = entries[n - 1];
    // The line that stands before an entry's name takes 26.
    if (before?.y === y) expect(left - 26).toBeGreaterThan(before.right);
  }
});

test('a plan of one shard has an axis to 100 %, within the picture', () => {
  const holder = { name: 'main', bytes: 1000, tables: 2, largest: [{ table: 'one', bytes: 600, parts: 1 }], lookupsPerRequest: 7 };
  const drawn = texts(planMap([holder]), WIDE_PAGE);
  const percents = drawn.filter(({ text }) => text.endsWith(' %'));
  expect(percents.length).toBeGreaterThan(2);
  expect(Math.max(...percents.map(({ text }) => Number.parseFloat(text)))).toBeLessThanOrEqual(100);
  for (const { right } of percents) expect(right).toBeLessThanOrEqual(WIDE_PAGE);
});
