import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { aPath, TerabagError } from '../../errors.js';
import type { ModelSpec } from '../../model/spec.js';
import type { RowPart } from '../../tables/rows.js';
import { isShardName, type Plan } from './plan.js';

/** Which parts of which tables a plan gives to a shard, or to main; at most one part a table. */
export function placedParts(plan: Plan, shard: string): Map<string, RowPart> {
  return new Map(
    plan.tables.flatMap(({ table, parts }): [string, RowPart][] => {
      const part = parts.indexOf(shard);
      return part < 0 ? [] : [[table, { part, parts: parts.length }]];
    }),
  );
}

/** Where a shard's bundle lies in the directory that was published to. A name that is no plain directory name is refused. */
export function shardDirectory(out: string, shard: string): string {
  if (!isShardName(shard)) throw new TerabagError('bad_plan', `shard has a name that no directory can have: ${shard}`, { shard });
  return join(out, shard);
}

/** The bundle that a shard opens: the directory itself, or, when it was published to, the shard's in it. */
export async function bundleOf(dir: string, shard: string): Promise<string> {
  const isThere = (path: string): Promise<boolean> =>
    access(path).then(
      () => true,
      () => false,
    );
  if (await isThere(join(aPath('bundle', dir), 'model.json'))) return dir;
  const own = shardDirectory(dir, shard);
  return (await isThere(own)) ? own : dir;
}

/** Refuses a bundle that was published for another shard, or by a plan that splits or places tables otherwise (model_mismatch). */
export function checkPublishedFor(plan: Plan, shard: string, { published }: ModelSpec, dir: string): void {
  if (published === undefined) return;
  const mismatch = (what: string, details: Record<string, string | number> = {}): TerabagError =>
    new TerabagError('model_mismatch', `${what}: ${dir}; publish again`, { shard, publishedFor: published.shard, ...details });
  if (published.shard !== shard) throw mismatch(`bundle was published for shard ${published.shard}, this is ${shard}`);
  const difference = partsDifference(placedParts(plan, shard), new Map(published.parts.map((held) => [held.table, held])));
  if (difference !== null) throw mismatch(`bundle of shard ${shard} was published by another plan: ${difference.what}`, difference.details);
}

interface PartsDifference {
  readonly what: string;
  readonly details: { readonly table: string };
}

/** The first table of which other parts are wanted than are held; null when there is none. */
export function partsDifference(wanted: ReadonlyMap<string, RowPart>, held: ReadonlyMap<string, RowPart>): PartsDifference | null {
  const told = (part: RowPart | undefined): string => (part === undefined ? 'nothing' : `part ${part.part} of ${part.parts}`);
  for (const table of new Set([...wanted.keys(), ...held.keys()])) {
    const [plan, bundle] = [told(wanted.get(table)), told(held.get(table))];
    if (plan !== bundle) return { what: `it holds ${bundle} of table ${table}, the plan says ${plan}`, details: { table } };
  }
  return null;
}
