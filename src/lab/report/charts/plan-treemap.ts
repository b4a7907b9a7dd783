import { type Chart, drawnName } from '../charts.js';

export interface ShardLoad {
  readonly shard: string;
  readonly tables: readonly { readonly table: string; readonly bytes: number }[];
  /** What a wide map says of the shard beside its name. */
  readonly detail?: string;
}

/** Fills on which white text reads, on light pages and dark ones alike; literal, so that the picture stands alone too. */
const FILLS = ['#2f5d8a', '#8a4b2f', '#3f7355', '#6b4a86', '#7a6a24', '#2d7480', '#93405f', '#55606e'];
/** A table with a smaller area, px, is not drawn: nobody could see it. */
const SMALLEST_AREA = 6;
const [WIDE_HEIGHT, NARROW_HEIGHT, NARROW] = [620, 680, 500];

/** A rectangle a shard, of rectangles of its tables, areas in proportion to bytes. */
export const planTreemap =
  (loads: readonly ShardLoad[]): Chart =>
  (width) => {
    const header = { color: '#fff', fontSize: 12, fontWeight: 'bold', height: 20, overflow: 'truncate' } as const;
    return {
      height: width < NARROW ? NARROW_HEIGHT : WIDE_HEIGHT,
      option: {
        color: FILLS,
        series: [
          {
            type: 'treemap',
            ...{ left: 0, right: 0, top: 0, bottom: 0, roam: false, nodeClick: false, breadcrumb: { show: false } },
            visibleMin: SMALLEST_AREA,
            label: { color: '#fff', fontSize: 11, overflow: 'truncate' },
            upperLabel: { show: true, ...header },
            levels: [
              { itemStyle: { borderWidth: 0, gapWidth: 4, borderColor: 'transparent' }, upperLabel: { show: false } },
              { itemStyle: { borderWidth: 2, gapWidth: 1, borderColorSaturation: 0.35 }, upperLabel: { show: true, ...header } },
              { colorSaturation: [0.3, 0.5], itemStyle: { borderWidth: 0, gapWidth: 1 } },
            ],
            data: loads.map(({ shard, detail, tables }) => ({
              // A phone has room for names alone.
              name: drawnName(width < NARROW || detail === undefined ? shard : `${shard}: ${detail}`),
              children: tables.map(({ table, bytes }) => ({ name: drawnName(table), value: bytes })),
            })),
          },
        ],
      },
    };
  };
