import { oneOf, TerabagError } from '../../errors.js';
import { MAIN_SHARD, type Plan } from '../file/plan.js';
import { balance } from '../placement/balance.js';
import { planSummary } from '../placement/bytes.js';
import { packFirstFit } from '../placement/first-fit.js';
import {
  checkPlanOptions,
  makePlan,
  type PlanOptions,
  placedPlan,
  SPREADING_STRATEGIES,
  STRATEGIES,
  type Strategy,
  withReplicas,
} from '../placement/strategies.js';
import { type Placement, type TableLoad, tableLoads } from '../placement/table-load.js';
import type { PlanPrediction, PlanPredictor, RequestShape } from '../predict/predict-plan.js';
import { poolUs } from '../predict/request-cost.js';
import { Arrangement } from './arrangement.js';
import { improve } from './improve.js';

export const OBJECTIVES = ['p99', 'cpu'] as const;
export type Objective = (typeof OBJECTIVES)[number];

/** shards: the most. localBytes: what main may hold; default as much as any host may (memoryLimitBytes). */
export interface AutoOptions extends PlanOptions {
  readonly objective: Objective;
}

/** A fixed strategy beside the plan: what it would cost, or why it cannot be had. */
export interface Alternative {
  readonly strategy: Strategy;
  readonly prediction: PlanPrediction | null;
  readonly refused: TerabagError | null;
}

export interface AutoPlan {
  readonly plan: Plan;
  readonly prediction: PlanPrediction;
  readonly alternatives: readonly Alternative[];
}

/** Shards of balanced plans, for each that would be full. */
const SLACK = 1.1;
/** Plans that are improved by moves, of all that the search starts from. */
const IMPROVED = 2;
/** Predictions of one improvement, times shards: about a tenth of a second. */
const EVALUATED_SHARDS = 30_000;

/**
 * The plan with the least predicted P99 or CPU, within the memory limit of main and of every shard. It starts from every fixed strategy, and from
 * equal pooling time, at 1, 2, 4, ... and the given number of shards, and from as few shards as hold the tables. The best of these are improved
 * by moving tables, and the best of all is taken: no fixed strategy that keeps the limits is better by the same prediction. Deterministic.
 * @throws invalid_argument when the objective is none; does_not_fit when no start fits, with the reason of the load-balanced one.
 */
export function planAuto(predictor: PlanPredictor, hash: string, options: AutoOptions): AutoPlan {
  oneOf('objective', options.objective, OBJECTIVES);
  checkPlanOptions(options);
  const search = new AutoSearch(predictor, hash, options);
  const alternatives = STRATEGIES.map((strategy) => search.alternative(strategy));
  const starts = search.starts().map((plan) => ({ plan, score: search.scoreOf(plan) }));
  starts.sort((a, b) => a.score - b.score);
  const [first] = starts;
  if (first === undefined) throw alternatives.find(({ strategy }) => strategy === 'load-balanced')?.refused as TerabagError;
  const improved = starts.slice(0, IMPROVED).map(({ plan }) => search.improved(plan));
  // Sums that moves left differ from fresh ones by roundings: they are made anew.
  const best = improved.map((plan) => ({ plan, score: search.scoreOf(plan) })).reduce((a, b) => (b.score < a.score ? b : a), first);
  const plan = withReplicas({ ...best.plan, strategy: 'auto' }, predictor.planned.spec, options);
  return { plan, prediction: predictor.predict(plan), alternatives };
}

class AutoSearch {
  readonly #tables: readonly TableLoad[];
  readonly #limitBytes: number;
  readonly #mainBytes: number;
  readonly #shape: RequestShape;
  /** us of an engine, of each table. */
  readonly #poolUs: ReadonlyMap<TableLoad, number>;
  /** Plans of the given number of shards, by strategy. */
  readonly #made = new Map<Strategy, Plan>();

