import { TerabagError } from '../../errors.js';
import { modelHash } from '../../model/hash.js';
import type { ModelSpec } from '../../model/spec.js';
import type { Plan } from '../../plan/file/plan.js';
import { tableBytes } from '../../plan/placement/bytes.js';
import { makePlan, type Strategy } from '../../plan/placement/strategies.js';
import type { Profile } from '../../plan/profile/profile.js';

/** Multiples of equal shares: what a shard may hold before a table is split by rows; the first that all tables fit into. */
const ROOM = [1.25, 1.5, 2, Number.POSITIVE_INFINITY];

/**
 * The plan of a strategy for so many shards. A table that is larger than a shard's equal share is split by rows, as a limit of memory would have
 * it: else one shard would hold nearly all of a model with a dominating table.
 */
export function planFor(strategy: Strategy, shards: number, spec: ModelSpec, profile: Profile): Plan {
  const hash = modelHash(spec);
  const sizes = spec.tables.map(tableBytes);
  const share = sizes.reduce((sum, bytes) => sum + bytes, 0) / Math.max(1, shards);
  const room = shards > 1 && Math.max(...sizes) > share ? ROOM : [Number.POSITIVE_INFINITY];
  for (const factor of room) {
    const memoryLimitBytes = Math.ceil(share * factor);
    try {
      return makePlan(strategy, spec, hash, profile, { shards: Math.max(1, shards), ...(Number.isFinite(factor) && { memoryLimitBytes }) });
    } catch (error) {
      if (TerabagError.from(error).code !== 'does_not_fit' || factor === room.at(-1)) throw error;
    }
  }
  throw new TerabagError('internal', `no plan: ${strategy}, ${shards} shards`);
}
