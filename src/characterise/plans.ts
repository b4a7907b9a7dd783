import { TerabagError } from '../errors.js';
import { modelHash } from '../model/hash.js';
import { rowBytes } from '../model/row-format.js';
import type { ModelSpec } from '../model/spec.js';
import { planSummary, tableBytes } from '../plan/bytes.js';
import { MAIN_SHARD, type Plan } from '../plan/plan.js';
import type { Profile } from '../plan/profile.js';
import { makePlan, type Strategy } from '../plan/strategies.js';
import type { PlanHolder } from '../report/characterisation.js';
import { partRows } from '../tables/rows.js';

/** Of equal shares: what a shard may hold before a table is split by rows; the first that all tables fit into. */
const ROOM = [1.25, 1.5, 2, Number.POSITIVE_INFINITY];
const LARGEST_SHOWN = 12;

/**
 * The plan of a strategy for so many shards. A table that is larger than a shard's equal share is split by rows, as a limit of memory would have
 * it: else one shard would hold nearly all of a model with a dominating table.
 */
export function planFor(strategy: Strategy, shards: number, spec: ModelSpec, profile: Profile): Plan {
  const hash = modelHash(spec);
  const sizes = spec.tables.map(tableBytes);
  const share = sizes.reduce((sum, bytes) => sum + bytes, 0) / Math.max(1, shards);
  const room = shards > 1 && Math.max(...sizes) > share ? ROOM : [Number.POSITIVE_INFINITY];
  for (const factor of room) {
    const memoryLimitBytes = Math.ceil(share * factor);
    try {
      return makePlan(strategy, spec, hash, profile, { shards: Math.max(1, shards), ...(Number.isFinite(factor) && { memoryLimitBytes }) });
    } catch (error) {
      if (TerabagError.from(error).code !== 'does_not_fit' || factor === room.at(-1)) throw error;
    }
  }
  throw new TerabagError('internal', `no plan: ${strategy}, ${shards} shards`);
}

/** What each shard of a plan holds, main last when it holds anything, with its largest tables. */
export function planHolders(plan: Plan, spec: ModelSpec, profile: Profile): PlanHolder[] {
  const tables = new Map(spec.tables.map((table) => [table.name, table]));
  const held = new Map<string, PlanHolder['largest']>([...plan.shards.map(({ name }) => name), MAIN_SHARD].map((name) => [name, []]));
  for (const { table, parts } of plan.tables) {
    const known = tables.get(table);
    if (known === undefined) continue;
    parts.forEach((name, part) => {
      const bytes = partRows(known.rows, { part, parts: parts.length }) * rowBytes(known.format, known.dim);
      held.get(name)?.push({ table, bytes, parts: parts.length });
    });
  }
  return planSummary(plan, spec, profile).map(({ shard, bytes, tables: count, rows }) => ({
    name: shard,
    bytes,
    tables: count,
    lookupsPerRequest: rows,
    largest: (held.get(shard) ?? []).sort((a, b) => b.bytes - a.bytes).slice(0, LARGEST_SHOWN),
  }));
}
