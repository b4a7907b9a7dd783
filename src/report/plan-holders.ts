import type { ModelSpec } from '../model/spec.js';
import { heldByShards } from '../plan/bytes.js';
import { MAIN_SHARD, type Plan } from '../plan/plan.js';
import type { PlanHolder } from './characterisation.js';

/** So many tables of a shard are named. */
const NAMED_TABLES = 8;

/** What each shard of a plan holds, for its map; main after the last when it holds any. Lookups per request are not known here. */
export const planHolders = (plan: Plan, spec: ModelSpec): PlanHolder[] =>
  [...heldByShards(plan, spec)].flatMap(([name, held]): PlanHolder[] => {
    if (name === MAIN_SHARD && held.length === 0) return [];
    const largest = held
      .map(({ table, part, bytes }) => ({ table: table.name, bytes, parts: part.parts }))
      .sort((a, b) => b.bytes - a.bytes);
    const bytes = held.reduce((sum, one) => sum + one.bytes, 0);
    return [{ name, bytes, tables: held.length, lookupsPerRequest: null, largest: largest.slice(0, NAMED_TABLES) }];
  });
