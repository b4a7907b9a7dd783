import { z } from 'zod';
import { canonicalEndpoint, parseEndpoint } from '../../endpoints/endpoint.js';
import { TerabagError } from '../../errors.js';
import { hashOfJson } from '../../model/hash.js';
import type { ModelSpec } from '../../model/spec.js';
import { writeFileAtomic } from '../../tables/atomic.js';
import { checkJson, type JsonFileKind, readJsonFile } from '../../tables/json-file.js';

const name = z.string().min(1).max(256);
const endpoint = z
  .string()
  .refine((given) => parseEndpoint(given) !== null, 'has to be tcp://host:port, ipc://path, srv://name or file:///path');

/** A shard's name is that of its directory too, when the plan is published, and stands in lists. */
export const isShardName = (text: string): boolean => /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(text);

/** The part holder that is no sparse shard: every main shard holds such a table itself, whole, and asks nobody for it. */
export const MAIN_SHARD = 'main';

/** The plan file: which shard holds which table, or which part of a row-wise split table. The source of truth; nothing is elected at run time. */
const planSchema = z.strictObject({
  terabagPlan: z.literal(1),
  strategy: z.string().min(1),
  model: z.strictObject({ name, version: z.string().min(1), hash: z.string().regex(/^[0-9a-f]{64}$/) }),
  /** Tells versions of one model apart that are served one after the other; none is 0. Requests of one epoch are answered by shards of that alone. */
  epoch: z.int().nonnegative().optional(),
  /** None when main holds all tables (singular). */
  shards: z.array(
    z.strictObject({
      name: name
        .refine(isShardName, 'has to be at most 128 letters, digits, dots, dashes and underscores, the first a letter or a digit')
        .refine((given) => given !== MAIN_SHARD, `no sparse shard may be called ${MAIN_SHARD}`),
      /** Of its replicas: each holds all that the shard holds. */
      endpoints: z.array(endpoint).min(1, 'a shard needs an endpoint'),
    }),
  ),
  /** parts[p] names the shard of part p: rows r with r mod parts.length == p, as local row floor(r / parts.length). [MAIN_SHARD]: held by main. */
  tables: z.array(z.strictObject({ table: name, parts: z.array(name).min(1) })),
  /** What each shard holds, and main with its dense part, for those who give them memory; nothing that serves reads it. */
  bytes: z.record(name, z.int().nonnegative()).optional(),
});
/** @useDeclaredType */
export type Plan = z.output<typeof planSchema>;

const bad = (what: string): TerabagError => new TerabagError('bad_plan', what);

const KIND: JsonFileKind = { what: 'plan', code: 'bad_plan' };

export const readPlan = (path: string): Promise<Plan> => readJsonFile(path, KIND, planSchema);

/** What readPlan would refuse is refused as it would be (bad_plan). */
export async function writePlan(path: string, plan: Plan): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(checkJson(path, plan, KIND, planSchema), null, 2)}\n`);
}

/** Refuses what is no plan (bad_plan), for callers whose types nobody checks. */
export function checkPlanShape(plan: Plan): void {
  checkJson(null, plan, KIND, planSchema);
}

/**
 * Sha-256 of what requests to shards depend on: the model, the epoch, the shards' names and where tables lie. Not of endpoints, since shards may
 * move and replicas come and go, and not of how the plan was made.
 */
export const planHashOf = ({ model, epoch = 0, shards, tables }: Plan): string =>
  hashOfJson({ model, epoch, shards: shards.map((shard) => shard.name), tables });

/** What main and shards of a plan serve, and say in each message. */
export const servedVersionOf = (plan: Plan): { readonly modelHash: string; readonly planHash: string; readonly epoch: number } => ({
  ...{ modelHash: plan.model.hash, planHash: planHashOf(plan), epoch: plan.epoch ?? 0 },
});

/** Refuses a plan that has an endpoint twice: however it is spelled, one process cannot be two replicas. */
export function checkEndpoints(plan: Plan): void {
  const seen = new Map<string, string>();
  for (const { name: shard, endpoints } of plan.shards) {
    for (const given of endpoints) {
      const endpoint = canonicalEndpoint(given);
      const other = seen.get(endpoint);
      if (other !== undefined) throw bad(`plan: endpoints have to differ, those of ${other} and ${shard} do not: ${given}`);
      seen.set(endpoint, shard);
    }
  }
}

/** Refuses a plan of another model, and one that does not place every table exactly once. */
export function checkPlan(plan: Plan, spec: ModelSpec, hash: string): void {
  if (plan.model.hash !== hash) {
    throw new TerabagError(
      'model_mismatch',
      `plan is of another model: ${plan.model.name} ${plan.model.version} (${plan.model.hash.slice(0, 12)}), the bundle is ${spec.name} ${spec.version} (${hash.slice(0, 12)}); plan again`,
    );
  }
  const shards = new Set(plan.shards.map((shard) => shard.name));
  if (shards.size !== plan.shards.length) throw bad('plan: shard names have to differ');
  checkEndpoints(plan);
  const placed = new Set<string>();
  const tables = new Map(spec.tables.map((table) => [table.name, table]));
  for (const { table, parts } of plan.tables) {
    const known = tables.get(table);
    if (known === undefined) throw bad(`plan: places a table that the model does not have: ${table}`);
    if (placed.has(table)) throw bad(`plan: places a table twice: ${table}`);
    placed.add(table);
    if (parts.length === 0) throw bad(`plan: has no part of a table: ${table}`);
    if (parts.includes(MAIN_SHARD) && parts.length > 1) throw bad(`plan: a table on ${MAIN_SHARD} cannot be split: ${table}`);
    const unknown = parts.find((part) => part !== MAIN_SHARD && !shards.has(part));
    if (unknown !== undefined) throw bad(`plan: table ${table} is on a shard that the plan does not have: ${unknown}`);
    if (new Set(parts).size !== parts.length) throw bad(`plan: two parts of a table are on one shard: ${table}`);
    if (parts.length > known.rows) throw bad(`plan: table has fewer rows than parts: ${table}, rows ${known.rows}, parts ${parts.length}`);
  }
  const missed = spec.tables.find((table) => !placed.has(table.name));
  if (missed !== undefined) throw bad(`plan: misses a table: ${missed.name}`);
}