  constructor(
    private readonly predictor: PlanPredictor,
    private readonly hash: string,
    private readonly options: AutoOptions,
  ) {
    const { costs, planned, profile } = predictor;
    this.#tables = tableLoads(planned.spec, profile);
    this.#limitBytes = options.memoryLimitBytes ?? Number.POSITIVE_INFINITY;
    this.#mainBytes = Math.min(options.localBytes ?? this.#limitBytes, this.#limitBytes);
    this.#shape = options.objective === 'cpu' ? predictor.mean : predictor.large;
    const us = this.#tables.map(() => 0);
    for (const { table, work } of this.#shape.asked) us[table] = (us[table] ?? 0) + poolUs(costs, work);
    this.#poolUs = new Map(this.#tables.map((table, index) => [table, us[index] ?? 0]));
  }

  alternative(strategy: Strategy): Alternative {
    try {
      const plan = this.#fixed(strategy, this.options.shards);
      this.#made.set(strategy, plan);
      return { strategy, prediction: this.predictor.predict(plan), refused: null };
    } catch (error) {
      return { strategy, prediction: null, refused: refusal(error) };
    }
  }

  /** The fixed strategies that fit, which alternative has made, and more. */
  starts(): Plan[] {
    const { shards } = this.options;
    const remote = this.#tables.reduce((sum, { bytes }) => sum + bytes, 0) - this.#mainBytes;
    const fewest = remote > 0 ? Math.max(1, Math.ceil(remote / this.#limitBytes)) : 1;
    const counts: number[] = [];
    // Balanced plans need some room to choose in.
    for (let count = 1; count < shards; count *= 2) if (count >= fewest * SLACK) counts.push(count);
    const makers = [
      () => this.#packed(),
      ...counts.flatMap((count) => [
        ...SPREADING_STRATEGIES.map((strategy) => () => this.#fixed(strategy, count)),
        () => this.#levelled(count),
      ]),
      () => this.#levelled(shards),
    ];
    const others = makers.flatMap((make) => {
      try {
        return [make()];
      } catch (error) {
        refusal(error);
        return [];
      }
    });
    return [...this.#made.values(), ...others];
  }

  scoreOf(plan: Plan): number {
    return this.#score(this.predictor.request(plan, this.#shape));
  }

  improved(plan: Plan): Plan {
    const arrangement = new Arrangement(plan, this.#tables, this.predictor, this.#shape);
    improve(arrangement, {
      scoreOf: (at) => this.#score(at.predict()),
      limitBytes: this.#limitBytes,
      mainBytes: this.#mainBytes,
      evaluations: Math.ceil(EVALUATED_SHARDS / Math.max(1, plan.shards.length)),
    });
    return arrangement.toPlan();
  }

  #score({ latencyUs, cpuUs }: { readonly latencyUs: number; readonly cpuUs: number }): number {
    return this.options.objective === 'cpu' ? cpuUs : latencyUs;
  }

  #fixed(strategy: Strategy, shards: number): Plan {
    // Where replicas are is said of the plan that is taken.
    const { objective: _, endpoints, spread, replicas, hostLimitBytes, ...options } = this.options;
    const { spec } = this.predictor.planned;
    const plan = makePlan(strategy, spec, this.hash, this.predictor.profile, { ...options, shards });
    const main = planSummary(plan, spec).find(({ shard }) => shard === MAIN_SHARD);
    if (main !== undefined && main.bytes > this.#mainBytes)
      throw new TerabagError(
        'does_not_fit',
        `tables do not fit on ${MAIN_SHARD}: they need ${main.bytes} bytes, there is room for ${this.#mainBytes}`,
        { need: main.bytes, room: this.#mainBytes },
      );
    return plan;
  }

  /** Equal time of the engine on every shard. */
  #levelled(shards: number): Plan {
    return this.#placed(
      balance(this.#tables, { shards, limitBytes: this.#limitBytes, loadOf: (table) => this.#poolUs.get(table) ?? 0 }),
      shards,
    );
  }

  /** As few shards as first fit finds. */
  #packed(): Plan {
    const { placement, shards } = packFirstFit(this.#tables, this.#limitBytes, this.options.shards);
    return this.#placed(placement, shards);
  }

  #placed(placement: Placement, shards: number): Plan {
    return placedPlan('auto', this.predictor.planned.spec, this.hash, placement, { tables: this.#tables, shards });
  }
}

/** The error when it says that something does not fit; anything else goes on. */
function refusal(error: unknown): TerabagError {
  if (error instanceof TerabagError && error.code === 'does_not_fit') return error;
  throw error;
}
