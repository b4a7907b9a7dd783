import type { Tracer } from '../observe/tracer.js';
import type { Placement } from '../plan/placement/placement.js';
import type { ReplicaState } from '../rpc/client.js';
import type { ReplicaStats } from '../rpc/shard-stats.js';
import type { ServedVersion } from '../rpc/version.js';

/** What those who watch a predictor may see of it, beside what it tells everybody. */
export interface Watched {
  readonly version: ServedVersion;
  readonly placement: Placement;
  /** Of the latest requests; null: nothing is measured. May be set while requests run, which are not traced then. */
  trace: Tracer | null;
  /** What main knows of its shards' replicas, without asking them, in the plan's order. */
  replicas(): readonly ReplicaState[];
  /** See ShardedPredictor. */
  shardStats(): Promise<ReplicaStats[]>;
}
