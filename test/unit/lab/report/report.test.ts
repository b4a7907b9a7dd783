import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import { type Characterisation, characterisationSchema } from '../../../../src/lab/report/characterisation.js';
import { renderCharacterisation } from '../../../../src/lab/report/characterisation-report.js';
import { tailPoints } from '../../../../src/lab/report/charts/tail-chart.js';
import { spanRows } from '../../../../src/lab/report/charts/waterfall.js';
import { Charts } from '../../../../src/lab/report/charts.js';
import { html } from '../../../../src/lab/report/html.js';
import { LatencyHistogram } from '../../../../src/observe/latency-histogram.js';
import { fullCharacterisation } from '../../../reference/characterisation.js';

let charts: Charts;
beforeAll(async () => {
  charts = await Charts.load();
});

const sectionIds = (page: string): string[] => [...page.matchAll(/<section id="([^"]+)"/g)].map(([, id]) => id!);

test('results with everything have every section, and each link leads to one', () => {
  const page = renderCharacterisation(fullCharacterisation(), charts);
  const ids = ['findings', 'overheads', 'tails', 'stacks', 'traffic', 'knees', 'batches', 'plans', 'request', 'skipped', 'method'];
  expect(sectionIds(page)).toEqual(ids);
  expect([...page.matchAll(/href="#([^"]+)"/g)].map(([, id]) => id)).toEqual(ids);
  expect(page).not.toMatch(/NaN|undefined|\[object|Infinity/);
  expect(page).not.toMatch(/<script|(?:src|href)="(?!#|data:,)|@import|url\((?!#)/);
  for (const figure of page.match(/<figure>.*?<\/figure>/gs)!) expect(figure).toMatch(/role="img" aria-label="[^"]{10,}"/);
});

test('results that have just begun render what is there, and say what is not', () => {
  const empty = { configurations: [], overheads: [], knees: [], batchSweeps: [], batchSchedules: [], findings: [], skipped: [] };
  const begun: Characterisation = { ...fullCharacterisation(), ...empty, endedAt: null, waterfall: null };
  const page = renderCharacterisation(characterisationSchema.parse(begun), charts);
  expect(sectionIds(page)).toEqual(['method']);
  expect(page).toMatch(/has not ended.*Not measured: findings, overheads/);
});

test('the first configuration alone can be drawn, and a run without an answer', () => {
  const full = fullCharacterisation();
  const [singular] = full.configurations as [Characterisation['configurations'][number]];
  const latencyMs = new LatencyHistogram().toJSON();
  const failed = { ...singular.runs[1]!, latencyMs, cpuMsPerRequest: null, stacks: [] };
  const rest = { overheads: [], knees: [], batchSweeps: [], batchSchedules: [], waterfall: null };
  const page = renderCharacterisation({ ...full, ...rest, configurations: [{ ...singular, runs: [singular.runs[0]!, failed] }] }, charts);
  expect(sectionIds(page)).toEqual(['findings', 'tails', 'stacks', 'traffic', 'plans', 'skipped', 'method']);
  expect(page).not.toMatch(/NaN|undefined/);
});

test('names that look like markup stay text wherever they are drawn', () => {
  const hostile = `<img src=x onerror="alert('1')">&`;
  const replaced = JSON.stringify(fullCharacterisation())
    .replaceAll('"load-balanced-4"', JSON.stringify(hostile))
    .replaceAll(/"(table_0|shard-1|pool|main thread|deadline_exceeded|Packet loss|drm1)"/g, JSON.stringify(hostile));
  const page = renderCharacterisation(characterisationSchema.parse(JSON.parse(replaced)), charts);
  expect(page).not.toContain('<img');
  expect(page).not.toContain('onerror="');
  expect(page).toContain('&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;');
});

test('html escapes whatever is put in, and keeps what is Html', () => {
  const inner = html`<b>${'<&>'}</b>`;
  expect(html`<p title="${`"'`}">${[inner, 3, 'a<b']}</p>`.markup).toBe('<p title="&quot;&#39;"><b>&lt;&amp;&gt;</b>3a&lt;b</p>');
  fc.assert(
    fc.property(fc.string(), (text) => {
      expect(html`${text}`.markup).not.toMatch(/[<>"']/);
    }),
  );
});

test('tail points are the smallest latencies that no more than their share of the requests exceed', () => {
  const samples = fc.array(fc.double({ min: 0.001, max: 10_000, noNaN: true }), { minLength: 2, maxLength: 400 });
  fc.assert(
    fc.property(samples, (milliseconds) => {
      const latency = new LatencyHistogram();
      for (const ms of milliseconds) latency.record(ms);
      const points = tailPoints(latency);
      expect(points.at(-1)!.tail * milliseconds.length).toBeGreaterThanOrEqual(1);
      for (const { tail, ms } of points) {
        const exceeding = (bound: number): number => milliseconds.filter((other) => other > bound).length;
        const exact = Math.min(...milliseconds.filter((bound) => exceeding(bound) <= tail * milliseconds.length + 1e-9));
        expect(ms).toBeGreaterThanOrEqual(exact - 1e-6);
        expect(ms).toBeLessThanOrEqual(exact * (1 + 1 / 512) + 1e-6);
      }
    }),
  );
});

test('spans that overlap never share a row, and none is lost', () => {
  const span = fc.record({
    lane: fc.constantFrom('a', 'b'),
    name: fc.constant('span'),
    startMs: fc.integer({ min: 0, max: 50 }),
    durationMs: fc.integer({ min: 1, max: 20 }),
    layer: fc.constant(null),
  });
  fc.assert(
    fc.property(fc.array(span, { maxLength: 30 }), (spans) => {
      const rows = spanRows(spans);
      expect(rows.flatMap((row) => row.spans)).toHaveLength(spans.length);
      for (const { spans: inRow } of rows)
        for (const one of inRow)
          for (const other of inRow)
            if (one !== other && one.startMs <= other.startMs) expect(one.startMs + one.durationMs).toBeLessThanOrEqual(other.startMs);
    }),
  );
});

test('in Chromium: no error, no request, no overflow, readable text; wide and on a phone, light and dark', (context) => {
  const dir = mkdtempSync(join(tmpdir(), 'terabag-report-'));
  try {
    writeFileSync(join(dir, 'report.html'), renderCharacterisation(fullCharacterisation(), charts));
    const script = fileURLToPath(new URL('../../../../scripts/check-report.mjs', import.meta.url));
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, join(dir, 'report.html')], { encoding: 'utf8' });
    if (status === 3) return context.skip(stderr.trim());
    const views = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(stderr).toBe('');
    expect(views.map(({ width, scheme, problems }) => [width, scheme, problems])).toEqual(
      [1280, 390].flatMap((width) => ['light', 'dark'].map((scheme) => [width, scheme, []])),
    );
    for (const { charts: drawn, smallestTextPixels } of views) {
      expect(drawn).toBeGreaterThan(20);
      expect(smallestTextPixels).toBeGreaterThan(8);
    }
    expect(new Set(views.map(({ page }) => page)).size).toBe(2);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
