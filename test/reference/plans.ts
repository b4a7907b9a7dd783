import { modelHash } from '../../src/model/hash.js';
import type { ModelSpec } from '../../src/model/spec.js';
import type { Plan } from '../../src/plan/file/plan.js';
import { makePlan, type PlanOptions, type Strategy } from '../../src/plan/placement/strategies.js';
import { profileFromSpec } from '../../src/plan/profile/profile-from-spec.js';

/** A plan by the spec's own figures. */
export const planBySpec = (strategy: Strategy, spec: ModelSpec, options: PlanOptions): Plan =>
  makePlan(strategy, spec, modelHash(spec), profileFromSpec(spec), options);

/** Equal bytes per shard, tables whole. */
export const capacityPlan = (spec: ModelSpec, shards: number): Plan => planBySpec('capacity-balanced', spec, { shards });
