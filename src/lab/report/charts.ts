import type * as Echarts from 'echarts';
import { TerabagError } from '../../errors.js';
import { type Html, trusted } from './html.js';
import { colour } from './palette.js';

export type ChartOption = Echarts.EChartsOption;

/** What is drawn, for a width in pixels: text keeps its size, so that a chart for a phone is laid out anew. */
export type Chart = (width: number) => { readonly height: number; readonly option: ChartOption };

export const FONT_SIZE = 11.5;
/** Width of a character of that size, on average; there is no browser to measure it. */
export const CHARACTER_WIDTH = 6.4;
/** Options of a series without tooltips: pages have no scripts. */
export const STILL = { silent: true, emphasis: { disabled: true } } as const;
/** ECharts' own guess is that of narrower fonts than some systems have: names would run into each other, and out of the picture. */
const measureText = (text: string, font = ''): { width: number } => ({
  width: text.length * CHARACTER_WIDTH * (Number.parseFloat(/([\d.]+)px/.exec(font)?.[1] ?? String(FONT_SIZE)) / FONT_SIZE),
});

const ZERO_WIDTH_SPACE = '\u200b';

/**
 * A name from outside as text of a chart. ECharts keeps the texts that it has measured in a plain object, where it takes a property of all objects,
 * such as __proto__, for one of its own and writes to it: such a name gets a character in front that nobody sees.
 */
export const drawnName = (name: string): string => (name in Object.prototype ? `${ZERO_WIDTH_SPACE}${name}` : name);

/** Draws charts as SVG text, without a browser. ECharts is large and only needed here, so that it is an optional package. */
export class Charts {
  private constructor(private readonly echarts: typeof Echarts) {}

  static async load(): Promise<Charts> {
    try {
      const echarts = await import('echarts');
      echarts.setPlatformAPI({ measureText });
      return new Charts(echarts);
    } catch (error) {
      throw new TerabagError(
        'invalid_argument',
        'pictures need the package echarts; install it beside terabag: npm install echarts',
        {},
        { cause: error },
      );
    }
  }

  svg(chart: Chart, width: number): Html {
    const { height, option } = chart(width);
    const instance = this.echarts.init(null, null, { renderer: 'svg', ssr: true, width, height });
    instance.setOption({
      animation: false,
      backgroundColor: 'transparent',
      textStyle: { fontFamily: 'system-ui, sans-serif', fontSize: FONT_SIZE, color: colour('muted') },
      ...option,
    });
    const svg = instance.renderToSVGString();
    instance.dispose();
    return trusted(svg);
  }
}
