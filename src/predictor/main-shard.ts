import type { OpenedTables } from '../engine/tables.js';
import { sumUnseen } from '../engine/unseen-counts.js';
import type { Bundle } from '../model/bundle.js';
import type { ResolvedModel } from '../model/graph.js';
import { type PredictorStats, sumRpcCounts } from '../observe/counters.js';
import type { ShardClient } from '../rpc/client.js';
import type { ShardStats } from '../rpc/shard-stats.js';
import { Pipeline, type PipelineOptions } from './pipeline.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest } from './predictor.js';

const STATS_MS = 2000;

/** How requests go through the dense net and to where their tables are. */
export type Way = Pick<PipelineOptions, 'net' | 'rounds' | 'onMain'>;

/** The predictor of any plan: main's own tables, which may be all of them, and connections to the shards that have the others. */
export class MainShard implements Predictor {
  readonly modelHash: string;
  readonly #pipeline: Pipeline;
  readonly #rounds: Way['rounds'];
  readonly #net: Way['net'];

  constructor(
    bundle: Bundle,
    private readonly shards: readonly ShardClient[],
    /** Main's own tables; none of most plans. */
    private readonly own: OpenedTables,
    options: Way & Pick<PipelineOptions, 'batchItems' | 'dedup' | 'maxInFlight' | 'trace'>,
  ) {
    this.modelHash = bundle.hash;
    this.#net = options.net;
    const model = bundle.model as ResolvedModel;
    this.#rounds = options.rounds;
    this.#pipeline = new Pipeline({ ...options, model, modelHash: bundle.hash, shards, engine: own.engine });
    options.trace?.watch(shards.map(({ name }) => name));
  }

  /** Rejects with the reason of the first shard, in the plan's order, that is not ready after ms. */
  async whenReady(ms: number): Promise<void> {
    const ready = this.shards.map((shard) => shard.whenReady(ms));
    // Marked as handled: later ones may reject while the first is awaited.
    for (const each of ready) each.catch(() => undefined);
    for (const each of ready) await each;
  }

  predict(request: PredictRequest, options?: PredictOptions): Promise<Prediction> {
    return this.#pipeline.predict(request, options);
  }

  stats(): PredictorStats {
    const { bytes: tableBytes = 0, residentBytes = 0, hugePageBytes = 0, lockedBytes = 0 } = this.own.residency ?? {};
    return {
      ...this.#pipeline.counts,
      unseen: sumUnseen([this.own.engine, ...this.#rounds.map(({ partitioner }) => partitioner)]),
      ...sumRpcCounts(this.shards.map(({ counts }) => counts)),
      ...(this.own.residency && { tableBytes, residentBytes, hugePageBytes, lockedBytes }),
    };
  }

  shardStats(): Promise<ShardStats[]> {
    return Promise.all(this.shards.map((shard) => shard.stats(STATS_MS)));
  }

  async close(): Promise<void> {
    const drained = this.#pipeline.close();
    for (const shard of this.shards) shard.close();
    await drained;
    await this.#net.close();
    this.own.engine.close();
  }
}
