import { TerabagError } from '../../errors.js';
import type { ResolvedModel } from '../../model/graph.js';
import type { Plan } from '../../plan/file/plan.js';
import { type Round, round } from '../rounds.js';

/** Each has memory and RPCs of its own; more at once than the sockets' queues take would count as a shard that is away. */
const MAX_BATCHES = 1024;

/** A round a net: the bag layers of a net are asked for when the net before has run. */
export function roundsOfNets(plan: Plan, model: ResolvedModel, lastStage: number): Round[] {
  const nets = Math.max(lastStage, ...model.bags.map((bag) => bag.net + 1));
  return Array.from({ length: nets }, (_, net) =>
    round(
      plan,
      model,
      model.bags.flatMap((bag, b) => (bag.net === net ? [b] : [])),
      net + 1,
    ),
  );
}

/** Batches that a request of so many items is cut into. */
export function numBatches(items: number, batchItems: number): number {
  const batches = Math.max(1, Math.ceil(items / batchItems));
  if (batches <= MAX_BATCHES) return batches;
  throw new TerabagError('invalid_argument', `a request has at most ${MAX_BATCHES} batches: items ${items}, batchItems ${batchItems}`, {
    field: 'batchItems',
    items,
  });
}
