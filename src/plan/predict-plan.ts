import { tableBytes } from './bytes.js';
import type { Costs } from './costs.js';
import { MAIN_SHARD, type Plan } from './plan.js';
import { predictRequest, type PredictedRequest, type RequestShard } from './predict-request.js';
import type { Profile } from './profile.js';
import type { PlannedModel } from './work.js';

export interface PredictPlanOptions {
  /** How the main shard asks; as ConnectOptions.rpc. Default coalesced. */
  readonly rpc?: 'coalesced' | 'paper';
  /** Items per batch with rpc paper; default all of a request's. */
  readonly batchItems?: number;
}

export interface PredictedShard {
  readonly shard: string;
  readonly tables: number;
  readonly bytes: number;
  /** Looked-up rows per request of the mean number of items; RPCs likewise. */
  readonly lookups: number;
  readonly rpcs: number;
  /** From receiving a request of the median number of items to answering it, all RPCs together. */
  readonly serviceUs: number;
  /** CPU per request of the mean number of items, its network code included. */
  readonly cpuUs: number;
}

export interface PlanPrediction {
  readonly strategy: string;
  readonly shards: readonly PredictedShard[];
  /** What the main shard holds and looks up itself. */
  readonly main: PredictedShard;
  /** Per request of the mean number of items. */
  readonly rpcs: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
  /** CPU of all processes per request of the mean number of items. */
  readonly cpuUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  /** The shard whose service takes longest, and sets how soon the main shard can go on; null without sparse shards. */
  readonly boundingShard: string | null;
}

/**
 * Predicts what a plan costs from what requests ask (the profile) and what work costs (measured costs).
 *
 * CPU is that of a request with the profile's mean number of items. P50 and P99 are the time of one request, alone in the system, with the
 * profile's median and 99th percentile of items: they say how plans compare by the size of requests, and know of no queues, collections of
 * garbage or slow moments of a machine, which lengthen a measured P99 whatever the plan.
 */
export function predictPlan(planned: PlannedModel, plan: Plan, profile: Profile, costs: Costs, options: PredictPlanOptions = {}): PlanPrediction {
  const { items } = profile;
  const [mean, median, large] = [items.mean, items.p50, items.p99].map((count) => predictRequest(planned, plan, profile, costs, count, options)) as [
    PredictedRequest,
    PredictedRequest,
    PredictedRequest,
  ];
  const held = heldBy(planned, plan);
  const describe = (shard: string, of: (request: PredictedRequest) => RequestShard): PredictedShard => ({
    shard,
    ...(held.get(shard) ?? { tables: 0, bytes: 0 }),
    lookups: of(mean).lookups,
    rpcs: of(mean).rpcs,
    serviceUs: of(median).serviceUs,
    cpuUs: of(mean).cpuUs,
  });
  const shards = plan.shards.map(({ name }, index) => describe(name, (request) => request.shards[index] as RequestShard));
  const main = describe(MAIN_SHARD, (request) => request.main);
  const sum = (of: (shard: RequestShard) => number): number => mean.shards.reduce((total, shard) => total + of(shard), 0);
  const bounding = shards.reduce<PredictedShard | null>((most, shard) => (most === null || shard.serviceUs > most.serviceUs ? shard : most), null);
  return {
    strategy: plan.strategy,
    shards,
    main,
    rpcs: sum(({ rpcs }) => rpcs),
    sentBytes: sum(({ sentBytes }) => sentBytes),
    receivedBytes: sum(({ receivedBytes }) => receivedBytes),
    cpuUs: main.cpuUs + sum(({ cpuUs }) => cpuUs),
    p50Us: median.latencyUs,
    p99Us: large.latencyUs,
    boundingShard: bounding?.shard ?? null,
  };
}

function heldBy({ spec }: PlannedModel, plan: Plan): Map<string, { tables: number; bytes: number }> {
  const specs = new Map(spec.tables.map((table) => [table.name, table]));
  const held = new Map<string, { tables: number; bytes: number }>();
  for (const { table, parts } of plan.tables) {
    const known = specs.get(table);
    if (known === undefined) continue;
    for (const [part, shard] of parts.entries()) {
      const entry = held.get(shard) ?? { tables: 0, bytes: 0 };
      held.set(shard, entry);
      entry.tables++;
      entry.bytes += (tableBytes(known) / known.rows) * Math.ceil((known.rows - part) / parts.length);
    }
  }
  return held;
}

