import { TerabagError } from '../../errors.js';
import type { RowFormat } from '../../model/formats.js';
import type { ModelSpec } from '../../model/spec.js';
import type { Plan } from '../file/plan.js';
import { makePlan, type PlanOptions, STRATEGIES, type Strategy } from '../placement/strategies.js';
import type { Costs } from '../predict/costs.js';
import { type PlanPrediction, PlanPredictor, type PredictPlanOptions } from '../predict/predict-plan.js';
import type { PlannedModel } from '../predict/work.js';
import type { Profile } from '../profile/profile.js';
import { type Alternative, type Objective, planAuto } from './auto.js';

/** All that a plan and its prediction follow from. */
export interface Scenario {
  readonly planned: PlannedModel;
  readonly hash: string;
  readonly profile: Profile;
  readonly costs: Costs;
  readonly strategy: Strategy | 'auto';
  /** What auto minimizes. */
  readonly objective: Objective;
  readonly options: PlanOptions;
  readonly asking: PredictPlanOptions;
}

export interface Planned {
  readonly plan: Plan;
  readonly prediction: PlanPrediction;
}

export const predictorOf = ({ planned, profile, costs, asking }: Scenario): PlanPredictor =>
  new PlanPredictor(planned, profile, costs, asking);

/** The scenario's plan. */
export function planScenario(scenario: Scenario, predictor = predictorOf(scenario)): Planned {
  const { planned, hash, profile, strategy, objective, options } = scenario;
  if (strategy === 'auto') return planAuto(predictor, hash, { ...options, objective });
  const plan = makePlan(strategy, planned.spec, hash, profile, options);
  return { plan, prediction: predictor.predict(plan) };
}

export interface ComparedStrategy extends Omit<Alternative, 'strategy'> {
  readonly strategy: Strategy | 'auto';
}

/** Every strategy under the same options; what does not fit says why. */
export function compareStrategies(scenario: Scenario, predictor = predictorOf(scenario)): ComparedStrategy[] {
  return ([...STRATEGIES, 'auto'] as const).map((strategy) => {
    try {
      return { strategy, prediction: planScenario({ ...scenario, strategy }, predictor).prediction, refused: null };
    } catch (error) {
      if (!(error instanceof TerabagError) || error.code !== 'does_not_fit') throw error;
      return { strategy, prediction: null, refused: error };
    }
  });
}

/** What is other than in the scenario; an absent field stays. */
export interface Change {
  readonly strategy?: Strategy | 'auto';
  readonly objective?: Objective;
  readonly shards?: number;
  readonly memoryLimitBytes?: number;
  readonly localBytes?: number;
  /** Row format of all tables. */
  readonly format?: RowFormat;
  /** Items of every request. */
  readonly items?: number;
  /** null: each process has cores of its own. */
  readonly cores?: number | null;
  readonly rpc?: 'coalesced' | 'paper';
  readonly batchItems?: number;
}

export function changed(scenario: Scenario, change: Change): Scenario {
  const { strategy, objective, format, items, cores, shards, memoryLimitBytes, localBytes, rpc, batchItems } = change;
  const { planned, profile, costs, options, asking } = scenario;
  const { endpoints, spread, hostLimitBytes, ...withoutEndpoints } = options;
  return {
    ...scenario,
    ...(strategy && { strategy }),
    ...(objective && { objective }),
    planned: format === undefined ? planned : { ...planned, spec: inFormat(planned.spec, format) },
    profile: items === undefined ? profile : withItems(profile, items),
    costs: cores === undefined ? costs : { ...costs, sharedCores: cores },
    options: {
      // There is one endpoint per shard; a plan that nobody runs needs none.
      ...(shards === undefined ? options : { ...withoutEndpoints, shards }),
      ...(memoryLimitBytes !== undefined && { memoryLimitBytes }),
      ...(localBytes !== undefined && { localBytes }),
    },
    // Coalesced requests are not cut.
    asking: { ...(rpc === 'coalesced' ? {} : asking), ...(rpc && { rpc }), ...(batchItems !== undefined && { batchItems }) },
  };
}

const inFormat = (spec: ModelSpec, format: RowFormat): ModelSpec => ({
  ...spec,
  tables: spec.tables.map((table) => ({ ...table, format })),
});

/** The same user, so many items in every request. */
export function withItems(profile: Profile, items: number): Profile {
  const times = profile.items.mean > 0 ? items / profile.items.mean : 0;
  return {
    ...profile,
    items: { mean: items, p50: items, p99: items },
    tables: profile.tables.map((table) => {
      const lookups = table.userLookups + (table.lookups - table.userLookups) * times;
      return {
        ...table,
        bags: table.userBags + (table.bags - table.userBags) * times,
        lookups,
        uniqueRows: table.lookups > 0 ? (table.uniqueRows * lookups) / table.lookups : 0,
      };
    }),
  };
}
