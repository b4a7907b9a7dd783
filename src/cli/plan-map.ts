import { extname } from 'node:path';
import { TerabagError } from '../errors.js';
import { planTreemap, type ShardLoad } from '../lab/report/charts/plan-treemap.js';
import { Charts } from '../lab/report/charts.js';
import { formatBytes } from '../lab/report/numbers.js';
import { dataTable, factList, figure, renderPage } from '../lab/report/page.js';
import type { ModelSpec } from '../model/spec.js';
import { MAIN_SHARD, type Plan } from '../plan/file/plan.js';
import { heldByShards } from '../plan/placement/bytes.js';
import type { PlanPrediction } from '../plan/predict/predict-plan.js';
import type { Planned } from '../plan/search/scenario.js';
import { writeFileAtomic } from '../tables/atomic.js';

/** Pixels, of a picture without a page. */
const SVG_WIDTH = 1100;

/** Draws what each shard holds, areas in proportion to bytes: an HTML page, or one SVG. */
export async function writePlanMap(path: string, spec: ModelSpec, { plan, prediction }: Planned, ranOn: string): Promise<void> {
  const kind = extname(path).toLowerCase();
  if (kind !== '.html' && kind !== '.svg')
    throw new TerabagError('invalid_argument', `a map is a file .html or .svg: ${path}`, { field: 'map', path });
  const charts = await Charts.load();
  const map = planTreemap(withPredictions(chartLoads(plan, spec), prediction));
  if (kind === '.svg') return writeFileAtomic(path, charts.svg(map, SVG_WIDTH).markup);
  const { p50Us, p99Us, cpuUs, boundingShard } = prediction;
  const page = renderPage({
    title: `Plan of ${spec.name}`,
    lead: `${spec.tables.length} tables on ${plan.shards.length} sparse shards${replicasOf(plan)}.`,
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

function replicasOf({ shards }: Plan): string {
  const most = Math.max(1, ...shards.map(({ endpoints }) => endpoints.length));
  return most === 1 ? '' : `, of which each has up to ${most} replicas`;
}

/** The tables and parts of each shard for a chart, the largest first; main after the last when it holds any. */
export function chartLoads(plan: Plan, spec: ModelSpec): ShardLoad[] {
  return [...heldByShards(plan, spec)].flatMap(([shard, held]): ShardLoad[] => {
    if (shard === MAIN_SHARD && held.length === 0) return [];
    const tables = held.map(({ table: { name }, part: { part, parts }, bytes }) => ({
      table: parts > 1 ? `${name} ${part + 1}/${parts}` : name,
      bytes,
    }));
    return [{ shard, tables: tables.sort((a, b) => b.bytes - a.bytes) }];
  });
}

function withPredictions(loads: readonly ShardLoad[], { shards, main }: PlanPrediction): ShardLoad[] {
  const pooling = new Map([...shards, main].map(({ shard, serviceUs }) => [shard, serviceUs]));
  return loads.flatMap(({ shard, tables }) => {
    if (tables.length === 0) return [];
    const bytes = tables.reduce((sum, one) => sum + one.bytes, 0);
    const detail = `${formatBytes(bytes)}, ${tables.length} tables, ${(pooling.get(shard) ?? 0).toFixed(0)} us`;
    return [{ shard, detail, tables }];
  });
}
