import { extname } from 'node:path';
import { TerabagError } from '../errors.js';
import type { ModelSpec } from '../model/spec.js';
import { tableBytes } from '../plan/bytes.js';
import { MAIN_SHARD } from '../plan/plan.js';
import type { Planned } from '../plan/scenario.js';
import { planTreemap, type ShardLoad } from '../report/charts/plan-treemap.js';
import { Charts } from '../report/charts.js';
import { dataTable, factList, figure, renderPage } from '../report/page.js';
import { writeFileAtomic } from '../tables/atomic.js';
import { partRows } from '../tables/rows.js';
import { formatBytes } from './options.js';

/** Pixels, of a picture without a page. */
const SVG_WIDTH = 1100;

/** Draws what each shard holds, areas in proportion to bytes: an HTML page, or one SVG. */
export async function writePlanMap(path: string, spec: ModelSpec, { plan, prediction }: Planned, ranOn: string): Promise<void> {
  const kind = extname(path).toLowerCase();
  if (kind !== '.html' && kind !== '.svg')
    throw new TerabagError('invalid_argument', `a map is a file .html or .svg: ${path}`, { field: 'map', path });
  const charts = await Charts.load();
  const map = planTreemap(loadsOf(spec, { plan, prediction }));
  if (kind === '.svg') return writeFileAtomic(path, charts.svg(map, SVG_WIDTH).markup);
  const { p50Us, p99Us, cpuUs, boundingShard } = prediction;
  const page = renderPage({
    title: `Plan of ${spec.name}`,
    lead: `${spec.tables.length} tables on ${plan.shards.length} sparse shards.`,
    ranOn,
    sections: [
      {
        id: 'map',
        heading: 'Map',
        content: [
          factList([
            ['strategy', plan.strategy],
            ['predicted per request', `P50 ${p50Us.toFixed(0)} us, P99 ${p99Us.toFixed(0)} us, CPU ${cpuUs.toFixed(0)} us`],
            ['bounding shard', boundingShard ?? 'none'],
          ]),
          figure(
            {
              title: 'Tables by shard',
              aside: 'areas in proportion to bytes',
              description: 'The table below has the figures.',
              chart: map,
              size: 'full',
            },
            charts,
          ),
          dataTable({
            caption: 'Shards',
            head: ['shard', 'tables', 'bytes', 'rows per request', 'pooling, us', 'CPU, us'],
            rows: [...prediction.shards, prediction.main].map(({ shard, tables, bytes, lookups, serviceUs, cpuUs: cpu }) => [
              shard,
              ...[String(tables), formatBytes(bytes), lookups.toFixed(1), serviceUs.toFixed(0), cpu.toFixed(0)],
            ]),
          }),
        ],
      },
    ],
  });
  return writeFileAtomic(path, page);
}

function loadsOf(spec: ModelSpec, { plan, prediction }: Planned): ShardLoad[] {
  const tables = new Map(spec.tables.map((table) => [table.name, table]));
  const held = new Map(
    [...plan.shards.map(({ name }) => name), MAIN_SHARD].map((name) => [name, [] as { table: string; bytes: number }[]]),
  );
  for (const { table: name, parts } of plan.tables) {
    const table = tables.get(name);
    if (table === undefined) continue;
    for (const [part, shard] of parts.entries()) {
      const bytes = (tableBytes(table) / table.rows) * partRows(table.rows, { part, parts: parts.length });
      held.get(shard)?.push({ table: parts.length > 1 ? `${name} ${part + 1}/${parts.length}` : name, bytes });
    }
  }
  const pooling = new Map([...prediction.shards, prediction.main].map(({ shard, serviceUs }) => [shard, serviceUs]));
  return [...held].flatMap(([shard, own]) => {
    if (own.length === 0) return [];
    const bytes = own.reduce((sum, one) => sum + one.bytes, 0);
    const detail = `${formatBytes(bytes)}, ${own.length} tables, ${(pooling.get(shard) ?? 0).toFixed(0)} us`;
    return [{ shard, detail, tables: own.sort((a, b) => b.bytes - a.bytes) }];
  });
}
