import { variables } from './palette.js';

/** The style of every page: light or dark as the reader's system is, from 360 pixels up, and on paper. */
export const PAGE_STYLE = `
:root { color-scheme: light dark; ${variables('light')} }
@media (prefers-color-scheme: dark) { :root { ${variables('dark')} } }
@media print { :root { color-scheme: light; ${variables('light')} } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
.frame { max-width: 1160px; margin: 0 auto; padding: 2.25rem 1.5rem 3rem; }
a { color: var(--accent); }
h1 { font-size: 1.75rem; line-height: 1.25; letter-spacing: -0.015em; margin: 0 0 0.4rem; text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; letter-spacing: -0.01em; margin: 0 0 0.35rem; }
h3 { font-size: 0.95rem; line-height: 1.4; margin: 1.6rem 0 0.5rem; }
h3:first-child { margin-top: 0; }
p { margin: 0 0 0.75rem; max-width: 46rem; }
code { font: 0.88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.lead, .note { color: var(--muted); }
.note { font-size: 0.87rem; }
nav { margin: 1.1rem 0 0; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; margin: 0; padding: 0; list-style: none; font-size: 0.9rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
a:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 2px; }
section { background: var(--surface); border: 1px solid var(--rule); border-radius: 10px; padding: 1.4rem 1.5rem 1.5rem; margin-top: 1.25rem; }
footer { color: var(--muted); font-size: 0.87rem; margin-top: 1.5rem; }

.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.4rem 2rem; }
figure { margin: 0; min-width: 0; }
.panels + .scroll, .panels + h3, figure + .scroll { margin-top: 1.6rem; }
figcaption { font-weight: 600; font-size: 0.9rem; margin-bottom: 0.4rem; }
figcaption small { font-weight: 400; font-size: inherit; color: var(--muted); }
figure svg { display: block; width: 100%; height: auto; }
.narrow { display: none; }
@media screen and (max-width: 640px) { .wide { display: none; } .narrow { display: block; } }

.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; margin: 0 0 0.9rem; padding: 0; list-style: none; font-size: 0.85rem; }
.legend li { display: flex; align-items: center; gap: 0.4rem; }
.swatch { width: 0.8rem; height: 0.8rem; border-radius: 2px; flex: none; print-color-adjust: exact; -webkit-print-color-adjust: exact; }

.scroll { overflow-x: auto; margin: 0 0 0.9rem; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.3rem; }
th, td { padding: 0.34rem 0.8rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; vertical-align: baseline; }
th { font-weight: 600; }
thead th { color: var(--muted); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 500; }
td.prose { white-space: normal; text-align: left; min-width: 16rem; max-width: 40rem; }
td small { display: block; color: var(--muted); font-size: 0.78rem; line-height: 1.3; }
td.heat { background: color-mix(in srgb, var(--heat) var(--share), transparent); border-left: 2px solid var(--surface); print-color-adjust: exact; -webkit-print-color-adjust: exact; }
td.heat small { color: inherit; opacity: 0.8; }
.better { --heat: var(--better); }
.worse { --heat: var(--worse); }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); font-size: 0.88rem; width: fit-content; }
details[open] summary { margin-bottom: 0.6rem; }

dl.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.3rem 1.5rem; margin: 0; font-size: 0.92rem; }
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) { dl.facts { grid-template-columns: minmax(0, 1fr); gap: 0; } dl.facts dd { margin-bottom: 0.5rem; } }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 12.5rem), 1fr)); gap: 1rem; margin: 1.4rem 0 0; padding: 0; list-style: none; }
.tiles li { background: var(--surface); border: 1px solid var(--rule); border-radius: 10px; padding: 0.9rem 1.1rem; }
.tiles span { display: block; color: var(--muted); font-size: 0.85rem; }
.tiles strong { display: block; font-size: 1.55rem; line-height: 1.35; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }

.findings { list-style: none; margin: 0; padding: 0; }
.findings li { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); gap: 0 1rem; padding: 0.75rem 0; border-top: 1px solid var(--rule); }
.findings li:first-child { border-top: 0; padding-top: 0.25rem; }
.findings p { margin: 0; max-width: 52rem; }
.badge { justify-self: start; align-self: start; border: 1.5px solid currentcolor; border-radius: 99px; padding: 0.05rem 0.6rem; font-size: 0.78rem; font-weight: 600; white-space: nowrap; margin-top: 0.1rem; }
.badge.held { color: var(--held); }
.badge.refuted { color: var(--refuted); }
.badge.unmeasured { color: var(--muted); border-style: dashed; }
@media (max-width: 640px) {
  .frame { padding: 1.4rem 0.75rem 2rem; }
  section { padding: 1.1rem 0.9rem 1.2rem; }
  h1 { font-size: 1.4rem; }
  .findings li { grid-template-columns: minmax(0, 1fr); gap: 0.35rem; }
}
@media print {
  body { background: none; font-size: 10.5pt; }
  .frame { max-width: none; padding: 0; }
  nav, summary { display: none; }
  section { border: 0; padding: 0; margin-top: 1.6rem; }
  h2, h3, figcaption { break-after: avoid; }
  figure, tr, .findings li { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.2rem 0.4rem; }
}
`;
