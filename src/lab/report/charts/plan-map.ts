import type { PlanHolder } from '../characterisation.js';
import { CHARACTER_WIDTH, type Chart, drawnName, STILL } from '../charts.js';
import { formatTick } from '../numbers.js';
import { colour } from '../palette.js';
import { legendStyle, lengthAxis, namesAxis, namesWidth } from './axes.js';

const PITCH = 30;
const BYTES_WIDTH = 13;
const LOOKUPS_WIDTH = 5;
const AXIS_AND_LEGEND = 52;
/** Shares above have an axis to 100 %: the next round number would be more than there is. */
const MOST_OPEN = 80;

/** Two bars a shard, as shares of the model: its bytes, table by table from the largest down with the small ones as one; and its lookups. */
export const planMap =
  (holders: readonly PlanHolder[]): Chart =>
  (width) => {
    const names = holders.map(({ name }) => name);
    const left = namesWidth(names, width) + 10;
    const right = 16;
    const allBytes = sum(holders.map(({ bytes }) => bytes));
    const shares = holders.map(({ bytes, largest }) => {
      const named = largest.map(({ table, bytes: held }) => ({ table, share: percent(held, allBytes) }));
      const rest = Math.max(0, bytes - sum(largest.map((held) => held.bytes)));
      return { named, rest: percent(rest, allBytes), all: percent(bytes, allBytes) };
    });
    const lookups = holders.map(({ lookupsPerRequest }) => lookupsPerRequest ?? 0);
    const lookupShares = lookups.map((value) => percent(value, sum(lookups)));
    const longest = Math.max(1e-9, ...shares.map(({ all }) => all), ...lookupShares);
    const pixels = (share: number): number => (share / longest) * 0.85 * (width - left - right);
    const bar = (name: string, stack: string, fill: string, barWidth: number, data: readonly number[]) => ({
      ...STILL,
      type: 'bar' as const,
      ...{ name, stack, barWidth, barGap: '10%', data: [...data] },
      itemStyle: { color: fill, borderColor: colour('surface'), borderWidth: 0.75 },
    });
    const mostNamed = Math.max(0, ...shares.map(({ named }) => named.length));
    return {
      height: AXIS_AND_LEGEND + PITCH * holders.length,
      option: {
        grid: { left, right, top: 2, bottom: AXIS_AND_LEGEND - 4, outerBoundsMode: 'none' },
        legend: { ...legendStyle, itemWidth: 12, data: ['largest tables', 'other tables', ...(sum(lookups) > 0 ? ['lookups'] : [])] },
        xAxis: {
          ...lengthAxis(''),
          max: ({ max }: { max: number }) => (max > MOST_OPEN ? 100 : null),
          axisLabel: {
            ...lengthAxis('').axisLabel,
            alignMaxLabel: 'right' as const,
            formatter: (value: number) => `${formatTick(value)} %`,
          },
        },
        yAxis: namesAxis(names, width),
        series: [
          ...Array.from({ length: mostNamed }, (_, n) => ({
            ...bar(
              'largest tables',
              'bytes',
              colour(n % 2 === 0 ? 'bytes' : 'bytes-between'),
              BYTES_WIDTH,
              shares.map(({ named }) => named[n]?.share ?? 0),
            ),
            label: {
              show: true,
              color: colour(n % 2 === 0 ? 'on-bytes' : 'on-bytes-between'),
              fontSize: 10,
              formatter: ({ dataIndex }: { dataIndex: number }) => {
                const held = shares[dataIndex]?.named[n];
                return held !== undefined && pixels(held.share) > CHARACTER_WIDTH * held.table.length ? drawnName(held.table) : '';
              },
            },
          })),
          bar(
            'other tables',
            'bytes',
            colour('bytes-rest'),
            BYTES_WIDTH,
            shares.map(({ rest }) => rest),
          ),
          ...(sum(lookups) > 0 ? [bar('lookups', 'lookups', colour('lookups'), LOOKUPS_WIDTH, lookupShares)] : []),
        ],
      },
    };
  };

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
const percent = (part: number, all: number): number => (all > 0 ? (100 * part) / all : 0);
