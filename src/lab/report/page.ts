import type { Chart, Charts } from './charts.js';
import { type Html, html, NOTHING, type Piece, trusted } from './html.js';
import { PAGE_STYLE } from './page-style.js';

export interface Section {
  /** Anchor that links lead to. */
  readonly id: string;
  readonly heading: string;
  readonly content: Piece;
}

export interface ReportPage {
  readonly title: string;
  /** A sentence or two below the title. */
  readonly lead: Piece;
  /** Between the lead and the sections. */
  readonly summary?: Html;
  readonly sections: readonly Section[];
  /** Machine line. */
  readonly ranOn: string;
}

/** One HTML file that needs nothing else. */
export function renderPage({ title, lead, summary = NOTHING, sections, ranOn }: ReportPage): string {
  const link = ({ id, heading }: Section): Html => html`<li><a href="#${id}">${heading}</a></li>`;
  const section = ({ id, heading, content }: Section): Html => html`
<section id="${id}" aria-labelledby="${id}-heading">
<h2 id="${id}-heading">${heading}</h2>
${content}
</section>`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>${trusted(PAGE_STYLE)}</style>
</head>
<body>
<div class="frame">
<header>
<h1>${title}</h1>
<p class="lead">${lead}</p>
<nav aria-label="Sections"><ul>${sections.map(link)}</ul></nav>
${summary}
</header>
<main>${sections.map(section)}
</main>
<footer>Ran on ${ranOn}.</footer>
</div>
</body>
</html>
`.markup;
}

export interface Cell {
  readonly content: Piece;
  /** A class of page-style.ts. */
  readonly kind?: 'prose';
  /** Colours the cell: above 0 worse, below 0 better, 1 and -1 the most. */
  readonly heat?: number;
}

export interface DataTable {
  readonly caption: string;
  readonly head: readonly string[];
  /** The first cell of a row is its header. */
  readonly rows: readonly (readonly (string | Cell)[])[];
}

/** Wide tables scroll in a frame of their own, by keyboard too. */
export function dataTable({ caption, head, rows }: DataTable): Html {
  return html`<div class="scroll" role="group" aria-label="${caption}" tabindex="0"><table>
<caption>${caption}</caption>
<thead><tr>${head.map((title) => html`<th scope="col">${title}</th>`)}</tr></thead>
<tbody>${rows.map(([first = '', ...rest]) => html`<tr><th scope="row">${typeof first === 'string' ? first : first.content}</th>${rest.map(tableCell)}</tr>`)}</tbody>
</table></div>`;
}

/** The strongest colour still lets text be read. */
const STRONGEST_PERCENT = 70;

function tableCell(cell: string | Cell): Html {
  if (typeof cell === 'string') return html`<td>${cell}</td>`;
  const { content, kind, heat } = cell;
  if (heat === undefined) return kind === undefined ? html`<td>${content}</td>` : html`<td class="${kind}">${content}</td>`;
  const percent = Math.round(STRONGEST_PERCENT * Math.min(1, Math.abs(heat)));
  return html`<td class="heat ${heat > 0 ? 'worse' : 'better'}" style="--share: ${percent}%">${content}</td>`;
}

export const factList = (facts: readonly (readonly [string, Piece])[]): Html =>
  html`<dl class="facts">${facts.map(([term, fact]) => html`<dt>${term}</dt><dd>${fact}</dd>`)}</dl>`;

/** Data behind charts, shown when asked for. */
export const dataBehind = (tables: readonly DataTable[]): Html =>
  html`<details><summary>Figures as a table</summary>${tables.map(dataTable)}</details>`;

export interface Figure {
  readonly title: string;
  /** After the title, less important. */
  readonly aside?: string;
  /** Tells those who cannot see it what the chart shows. */
  readonly description: string;
  readonly chart: Chart;
  /** Half the page, beside another one, or all of it. */
  readonly size?: 'panel' | 'full';
}

/** Pixels that a chart has on a wide page, and on a phone. */
const WIDTHS = { panel: 530, full: 1090, narrow: 330 } as const;

/** A chart, laid out once for wide pages and once for phones; the page shows the one that fits. */
export function figure({ title, aside, description, chart, size = 'panel' }: Figure, charts: Charts): Html {
  return html`<figure><figcaption>${title}${aside === undefined ? '' : html` <small>${aside}</small>`}</figcaption>
<div role="img" aria-label="${description}"><div class="wide">${charts.svg(chart, WIDTHS[size])}</div><div class="narrow">${charts.svg(chart, WIDTHS.narrow)}</div></div></figure>`;
}

export const panels = (figures: readonly Figure[], charts: Charts): Html =>
  html`<div class="panels">${figures.map((one) => figure(one, charts))}</div>`;

/** Colours and what they mean, for the charts below it. */
export const legend = (entries: readonly { readonly name: string; readonly colour: string }[]): Html =>
  html`<ul class="legend">${entries.map(({ name, colour }) => html`<li><span class="swatch" style="background: ${colour}"></span>${name}</li>`)}</ul>`;
