import { canonicalEndpoint, parseEndpoint } from '../../endpoints/endpoint.js';
import { TerabagError } from '../../errors.js';
import type { ModelSpec } from '../../model/spec.js';
import { MAIN_SHARD, type Plan } from '../file/plan.js';
import { checkProfile, type Profile } from '../profile/profile.js';
import { balance } from './balance.js';
import { groupByNet, packNets, spreadNets } from './net-packing.js';
import { MAX_REPLICAS, MOST_DEFAULTS, placeReplicas, type ReplicaOptions } from './replicas.js';
import { byName, doesNotFit, type Placement, type TableLoad, tableLoads } from './table-load.js';

/**
 * Where tables go, as Lui et al. (ISPASS 2021) have it:
 * - singular: all on main, no sparse shard;
 * - one-shard: all on one, the worst case;
 * - capacity-balanced: equal bytes;
 * - load-balanced: equal ids per request (summed pooling factors);
 * - nsbp: net-specific bin packing, tables grouped by net and packed by size, so that a shard serves one net.
 */
export const STRATEGIES = ['singular', 'one-shard', 'capacity-balanced', 'load-balanced', 'nsbp'] as const;
export type Strategy = (typeof STRATEGIES)[number];

/** Those that spread tables over as many shards as they are given. */
export const SPREADING_STRATEGIES = STRATEGIES.filter((strategy) => strategy !== 'singular' && strategy !== 'one-shard');

export interface PlanOptions extends ReplicaOptions {
  /** Sparse shards; singular has none and one-shard one, whatever is given; the most, for nsbp with shardBytes. */
  readonly shards: number;
  /** One for each replica of each shard; default loopback from port 7400 up. Those of shards that the plan does not have are left out. */
  readonly endpoints?: readonly string[];
  /** Of the plan; default none, which is 0. */
  readonly epoch?: number;
  /** Bytes of tables that any shard, main included, may hold. */
  readonly memoryLimitBytes?: number;
  /** Bytes of tables that main keeps: those with the most lookups per byte; default 0. */
  readonly localBytes?: number;
  /** nsbp alone: bytes that a shard is packed up to, from which the number of shards follows. */
  readonly shardBytes?: number;
}

/** A plan is a list of processes to run; more is a mistake. */
export const MAX_SHARDS = 2 ** 16;

/**
 * Places every table of the model once. Tables above the memory limit are split by rows into the fewest parts that fit. What does not fit is
 * refused (does_not_fit) with the table, its bytes and the room. The profile has to be of this model (model_mismatch).
 */
export function makePlan(strategy: Strategy, spec: ModelSpec, hash: string, profile: Profile, options: PlanOptions): Plan {
  checkOptions(strategy, options);
  checkProfile(profile, spec, hash);
  const tables = tableLoads(spec, profile);
  const kept = strategy === 'singular' ? allOnMain(tables, options) : keptOnMain(tables, options);
  const { placement, shards } = place(
    strategy,
    spec,
    tables.filter((table) => !kept.has(table)),
    options,
  );
  return withReplicas(placedPlan(strategy, spec, hash, placement, { tables, shards }), spec, options);
}

/** The plan with its epoch, and with endpoints of all its replicas. */
export function withReplicas(plan: Plan, spec: ModelSpec, options: ReplicaOptions & Pick<PlanOptions, 'epoch'>): Plan {
  const { replicas = 1, endpoints, epoch } = options;
  const count = plan.shards.length * replicas;
  if (endpoints === undefined && count > MOST_DEFAULTS)
    throw new TerabagError('invalid_argument', `so many shards have no default endpoints, give them theirs: ${count}`, {
      field: 'endpoints',
    });
  return placeReplicas(epoch === undefined ? plan : { ...plan, epoch }, spec, options);
}

/** The plan of a placement on shards 0 and up, without endpoints; tables that it does not name stay on main. */
export function placedPlan(
  strategy: string,
  { name, version }: ModelSpec,
  hash: string,
  placement: Placement,
  { tables, shards }: { readonly tables: readonly TableLoad[]; readonly shards: number },
): Plan {
  const names = Array.from({ length: shards }, (_, shard) => `shard-${shard}`);
  return {
    terabagPlan: 1,
    strategy,
    model: { name, version, hash },
    shards: names.map((shardName) => ({ name: shardName, endpoints: [] })),
    tables: tables.map((table) => ({
      table: table.name,
      parts: placement.get(table)?.map((shard) => names[shard] as string) ?? [MAIN_SHARD],
    })),
  };
}

