import { MAIN_SHARD, type Plan } from '../file/plan.js';
import { planSummary } from '../placement/bytes.js';
import type { Profile } from '../profile/profile.js';
import type { Costs } from './costs.js';
import { denseWork } from './dense-work.js';
import { type AskedRequest, type AskedRound, type PredictedRequest, predictRequest, type RequestShard } from './predict-request.js';
import { denseUs } from './request-cost.js';
import { checkRpcOptions, type RpcOptions } from './rpc-mode.js';
import { type AskedTable, addWork, askedTables, noWork, type PlannedModel, partWork } from './work.js';

export type PredictPlanOptions = RpcOptions;

export interface PredictedShard {
  readonly shard: string;
  /** Tables that it holds whole or a part of. */
  readonly tables: number;
  readonly bytes: number;
  /** Looked-up rows per request of the mean number of items; RPCs likewise. */
  readonly lookups: number;
  readonly rpcs: number;
  /** us that its engine pools for a request of the median number of items. */
  readonly serviceUs: number;
  /** CPU per request of the mean number of items, its network code included. */
  readonly cpuUs: number;
}

export interface PlanPrediction {
  readonly strategy: string;
  readonly shards: readonly PredictedShard[];
  /** What the main shard holds and does itself. */
  readonly main: PredictedShard;
  /** Per request of the mean number of items. */
  readonly rpcs: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
  /** CPU of all processes per request of the mean number of items. */
  readonly cpuUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  /** The shard that pools longest, and sets how soon the main shard can go on; null without sparse shards. */
  readonly boundingShard: string | null;
}

/** Predicts what a plan costs from what requests ask (the profile) and what work costs (measured costs); see PlanPredictor. */
export function predictPlan(
  planned: PlannedModel,
  plan: Plan,
  profile: Profile,
  costs: Costs,
  options: PredictPlanOptions = {},
): PlanPrediction {
  return new PlanPredictor(planned, profile, costs, options).predict(plan);
}

/** What a request of so many items asks of each table, wherever it is. */
export interface RequestShape {
  readonly batches: number;
  readonly asked: readonly AskedTable[];
  readonly denseUs: readonly number[];
}

/**
 * Predicts plans of one model for one profile.
 *
 * CPU is that of a request with the profile's mean number of items. P50 and P99 are the time of one request, alone in the system, with the
 * profile's median and 99th percentile of items: they say how plans compare by the size of requests, and know of no queues, collections of
 * garbage or slow moments of a machine, which lengthen a measured P99 whatever the plan.
 */
export class PlanPredictor {
  readonly mean: RequestShape;
  readonly median: RequestShape;
  readonly large: RequestShape;
  /** Rounds of RPCs: one, or one a net. */
  readonly rounds: number;

  constructor(
    readonly planned: PlannedModel,
    readonly profile: Profile,
    readonly costs: Costs,
    private readonly options: PredictPlanOptions = {},
  ) {
    checkRpcOptions(options);
    const { mean, p50, p99 } = profile.items;
    this.mean = this.#shapeOf(mean);
    this.median = p50 === mean ? this.mean : this.#shapeOf(p50);
    this.large = p99 === mean ? this.mean : p99 === p50 ? this.median : this.#shapeOf(p99);
    this.rounds = options.rpc === 'paper' ? Math.max(1, ...planned.model.bags.map(({ net }) => net + 1)) : 1;
  }

  predict(plan: Plan): PlanPrediction {
    const mean = this.request(plan, this.mean);
    const median = this.median === this.mean ? mean : this.request(plan, this.median);
    const large = this.large === this.mean ? mean : this.request(plan, this.large);
    const held = new Map(planSummary(plan, this.planned.spec).map(({ shard, tables, bytes }) => [shard, { tables, bytes }]));
    const describe = (shard: string, of: (request: PredictedRequest) => RequestShard): PredictedShard => ({
      shard,
      ...(held.get(shard) ?? { tables: 0, bytes: 0 }),
      lookups: of(mean).lookups,
      rpcs: of(mean).rpcs,
      serviceUs: of(median).serviceUs,
      cpuUs: of(mean).cpuUs,
    });
    const shards = plan.shards.map(({ name }, index) => describe(name, (request) => request.shards[index] as RequestShard));
    const sum = (of: (shard: RequestShard) => number): number => mean.shards.reduce((total, shard) => total + of(shard), 0);
    const bounding = shards.reduce<PredictedShard | null>(
      (most, shard) => (most === null || shard.serviceUs > most.serviceUs ? shard : most),
      null,
    );
    return {
      strategy: plan.strategy,
      shards,
      main: describe(MAIN_SHARD, (request) => request.main),
      rpcs: sum(({ rpcs }) => rpcs),
      sentBytes: sum(({ sentBytes }) => sentBytes),
      receivedBytes: sum(({ receivedBytes }) => receivedBytes),
      cpuUs: mean.cpuUs,
      p50Us: median.latencyUs,
      p99Us: large.latencyUs,
      boundingShard: bounding?.shard ?? null,
    };
  }

  /** One request of a shape. */
  request(plan: Plan, shape: RequestShape): PredictedRequest {
    return predictRequest(this.asked(plan, shape), this.costs);
  }

  asked({ shards, tables }: Plan, { batches, asked, denseUs }: RequestShape): AskedRequest {
    const rounds = Array.from({ length: this.rounds }, (): AskedRound => ({ shards: shards.map(noWork), own: noWork() }));
    const numberOf = new Map(shards.map(({ name }, shard) => [name, shard]));
    const partsOf = new Map(tables.map(({ table, parts }) => [table, parts]));
    for (const table of asked) {
      const parts = partsOf.get(this.planned.spec.tables[table.table]?.name ?? '') ?? [];
      const round = rounds[this.roundOf(table)] as AskedRound;
      const work = partWork(table, parts.length);
      for (const part of parts) {
        const sum = part === MAIN_SHARD ? round.own : round.shards[numberOf.get(part) ?? -1];
        if (sum !== undefined) addWork(sum, work);
      }
    }
    return { batches, rounds, denseUs };
  }

  roundOf({ net }: AskedTable): number {
    return this.rounds === 1 ? 0 : net;
  }

  #shapeOf(items: number): RequestShape {
    const { planned, profile, costs, options } = this;
    const { rpc = 'coalesced', batchItems = Number.POSITIVE_INFINITY } = options;
    const batches = rpc === 'paper' ? Math.max(1, Math.ceil(items / batchItems)) : 1;
    const dense = denseWork(planned.model, perItemBags(planned, profile));
    return {
      batches,
      asked: askedTables(planned, profile, costs, items / batches),
      denseUs: dense.map((stage) => batches * denseUs(costs, stage, items / batches)),
    };
  }
}

/** Whether a bag layer has a bag per item: its table has more bags than those of the user. */
function perItemBags({ model }: PlannedModel, { tables }: Profile): boolean[] {
  const profiled = new Map(tables.map((table) => [table.table, table]));
  return model.bags.map(({ tableName }) => {
    const { bags, userBags } = profiled.get(tableName) ?? { bags: 1, userBags: 0 };
    return bags > userBags;
  });
}
