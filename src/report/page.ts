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
:root { color-scheme: light dark; --ink: #222; --line: #ddd; --quiet: #666; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --line: #444; --quiet: #a5a5a5; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 940px; margin: 2rem auto; padding: 0 1rem; color: var(--ink); }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; }
th, td { padding: 0.2rem 1rem 0.2rem 0; text-align: right; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, .facts td { text-align: left; }
svg { width: 100%; height: auto; background: #fff; }
footer { color: var(--quiet); margin-top: 2rem; }
.narrow { display: none; }
@media (max-width: 600px) {
  .wide { display: none; }
  .narrow { display: block; }
  table { display: block; overflow-x: auto; }
}
</style>
<h1>${escapeHtml(title)}</h1>
<table class="facts">${facts.map((fact) => row(fact, 'td')).join('')}</table>
${charts.join('\n')}
${tables.map(({ caption, rows: [head = [], ...body] }) => `<table><caption>${escapeHtml(caption)}</caption>${row(head, 'th')}${body.map((cells) => row(cells, 'td')).join('')}</table>`).join('\n')}
<footer>Ran on ${escapeHtml(ranOn)}.</footer>
</html>
`;
}