function place(
  strategy: Strategy,
  spec: ModelSpec,
  tables: readonly TableLoad[],
  options: PlanOptions,
): { readonly placement: Placement; readonly shards: number } {
  const { shards, memoryLimitBytes: limitBytes = Number.POSITIVE_INFINITY, shardBytes } = options;
  const loadOf = strategy === 'load-balanced' ? (table: TableLoad) => table.lookups : (table: TableLoad) => table.bytes;
  switch (strategy) {
    case 'singular':
      return { placement: new Map(), shards: 0 };
    case 'one-shard':
      return { placement: balance(tables, { shards: 1, limitBytes, loadOf }), shards: 1 };
    case 'capacity-balanced':
    case 'load-balanced':
      return { placement: balance(tables, { shards, limitBytes, loadOf }), shards };
    case 'nsbp': {
      const groups = groupByNet(spec, tables);
      return shardBytes === undefined
        ? { placement: spreadNets(groups, shards, limitBytes), shards }
        : packNets(groups, Math.min(shardBytes, limitBytes), shards);
    }
  }
}

/**
 * What main holds itself, up to localBytes: the tables with the most lookups per byte, which of tables that are asked alike are the
 * smallest. Those that no request asks stay away.
 */
function keptOnMain(tables: readonly TableLoad[], { localBytes = 0, memoryLimitBytes }: PlanOptions): Set<TableLoad> {
  const kept = new Set<TableLoad>();
  let left = Math.min(localBytes, memoryLimitBytes ?? localBytes);
  const order = tables
    .filter(({ lookups }) => lookups > 0)
    .sort((a, b) => b.lookups / b.bytes - a.lookups / a.bytes || a.bytes - b.bytes || byName(a, b));
  for (const table of order) {
    if (table.bytes > left) continue;
    kept.add(table);
    left -= table.bytes;
  }
  return kept;
}

function allOnMain(tables: readonly TableLoad[], { memoryLimitBytes = Number.POSITIVE_INFINITY }: PlanOptions): Set<TableLoad> {
  let left = memoryLimitBytes;
  for (const table of tables) {
    if (table.bytes > left) throw doesNotFit(table, left, 'main');
    left -= table.bytes;
  }
  return new Set(tables);
}

function checkOptions(strategy: Strategy, options: PlanOptions): void {
  if (!STRATEGIES.includes(strategy))
    throw new TerabagError('invalid_argument', `strategy has to be one of ${STRATEGIES.join(', ')}: ${strategy}`, { field: 'strategy' });
  checkPlanOptions(options);
}

/** Of any strategy, auto too. */
export function checkPlanOptions(options: PlanOptions): void {
  const { shards, endpoints, replicas = 1, spread = {}, epoch = 0 } = options;
  if (!Number.isInteger(shards) || shards < 1 || shards > MAX_SHARDS)
    throw new TerabagError('invalid_argument', `shards has to be an integer between 1 and ${MAX_SHARDS}: ${shards}`, { field: 'shards' });
  const refuse = (field: string, message: string): TerabagError => new TerabagError('invalid_argument', message, { field });
  if (!Number.isInteger(replicas) || replicas < 1 || replicas > MAX_REPLICAS)
    throw refuse('replicas', `replicas has to be an integer between 1 and ${MAX_REPLICAS}: ${replicas}`);
  if (!Number.isSafeInteger(epoch) || epoch < 0) throw refuse('epoch', `epoch has to be an integer, 0 or more: ${epoch}`);
  const each = replicas === 1 ? 'one endpoint per shard' : `${replicas} endpoints per shard, one for each replica`;
  if (endpoints !== undefined && endpoints.length !== shards * replicas)
    throw refuse('endpoints', `${each}: ${endpoints.length} endpoints, ${shards} shards`);
  const seen = new Set<string>();
  for (const endpoint of endpoints ?? []) {
    if (parseEndpoint(endpoint) === null || seen.has(canonicalEndpoint(endpoint)))
      throw refuse('endpoints', `endpoints have to be tcp://host:port, ipc://path, srv://name or file:///path, and to differ: ${endpoint}`);
    seen.add(canonicalEndpoint(endpoint));
  }
  for (const [name, values] of Object.entries(spread)) {
    if (endpoints === undefined) throw refuse('spread', `spread says of each endpoint what it has, and there are none: ${name}`);
    if (values.length !== endpoints.length)
      throw refuse(`spread.${name}`, `spread has to say of each endpoint which ${name} it is in: ${values.length} of ${endpoints.length}`);
  }
  for (const field of ['memoryLimitBytes', 'hostLimitBytes', 'localBytes', 'shardBytes'] as const) {
    const bytes = options[field];
    if (bytes !== undefined && !(bytes >= 0))
      throw new TerabagError('invalid_argument', `${field} has to be a number of bytes, 0 or more: ${bytes}`, { field });
  }
}
