import type { Residency } from '../engine/residency.js';
import type { ModelSpec } from '../model/spec.js';
import { MAIN_SHARD, type Plan } from '../plan/file/plan.js';
import { heldByShards, tableBytes } from '../plan/placement/bytes.js';

export interface Served {
  readonly plan: Plan;
  readonly spec: ModelSpec;
  /** Where the bundle and the plan file are. */
  readonly dir: string;
  readonly planPath: string;
  readonly residency: Residency;
}

/**
 * What it costs that shards serve parts of tables whose files are whole, with the remedy; null where none does. Rows of all parts lie between each
 * other, so that a shard's mapping covers the whole table, and what is read ahead or locked of it does too; processes of one machine share it.
 * With residency hugepages, shards copy their own rows out of the file.
 */
export function wholeTablesWarning({ plan, spec, dir, planPath, residency }: Served, shard?: string): string | null {
  if (spec.published !== undefined || residency === 'hugepages') return null;
  const shards = [...heldByShards(plan, spec)]
    .filter(([name]) => name !== MAIN_SHARD && (shard === undefined || name === shard))
    .map(([name, held]) => ({ name, parts: held.filter(({ part }) => part.parts > 1) }))
    .filter(({ parts }) => parts.length > 0)
    .map(({ name, parts }) => ({
      name,
      first: parts[0]?.table.name ?? '',
      tables: parts.length,
      ownBytes: parts.reduce((sum, { bytes }) => sum + bytes, 0),
      wholeBytes: parts.reduce((sum, { table }) => sum + tableBytes(table), 0),
    }))
    .sort((a, b) => b.wholeBytes - a.wholeBytes);
  const [most] = shards;
  if (most === undefined) return null;
  const held = { map: 'maps', populate: 'maps and reads ahead', lock: 'locks' }[residency];
  return `${most.name} ${held} ${most.wholeBytes} bytes for ${most.ownBytes} of its own: ${most.tables} tables that the plan splits by rows lie whole in ${dir}, first ${most.first}; terabag publish ${planPath} <out> --bundle ${dir} writes each shard just its rows`;
}
