import type * as Echarts from 'echarts';
import { TerabagError } from '../errors.js';
import { quantile } from './quantiles.js';

const WIDTH = 900;
const HEIGHT = 380;
const MIB = 2 ** 20;
/** A table with a smaller share of a shard has no room for its name. */
const LABEL_SHARE = 0.12;

export interface ShardLoad {
  readonly shard: string;
  readonly tables: readonly { readonly table: string; readonly bytes: number }[];
  /** What a map says of the shard beside its name. */
  readonly detail?: string;
}

export interface ChartSize {
  readonly width: number;
  readonly height: number;
}

/** Fills on which white text reads, on light pages and dark ones alike. */
const MAP_COLORS = ['#2f5d8a', '#8a4b2f', '#3f7355', '#6b4a86', '#7a6a24', '#2d7480', '#93405f', '#55606e'];
/** A table with a smaller area, px, is not drawn: nobody could see it. */
const SMALLEST_AREA = 6;

export interface LatencySamples {
  readonly name: string;
  readonly milliseconds: readonly number[];
}

/** Draws charts as SVG text, without a browser. ECharts is large and only needed here, so that it is an optional package. */
export class Charts {
  private constructor(private readonly echarts: typeof Echarts) {}

  static async load(): Promise<Charts> {
    try {
      return new Charts(await import('echarts'));
    } catch (error) {
      throw new TerabagError(
        'invalid_argument',
        'pictures need the package echarts; install it beside terabag: npm install echarts',
        {},
        { cause: error },
      );
    }
  }

  /** One bar a shard, stacked of its tables. */
  plan(loads: readonly ShardLoad[]): string {
    const tables = [...new Set(loads.flatMap((load) => load.tables.map(({ table }) => table)))];
    return this.#svg({
      title: { text: 'Plan: MiB of tables per shard', left: 'center' },
      grid: { left: 90, right: 30, top: 50, bottom: 40 },
      xAxis: { type: 'value', axisLabel: { formatter: '{value} MiB' } },
      yAxis: { type: 'category', data: loads.map(({ shard }) => shard), inverse: true },
      series: tables.map((table) => ({
        name: table,
        type: 'bar',
        stack: 'tables',
        itemStyle: { borderColor: '#fff', borderWidth: 1 },
        label: {
          show: true,
          fontSize: 9,
          formatter: ({ value }) => (Number(value) * loads.length > LABEL_SHARE * totalMib(loads) ? table : ''),
        },
        data: loads.map((load) => (load.tables.find((held) => held.table === table)?.bytes ?? 0) / MIB),
      })),
    });
  }

  /** A rectangle a shard, of rectangles of its tables, areas in proportion to bytes. */
  planMap(loads: readonly ShardLoad[], size: ChartSize): string {
    const header = { color: '#fff', fontSize: 12, fontWeight: 'bold', height: 20, overflow: 'truncate' } as const;
    return this.#svg(
      {
        color: MAP_COLORS,
        series: [
          {
            type: 'treemap',
            ...{
              left: 0,
              right: 0,
              top: 0,
              bottom: 0,
              roam: false,
              nodeClick: false,
              breadcrumb: { show: false },
              visibleMin: SMALLEST_AREA,
            },
            label: { color: '#fff', fontSize: 11, overflow: 'truncate' },
            upperLabel: { show: true, ...header },
            levels: [
              { itemStyle: { borderWidth: 0, gapWidth: 4 }, upperLabel: { show: false } },
              { itemStyle: { borderWidth: 2, gapWidth: 1, borderColorSaturation: 0.35 }, upperLabel: { show: true, ...header } },
              { colorSaturation: [0.3, 0.5], itemStyle: { borderWidth: 0, gapWidth: 1 } },
            ],
            data: loads.map(({ shard, detail, tables }) => ({
              name: detail === undefined ? shard : `${shard}: ${detail}`,
              children: tables.map(({ table, bytes }) => ({ name: table, value: bytes })),
            })),
          },
        ],
      },
      size,
    );
  }

  /** Latency by percentile, one line a predictor. */
  latencies(samples: readonly LatencySamples[]): string {
    const percentiles = Array.from({ length: 100 }, (_, percent) => percent);
    return this.#svg({
      title: { text: 'Latency by percentile of the requests', left: 'center' },
      legend: { bottom: 0 },
      grid: { left: 70, right: 40, top: 50, bottom: 70 },
      xAxis: { type: 'value', name: 'percentile', nameLocation: 'middle', nameGap: 25, min: 0, max: 100 },
      yAxis: { type: 'value', name: 'ms' },
      series: samples.map(({ name, milliseconds }) => {
        const ascending = Float64Array.from(milliseconds).sort();
        return { name, type: 'line', showSymbol: false, data: percentiles.map((percent) => [percent, quantile(ascending, percent / 100)]) };
      }),
    });
  }

  #svg(option: Echarts.EChartsOption, { width, height }: ChartSize = { width: WIDTH, height: HEIGHT }): string {
    const chart = this.echarts.init(null, null, { renderer: 'svg', ssr: true, width, height });
    chart.setOption({ animation: false, ...option });
    const svg = chart.renderToSVGString();
    chart.dispose();
    return svg;
  }
}

const totalMib = (loads: readonly ShardLoad[]): number =>
  loads.reduce((sum, { tables }) => sum + tables.reduce((held, { bytes }) => held + bytes, 0), 0) / MIB;
