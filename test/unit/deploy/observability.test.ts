import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { METRICS, metricsPage } from '../../../scripts/metrics-docs.js';
import { hasPromtool, promtool } from '../../reference/promtool.js';

const file = (name: string): string => fileURLToPath(new URL(`../../../${name}`, import.meta.url));
const RULES = 'deploy/prometheus/terabag.rules.yml';

interface Panel {
  readonly type: string;
  readonly title: string;
  readonly targets?: readonly { readonly expr: string }[];
}
const dashboard = JSON.parse(readFileSync(file('deploy/grafana/terabag.json'), 'utf8')) as {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly type: string; readonly query: string }[] };
};
const drawn = dashboard.panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ from: title, expr })));

/** Expressions of the rules, each with the name that it is recorded or alerted under. */
function rules(): { readonly from: string; readonly expr: string; readonly recorded: boolean }[] {
  const text = readFileSync(file(RULES), 'utf8');
  const found = text.matchAll(/^ {6}- (record|alert): (\S+)\n {8}expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)/gm);
  return [...found].map(([, kind, from = '', block, line]) => ({ from, expr: block ?? line ?? '', recorded: kind === 'record' }));
}

const WORDS = new Set(['by', 'without', 'on', 'ignoring', 'group_left', 'group_right', 'and', 'or', 'unless', 'offset', 'bool']);

/** Names of metrics in an expression, and whether as a histogram's series. */
function metricsOf(expr: string): string[] {
  const plain = expr
    .replaceAll(/\{[^}]*\}|\[[^\]]*\]|"[^"]*"/g, ' ')
    .replaceAll(/\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)/g, ' ')
    .replaceAll(/\b[a-z_]+\s*(?=\()/g, ' ');
  return [...plain.matchAll(/(?<![\w.$:])[a-zA-Z_][\w:]*/g)].map(([name]) => name).filter((name) => !WORDS.has(name));
}

const recorded = new Set(rules().flatMap(({ from, recorded: is }) => (is ? [from] : [])));

/** Whether something exports series of this name. */
function exists(name: string): boolean {
  if (name === 'up' || recorded.has(name)) return true;
  const histogram = /_(bucket|sum|count)$/.test(name) ? METRICS.get(name.replace(/_(bucket|sum|count)$/, '')) : undefined;
  if (histogram?.type === 'histogram') return true;
  return METRICS.has(name) && METRICS.get(name)?.type !== 'histogram';
}

test('names of metrics are found in expressions', () => {
  expect(metricsOf('sum by (le, a) (rate(x_bucket{b="c d"}[5m])) / (y > 0) or vector(0) and ns:z:rate5m')).toEqual([
    'x_bucket',
    'y',
    'ns:z:rate5m',
  ]);
  expect([exists('terabag_requests_total'), exists('terabag_request_duration_seconds_bucket')]).toEqual([true, true]);
  expect([exists('terabag_request_duration_seconds'), exists('terabag_requests_sum'), exists('terabag_nothing')]).toEqual([
    false,
    false,
    false,
  ]);
});

test('every query of the dashboard and the rules names metrics that exist', () => {
  const queries = [
    ...drawn,
    ...rules(),
    ...dashboard.templating.list.flatMap(({ type, query }) => (type === 'query' ? [{ from: 'variable', expr: query }] : [])),
  ];
  expect(rules().length).toBe(readFileSync(file(RULES), 'utf8').match(/^ {6}- /gm)?.length);
  expect(drawn.length).toBeGreaterThan(50);
  const missing = queries.flatMap(({ from, expr }) => {
    const names = from === 'variable' ? metricsOf(expr).slice(0, 1) : metricsOf(expr);
    expect({ from, names: names.length }).not.toEqual({ from, names: 0 });
    return names.filter((name) => !exists(name)).map((name) => `${from}: ${name}`);
  });
  expect(missing).toEqual([]);
});

test('every metric that only Terabag has of requests, stages and tables is drawn, but for a few', () => {
  const shown = new Set(drawn.flatMap(({ expr }) => metricsOf(expr).map((name) => name.replace(/_(bucket|sum|count)$/, ''))));
  const left = [...METRICS.keys()].filter((name) => name.startsWith('terabag_') && !shown.has(name));
  expect(left).toEqual([
    ...[
      'terabag_table_locked_bytes',
      'terabag_rpc_replicas',
      'terabag_replica_ready',
      'terabag_shard_ready',
      'terabag_shard_uptime_seconds',
    ],
    ...[
      'terabag_shard_malformed_total',
      'terabag_shard_version_skew_total',
      'terabag_shard_in_flight_bytes',
      'terabag_shard_replaced_files',
    ],
    'terabag_shard_table_locked_bytes',
  ]);
});

test('docs/metrics.md has the metrics that there are (npm run docs:metrics writes it)', () => {
  const page = readFileSync(file('docs/metrics.md'), 'utf8');
  // Columns are aligned by the formatter.
  const plain = (text: string): string => text.replaceAll(/ +\|/g, ' |').replaceAll(/-{3,}/g, '---');
  expect(plain(page)).toBe(plain(metricsPage(page)));
  const told = [...page.matchAll(/^\| `(\w+)` +\|/gm)].map(([, name]) => name);
  expect(told.sort()).toEqual([...METRICS.keys()].sort());
});

test.skipIf(!hasPromtool)('promtool takes the rules, and the queries of the dashboard as rules', () => {
  expect(promtool(['check', 'rules', file(RULES)])).toMatchObject({ status: 0, output: expect.stringContaining('SUCCESS') });
  const dir = mkdtempSync(join(tmpdir(), 'terabag-rules-'));
  try {
    const queries = drawn.map(({ expr }, n) => ({
      record: `drawn:${n}`,
      expr: expr.replaceAll('$__rate_interval', '5m').replaceAll(/\$(model|version)/g, '.*'),
    }));
    // JSON is YAML too.
    writeFileSync(join(dir, 'drawn.yml'), JSON.stringify({ groups: [{ name: 'drawn', rules: queries }] }));
    expect(promtool(['check', 'rules', join(dir, 'drawn.yml')])).toMatchObject({ status: 0, output: expect.stringContaining('SUCCESS') });
  } finally {
    rmSync(dir, { recursive: true });
  }
});
