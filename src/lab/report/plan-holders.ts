import type { ModelSpec } from '../../model/spec.js';
import type { Plan } from '../../plan/file/plan.js';
import { heldByShards, planSummary } from '../../plan/placement/bytes.js';
import type { Profile } from '../../plan/profile/profile.js';
import type { PlanHolder } from './characterisation.js';

/** So many tables of a shard are named. */
const NAMED_TABLES = 12;

/** What each shard of a plan holds, for its map: main last when it holds anything. Lookups per request are known with a profile. */
export function planHolders(plan: Plan, spec: ModelSpec, profile?: Profile): PlanHolder[] {
  const held = heldByShards(plan, spec);
  return planSummary(plan, spec, profile).map(({ shard, bytes, tables, rows }) => {
    const largest = (held.get(shard) ?? []).map((one) => ({ table: one.table.name, bytes: one.bytes, parts: one.part.parts }));
    largest.sort((a, b) => b.bytes - a.bytes);
    return { name: shard, bytes, tables, lookupsPerRequest: rows, largest: largest.slice(0, NAMED_TABLES) };
  });
}
