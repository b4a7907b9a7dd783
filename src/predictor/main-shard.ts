import type { OpenedTables } from '../engine/tables.js';
import { sumUnseen } from '../engine/unseen-counts.js';
import type { Bundle } from '../model/bundle.js';
import type { ResolvedModel } from '../model/graph.js';
import { type OwnStats, type PredictorStats, sumRpcCounts } from '../observe/counters.js';
import type { PredictorMeter } from '../observe/predictor-meter.js';
import type { Plan } from '../plan/file/plan.js';
import { type Placement, placementOf } from '../plan/placement/placement.js';
import type { ShardClient } from '../rpc/client.js';
import type { ReplicaStats } from '../rpc/shard-stats.js';
import type { ServedVersion } from '../rpc/version.js';
import { Pipeline, type PipelineOptions } from './pipeline.js';
import type { Prediction, PredictOptions, Predictor, PredictorOptions, PredictRequest, Readiness } from './predictor.js';
import type { Watched } from './watched.js';

const STATS_MS = 2000;

/** How requests go through the dense net and to where their tables are. */
export type Way = Pick<PipelineOptions, 'net' | 'rounds' | 'onMain'>;

/** One shard of a plan, as main asks it. */
export interface AskedShard {
  readonly client: ShardClient;
  /** Names of tables that it holds, or parts of. */
  readonly tables: readonly string[];
}

/** The predictor of any plan: main's own tables, which may be all of them, and connections to the shards that have the others. */
export class MainShard implements Predictor {
  readonly modelHash: string;
  readonly model: ResolvedModel;
  /** planHash is empty without a plan. */
  readonly version: ServedVersion;
  readonly meter?: PredictorMeter;
  readonly #pipeline: Pipeline;
  readonly #rounds: Way['rounds'];
  readonly #net: Way['net'];
  readonly watched: Watched;

  constructor(
    bundle: Bundle,
    private readonly shards: readonly AskedShard[],
    /** Main's own tables; none of most plans. */
    private readonly own: OpenedTables,
    options: Way & { readonly version: ServedVersion | null; readonly plan?: Plan } & Pick<
        PipelineOptions,
        'batchItems' | 'dedup' | 'onShardFailure' | 'trace' | 'meter'
      > &
      Pick<PredictorOptions, 'deadlineMs' | 'maxInFlight' | 'maxInFlightBytes'>,
  ) {
    this.modelHash = bundle.hash;
    this.version = options.version ?? { modelHash: bundle.hash, planHash: '', epoch: 0 };
    if (options.meter !== undefined) this.meter = options.meter;
    this.#net = options.net;
    const model = bundle.model as ResolvedModel;
    this.model = model;
    this.#rounds = options.rounds;
    const clients = shards.map(({ client }) => client);
    this.#pipeline = new Pipeline({ ...options, admission: options, model, modelHash: bundle.hash, shards: clients, engine: own.engine });
    this.watched = this.#watched(placementOf(bundle.spec, options.plan ?? null));
    this.watched.trace = options.trace ?? null;
    options.meter?.watch({ version: this.version, shards: clients, ownStats: () => this.#ownStats() });
  }

  #watched(placement: Placement): Watched {
    const { version, shards } = this;
    const pipeline = this.#pipeline;
    const names = shards.map(({ client }) => client.name);
    return {
      ...{ version, placement },
      get trace() {
        return pipeline.trace;
      },
      set trace(trace) {
        trace?.watch(names);
        pipeline.trace = trace;
      },
      replicas: () => shards.flatMap(({ client }) => client.replicas()),
      shardStats: () => this.shardStats(),
    };
  }

  /** Rejects with the reason of the first shard, in the plan's order, that is not ready after ms. */
  async whenReady(ms: number): Promise<void> {
    const ready = this.shards.map(({ client }) => client.whenReady(ms));
    // Marked as handled: later ones may reject while the first is awaited.
    for (const each of ready) each.catch(() => undefined);
    for (const each of ready) await each;
  }

  predict(request: PredictRequest, options?: PredictOptions): Promise<Prediction> {
    return this.#pipeline.predict(request, options);
  }

  readiness(): Readiness {
    const missing = this.shards.flatMap(({ client, tables }) => {
      const why = client.unavailability;
      return why === null ? [] : [{ shard: client.name, tables, reason: why.message }];
    });
    return { ready: missing.length === 0, missing };
  }

  stats(): PredictorStats {
    return { ...this.#ownStats(), ...sumRpcCounts(this.shards.map(({ client }) => client.counts)) };
  }

  #ownStats(): OwnStats {
    const { bytes: tableBytes = 0, residentBytes = 0, hugePageBytes = 0, lockedBytes = 0 } = this.own.residency ?? {};
    return {
      ...this.#pipeline.counts,
      unseen: sumUnseen([this.own.engine, ...this.#rounds.map(({ partitioner }) => partitioner)]),
      ...(this.own.residency && { tableBytes, residentBytes, hugePageBytes, lockedBytes }),
    };
  }

  async shardStats(): Promise<ReplicaStats[]> {
    return (await Promise.all(this.shards.map(({ client }) => client.stats(STATS_MS)))).flat();
  }

  async close(): Promise<void> {
    const drained = this.#pipeline.close();
    for (const { client } of this.shards) client.close();
    await drained;
    await this.#net.close();
    this.own.engine.close();
  }
}
