import type { ResolvedModel } from '../model/graph.js';
import { MAIN_SHARD, type Plan } from '../plan/file/plan.js';
import { type Assignment, Partitioner } from './partition.js';

/** Bag layers that are asked for together, and the stage of the dense net that runs when they are there. */
export interface Round {
  /** Indices in model.bags. */
  readonly bags: readonly number[];
  /** Those of bags whose tables are split. */
  readonly rowWise: readonly number[];
  /** Into a batch for each shard, in the plan's order, and one for main after the last. */
  readonly partitioner: Partitioner;
  readonly stage: number;
}

/** All bag layers at once, where main holds every table whole: its answer has the vectors of all layers in the model's order. */
export function roundOnMain(model: ResolvedModel): Round {
  const bags = model.bags.map((_, bag) => bag);
  const partitioner = new Partitioner(model, [bags.map((bag) => ({ bag, part: 0, parts: 1 }))]);
  return { bags, rowWise: [], partitioner, stage: 1 };
}

/** All bag layers at once, from the shards of a plan. */
export const roundOfPlan = (plan: Plan, model: ResolvedModel): Round =>
  round(
    plan,
    model,
    model.bags.map((_, bag) => bag),
    1,
  );

/** These bag layers, from the shards of a plan. */
export function round(plan: Plan, model: ResolvedModel, bags: readonly number[], stage: number): Round {
  const split = new Set(plan.tables.flatMap(({ table, parts }) => (parts.length > 1 ? [table] : [])));
  return {
    bags,
    rowWise: bags.filter((bag) => split.has(model.bags[bag]?.tableName ?? '')),
    partitioner: new Partitioner(model, assignments(plan, model, bags), { keyPrefix: `${stage}.`, emptyTables: 'skip' }),
    stage,
  };
}

/** Which of these bag layers, or parts of them, each shard of the plan pools; main after the last. */
function assignments(plan: Plan, model: ResolvedModel, bags: readonly number[]): Assignment[][] {
  const placed = new Map(plan.tables.map(({ table, parts }) => [table, parts]));
  const byShard = new Map([...plan.shards.map(({ name }) => name), MAIN_SHARD].map((shard) => [shard, [] as Assignment[]]));
  for (const bag of bags) {
    const parts = placed.get(model.bags[bag]?.tableName ?? '') ?? [];
    parts.forEach((shard, part) => byShard.get(shard)?.push({ bag, part, parts: parts.length }));
  }
  return [...byShard.values()];
}
