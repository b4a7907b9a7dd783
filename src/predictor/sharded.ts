import { DenseNet } from '../engine/dense-net.js';
import type { NativeWorkspace, Precision } from '../engine/native.js';
import { openBundle } from '../model/bundle.js';
import type { ResolvedModel } from '../model/graph.js';
import { checkPlan, type Plan } from '../plan/plan.js';
import type { ShardStats } from '../wire/messages.js';
import { connectZeromq } from '../wire/zeromq.js';
import { Admission } from './admission.js';
import { gatherPooled } from './gather.js';
import { type Assignment, Partitioner } from './partition.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest } from './predictor.js';
import { checkRequest } from './request.js';
import { type Connect, ShardConnection } from './shard-connection.js';

export interface ConnectOptions {
  /** The bundle's directory: model.json and dense.safetensors are read, tables are not needed here. */
  readonly bundle: string;
  /** How long to wait for all shards; default 10 s. */
  readonly readyMs?: number;
  /** Of the dense layers; default fp32. */
  readonly precision?: Precision;
  /** Requests beyond are refused as overloaded; default 1024. */
  readonly maxInFlight?: number;
  /** How shards are reached; default ZeroMQ. */
  readonly transport?: Connect;
}

export interface ShardedPredictor extends Predictor {
  /** What each shard says of itself, in the plan's order. */
  shardStats(): Promise<ShardStats[]>;
}

const STATS_MS = 2000;

/** Becomes the main shard of a plan: connects to all its shards and waits until each is ready. */
export async function connect(plan: Plan, options: ConnectOptions): Promise<ShardedPredictor> {
  const bundle = await openBundle(options.bundle, { tables: new Set() });
  checkPlan(plan, bundle.spec, bundle.hash);
  const model = bundle.model as ResolvedModel;
  const predictor = new MainShard(plan, model, bundle.hash, new DenseNet(model, bundle.dense, options.precision), options);
  try {
    await predictor.whenReady(options.readyMs ?? 10_000);
  } catch (error) {
    await predictor.close();
    throw error;
  }
  return predictor;
}

/** Which bag layers, or parts of them, each shard of the plan pools. */
function assignments(plan: Plan, model: ResolvedModel): Assignment[][] {
  const placed = new Map(plan.tables.map(({ table, parts }) => [table, parts]));
  return plan.shards.map((shard) =>
    model.bags.flatMap(({ tableName }, bag) => {
      const parts = placed.get(tableName) ?? [];
      return parts.flatMap((name, part) => (name === shard.name ? [{ bag, part, parts: parts.length }] : []));
    }),
  );
}

class MainShard implements ShardedPredictor {
  readonly #shards: ShardConnection[] = [];
  readonly #partitioner: Partitioner;
  readonly #admission: Admission<NativeWorkspace>;

  constructor(
    plan: Plan,
    private readonly model: ResolvedModel,
    readonly modelHash: string,
    private readonly net: DenseNet,
    options: ConnectOptions,
  ) {
    try {
      for (const { name, endpoints } of plan.shards)
        this.#shards.push(new ShardConnection(name, endpoints[0] ?? '', modelHash, options.transport ?? connectZeromq));
    } catch (error) {
      for (const shard of this.#shards) shard.close();
      throw error;
    }
    this.#partitioner = new Partitioner(model, assignments(plan, model));
    this.#admission = new Admission(options.maxInFlight ?? 1024, () => net.createWorkspace());
  }

  async whenReady(ms: number): Promise<void> {
    await Promise.all(this.#shards.map((shard) => shard.whenReady(ms)));
  }

  predict(request: PredictRequest, options: PredictOptions = {}): Promise<Prediction> {
    return this.#admission.run(options, async (scratch, workspace, deadlineAt) => {
      const { model, net } = this;
      const checked = checkRequest(model, request, scratch);
      const { items, perItem, dense } = checked;
      const scores = new Float32Array(items * model.outputDim);
      const partitions = this.#partitioner.partition(checked, scratch);
      const answered = Promise.all(
        partitions.map((partition, shard) =>
          partition === null ? null : (this.#shards[shard] as ShardConnection).pool(partition.batch, deadlineAt),
        ),
      );
      // Mark it handled: a shard may fail while the bottom layers still run.
      answered.catch(() => undefined);
      if (items > 0) await net.run(workspace, 0, items, perItem, dense, null, null);
      const answers = await answered;
      if (items > 0) {
        const pooled = gatherPooled(model, checked, partitions, answers, scratch);
        await net.run(workspace, 1, items, perItem, dense, pooled, scores);
      }
      return { scores, items, scoreDim: model.outputDim, modelHash: this.modelHash };
    });
  }

  stats(): Readonly<Record<string, number>> {
    const totals: Record<string, number> = { ...this.#admission.counts, inFlight: this.#admission.inFlight };
    for (const { counts } of this.#shards) for (const [name, count] of Object.entries(counts)) totals[name] = (totals[name] ?? 0) + count;
    return totals;
  }

  shardStats(): Promise<ShardStats[]> {
    return Promise.all(this.#shards.map((shard) => shard.stats(STATS_MS)));
  }

  async close(): Promise<void> {
    const drained = this.#admission.close();
    for (const shard of this.#shards) shard.close();
    await drained;
  }
}
