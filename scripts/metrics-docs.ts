// npm run docs:metrics: writes docs/metrics.md, whose tables are what the registries hold.
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ServerMetrics } from '../src/observe/metrics/server-metrics.js';
import { ShardMetrics } from '../src/observe/metrics/shard-metrics.js';

interface Described {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  /** Of Terabag's own families; prom-client's metrics have labelNames, and a method of this name. */
  readonly labels: unknown;
  readonly labelNames?: readonly string[];
}

const main = new ServerMetrics().registry.getMetricsAsArray() as unknown as readonly Described[];
const shard = new ShardMetrics('shard', () => null).registry.getMetricsAsArray() as unknown as readonly Described[];

/** What the registries of main and of a shard hold, by name. */
export const METRICS: ReadonlyMap<string, Described> = new Map([...main, ...shard].map((metric) => [metric.name, metric]));

const isOfProcess = ({ name }: Described): boolean => main.some((one) => one.name === name) && shard.some((one) => one.name === name);

function table(metrics: readonly Described[]): string {
  const cell = (text: string): string => text.replaceAll('|', '\\|');
  const rows = metrics.map(({ name, type, help, labels, labelNames }) => {
    const names = (Array.isArray(labels) ? labels : (labelNames ?? [])).map((label) => `\`${label}\``).join(', ');
    return `| \`${name}\` | ${type} | ${names} | ${cell(help)} |`;
  });
  return ['| metric | type | labels | what it is |', '| --- | --- | --- | --- |', ...rows].join('\n');
}

const TABLES: Readonly<Record<string, string>> = {
  main: table(main.filter((metric) => !isOfProcess(metric))),
  shard: table(shard.filter((metric) => !isOfProcess(metric))),
  process: table(main.filter(isOfProcess)),
};

const path = fileURLToPath(new URL('../docs/metrics.md', import.meta.url));

/** The page with its tables anew: each stands between two comments. */
export function metricsPage(page: string): string {
  return page.replaceAll(
    /(<!-- table: (\w+) -->)[\s\S]*?(<!-- end -->)/g,
    (_, start: string, name: string, end: string) => `${start}\n\n${TABLES[name]}\n\n${end}`,
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(path, metricsPage(readFileSync(path, 'utf8')));
  // The event loop's monitor and the observer of collections go on.
  process.exit();
}
