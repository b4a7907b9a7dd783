const ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => ESCAPES[character] as string);

export interface ReportPage {
  readonly title: string;
  readonly ranOn: string;
  readonly facts: readonly (readonly [string, string])[];
  readonly tables: readonly { readonly caption: string; readonly rows: readonly (readonly string[])[] }[];
  /** SVG text, placed as it is. */
  readonly charts: readonly string[];
}

/** One HTML file that needs nothing else. The first row of a table is its head. */
export function renderPage({ title, ranOn, facts, tables, charts }: ReportPage): string {
  const row = (cells: readonly string[], tag: 'th' | 'td'): string =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escapeHtml(title)}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 940px; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; }
th, td { padding: 0.2rem 1rem 0.2rem 0; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, .facts td { text-align: left; }
svg { width: 100%; height: auto; }
footer { color: #666; margin-top: 2rem; }
</style>
<h1>${escapeHtml(title)}</h1>
<table class="facts">${facts.map((fact) => row(fact, 'td')).join('')}</table>
${charts.join('\n')}
${tables.map(({ caption, rows: [head = [], ...body] }) => `<table><caption>${escapeHtml(caption)}</caption>${row(head, 'th')}${body.map((cells) => row(cells, 'td')).join('')}</table>`).join('\n')}
<footer>Ran on ${escapeHtml(ranOn)}.</footer>
</html>
`;
}
