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
}

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

  #svg(option: Echarts.EChartsOption): string {
    const chart = this.echarts.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height: HEIGHT });
    chart.setOption({ animation: false, ...option });
    const svg = chart.renderToSVGString();
    chart.dispose();
    return svg;
  }
}

const totalMib = (loads: readonly ShardLoad[]): number =>
  loads.reduce((sum, { tables }) => sum + tables.reduce((held, { bytes }) => held + bytes, 0), 0) / MIB;
