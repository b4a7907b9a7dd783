import { DenseNet } from '../engine/dense-net.js';
import type { NativeWorkspace, Precision } from '../engine/native.js';
import type { Residency } from '../engine/residency.js';
import type { SparseBatch } from '../engine/sparse-batch.js';
import type { SparseEngine } from '../engine/sparse-engine.js';
import { engineTables, everyPart, openTables } from '../engine/tables.js';
import { TerabagError } from '../errors.js';
import { type Bundle, openBundle } from '../model/bundle.js';
import { inStages, type ResolvedModel } from '../model/graph.js';
import { KINDS } from '../observe/layout.js';
import type { RequestRecord } from '../observe/request-record.js';
import type { Tracer } from '../observe/tracer.js';
import { checkPlan, MAIN_SHARD, type Plan } from '../plan/file/plan.js';
import { bundleOf, checkPublishedFor } from '../plan/file/published.js';
import { type Connect, ShardConnection } from '../rpc/client.js';
import type { ShardStats } from '../rpc/messages.js';
import { connectTo } from '../rpc/transport/sockets.js';
import { Admission } from './admission.js';
import { expandPooled, Gathering, type PooledVectors, pooledStarts } from './gather.js';
import { type Deduplicated, dropRepeatedBags } from './modes/dedup.js';
import { type Assignment, type Partition, Partitioner, placedInRequest } from './partition.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest } from './predictor.js';
import { type CheckedRequest, checkRequest, sliceItems } from './request.js';
import { bytesOf, Scratch } from './scratch.js';

/**
 * coalesced: one RPC per request and shard, for all nets and items. paper: one per batch, net and shard, those of a net sent when the net before
 * has run, as the system of Lui et al. (ISPASS 2021) does; to compare with.
 */
export type RpcMode = 'coalesced' | 'paper';

export interface ConnectOptions {
  /** The bundle's directory, or what was published of it: model.json and dense.safetensors are read, and those tables that the plan gives to main. */
  readonly bundle: string;
  /** How long to wait for all shards; default 10 s. */
  readonly readyMs?: number;
  /** Of the dense layers; default fp32. */
  readonly precision?: Precision;
  /** Default coalesced. */
  readonly rpc?: RpcMode;
  /** Items per batch, with rpc paper; default all of a request's. The batches of a request run side by side. */
  readonly batchItems?: number;
  /**
   * Sends and pools bags that are alike within a request (a batch, with rpc paper) once; default false. `npm run bench -- rpc --case dedup`, 33
   * bag layers, half of them per item, 64 items over 8 shards of this machine: with 8 different bags a layer, 6 times fewer bytes, for 15 to 20 %
   * more P50 and CPU; with no two alike, as much for nothing. For networks that are slower than a loopback.
   */
  readonly dedup?: boolean;
  /** Requests beyond are refused as overloaded; default 1024. */
  readonly maxInFlight?: number;
  /** Keeps what the stages of the latest requests took, here and on the shards; default nothing is measured. */
  readonly trace?: Tracer;
  /** How main's own tables are held in memory, checked and reported; as in LocalOptions. */
  readonly residency?: Residency;
  readonly verify?: 'full' | 'size';
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly onWarning?: (message: string) => void;
  /** How shards are reached; default ZeroMQ. */
  readonly transport?: Connect;
}

export interface ShardedPredictor extends Predictor {
  /** What each shard says of itself, in the plan's order. */
  shardStats(): Promise<ShardStats[]>;
}

const STATS_MS = 2000;
/** Each has buffers and RPCs of its own; more at once than the sockets' queues take would count as a shard that is away. */
const MAX_BATCHES = 1024;

/** Becomes the main shard of a plan: opens the tables that are its own, connects to all shards and waits until each is ready. */
export async function connect(plan: Plan, options: ConnectOptions): Promise<ShardedPredictor> {
  checkOptions(options);
  const own = new Set(plan.tables.flatMap(({ table, parts }) => (parts.includes(MAIN_SHARD) ? [table] : [])));
  const bundle = await openBundle(await bundleOf(options.bundle, MAIN_SHARD), { tables: own, verify: 'later' });
  checkPlan(plan, bundle.spec, bundle.hash);
  checkPublishedFor(plan, MAIN_SHARD, bundle.spec, bundle.dir);
  // Without tables of its own, too: the dense weights are checked there.
  const engine = await openOwnTables(bundle, options);
  let predictor: MainShard;
  try {
    predictor = new MainShard(plan, bundle, engine, options);
  } catch (error) {
    engine.close();
    throw error;
  }
  try {
    await predictor.whenReady(options.readyMs ?? 10_000);
  } catch (error) {
    await predictor.close();
    throw error;
  }
  return predictor;
}

function checkOptions({ rpc = 'coalesced', batchItems }: ConnectOptions): void {
  if (rpc !== 'coalesced' && rpc !== 'paper')
    throw new TerabagError('invalid_argument', `rpc has to be coalesced or paper: ${String(rpc)}`, { field: 'rpc' });
  if (batchItems === undefined) return;
  if (!Number.isInteger(batchItems) || batchItems < 1)
    throw new TerabagError('invalid_argument', `batchItems has to be an integer, 1 or more: ${batchItems}`, { field: 'batchItems' });
  if (rpc !== 'paper')
    throw new TerabagError('invalid_argument', 'batchItems needs rpc paper: coalesced requests are not cut', { field: 'batchItems' });
}

async function openOwnTables(bundle: Bundle, options: ConnectOptions): Promise<SparseEngine> {
  const tables = engineTables(bundle, everyPart(bundle));
  return (await openTables(bundle, tables, options)).engine;
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

/** Bag layers that are asked for together, and the stage of the dense net that runs when they are there. */
interface Round {
  readonly bags: readonly number[];
  /** Of these, the ones whose tables are split. */
  readonly rowWise: readonly number[];
  readonly partitioner: Partitioner;
  readonly stage: number;
}

function rounds(plan: Plan, model: ResolvedModel, net: DenseNet, rpc: RpcMode): Round[] {
  const split = new Set(plan.tables.flatMap(({ table, parts }) => (parts.length > 1 ? [table] : [])));
  const round = (bags: readonly number[], stage: number): Round => ({
    bags,
    rowWise: bags.filter((bag) => split.has(model.bags[bag]?.tableName ?? '')),
    stage,
    partitioner: new Partitioner(model, assignments(plan, model, bags), { keyPrefix: `${stage}.`, emptyTables: 'skip' }),
  });
  const all = model.bags.map((_, bag) => bag);
  if (rpc === 'coalesced') return [round(all, 1)];
  const nets = Math.max(net.lastStage, ...model.bags.map((bag) => bag.net + 1));
  return Array.from({ length: nets }, (_, n) =>
    round(
      all.filter((bag) => model.bags[bag]?.net === n),
      n + 1,
    ),
  );
}

/** What one batch works with. */
interface Buffers {
  readonly scratch: Scratch;
  readonly workspace: NativeWorkspace;
}

/** A batch whose ids are copied: nothing of the caller's is read any more. */
interface PreparedBatch extends Buffers {
  readonly request: CheckedRequest;
  readonly deduplicated: Deduplicated | null;
  /** Per round. */
  readonly partitions: readonly (readonly Partition[])[];
  readonly scores: Float32Array;
  readonly number: number;
  readonly record: RequestRecord | null;
}

class MainShard implements ShardedPredictor {
  readonly modelHash: string;
  readonly #model: ResolvedModel;
  readonly #net: DenseNet;
  readonly #shards: ShardConnection[] = [];
  readonly #rounds: readonly Round[];
  readonly #batchItems: number;
  readonly #dedup: boolean;
  readonly #admission: Admission<Buffers[]>;
  readonly #trace: Tracer | null;

  constructor(
    plan: Plan,
    bundle: Bundle,
    private readonly engine: SparseEngine | null,
    options: ConnectOptions,
  ) {
    const { rpc = 'coalesced' } = options;
    this.modelHash = bundle.hash;
    this.#model = bundle.model as ResolvedModel;
    this.#net = new DenseNet(rpc === 'coalesced' ? inStages(this.#model, 2) : this.#model, bundle.dense, options.precision);
    this.#rounds = rounds(plan, this.#model, this.#net, rpc);
    this.#batchItems = options.batchItems ?? Number.POSITIVE_INFINITY;
    this.#dedup = options.dedup ?? false;
    this.#trace = options.trace ?? null;
    this.#trace?.watch(plan.shards.map(({ name }) => name));
    this.#admission = new Admission(options.maxInFlight ?? 1024, () => []);
    try {
      for (const { name, endpoints } of plan.shards)
        this.#shards.push(new ShardConnection(name, endpoints[0] ?? '', this.modelHash, options.transport ?? connectTo));
    } catch (error) {
      for (const shard of this.#shards) shard.close();
      throw error;
    }
  }

  async whenReady(ms: number): Promise<void> {
    await Promise.all(this.#shards.map((shard) => shard.whenReady(ms)));
  }

  predict(request: PredictRequest, options: PredictOptions = {}): Promise<Prediction> {
    const record = this.#trace?.open() ?? null;
    const work = async (scratch: Scratch, buffers: Buffers[], deadlineAt: number): Promise<Prediction> => {
      const { outputDim } = this.#model;
      record?.enter(KINDS.check);
      const checked = checkRequest(this.#model, request, scratch);
      const { items } = checked;
      if (record !== null) record.items = items;
      record?.enter(KINDS.partition);
      const scores = new Float32Array(items * outputDim);
      const batches = this.#prepare(checked, buffers, scores, record);
      let failure: unknown;
      const over = (): boolean => failure !== undefined || options.signal?.aborted === true;
      const ends = batches.map((batch) =>
        this.#run(batch, deadlineAt, over).catch((error: unknown) => {
          failure ??= error;
        }),
      );
      // All of them: the buffers are lent to the next request when this one settles.
      await Promise.all(ends);
      record?.enter(KINDS.finish);
      if (failure !== undefined) throw failure;
      return { scores, items, scoreDim: outputDim, modelHash: this.modelHash };
    };
    return this.#admission.run(options, work, record);
  }

  /** Cuts a request into batches and their ids by shards, before predict returns its promise. */
  #prepare(request: CheckedRequest, buffers: Buffers[], scores: Float32Array, record: RequestRecord | null): PreparedBatch[] {
    const { items } = request;
    const model = this.#model;
    const count = Math.max(1, Math.ceil(items / this.#batchItems));
    if (count > MAX_BATCHES)
      throw new TerabagError(
        'invalid_argument',
        `a request has at most ${MAX_BATCHES} batches: items ${items}, batchItems ${this.#batchItems}`,
        { field: 'batchItems', items },
      );
    while (buffers.length < count) buffers.push({ scratch: new Scratch(), workspace: this.#net.createWorkspace() });
    return Array.from({ length: count }, (_, batch) => {
      const own = buffers[batch] as Buffers;
      const firstItem = batch === 0 ? 0 : batch * this.#batchItems;
      const end = Math.min(items, firstItem + this.#batchItems);
      // The only batch works on the request as it is.
      const slice = count === 1 ? request : sliceItems(model, request, firstItem, end, own.scratch);
      const deduplicated = this.#dedup ? dropRepeatedBags(model, slice, own.scratch) : null;
      const asked = deduplicated?.request ?? slice;
      return {
        ...own,
        request: asked,
        deduplicated,
        partitions: this.#rounds.map(({ partitioner }) => partitioner.partition(asked, own.scratch)),
        scores: scores.subarray(firstItem * model.outputDim, end * model.outputDim),
        number: batch,
        record,
      };
    });
  }

  /** Asks and computes round by round, until it is over for another reason. It settles when nothing reads the batch's buffers any more. */
  async #run(batch: PreparedBatch, deadlineAt: number, over: () => boolean): Promise<void> {
    const { scratch, workspace, request, deduplicated, scores, number, record } = batch;
    const { items, dense, perItem } = request;
    const model = this.#model;
    const net = this.#net;
    const pooled = vectors('pooled', pooledStarts(model, request), scratch);
    const expanded = deduplicated === null ? pooled : vectors('expanded', deduplicated.expandedStarts, scratch);
    try {
      for (const [r, { bags, rowWise, stage }] of this.#rounds.entries()) {
        if (r > 0 && over()) return;
        const partitions = batch.partitions[r] ?? [];
        const gathering = new Gathering(model, rowWise, partitions, pooled);
        record?.leave();
        const placed = this.#ask(gathering, partitions, deadlineAt, batch, r);
        // Mark it handled: it may fail while the layers below still run.
        placed.catch(() => undefined);
        const own = this.#poolOwn(partitions.at(-1)?.batch ?? null, batch, r);
        own.done?.catch(() => undefined);
        try {
          if (items > 0 && r === 0) {
            const job = record?.startJob(KINDS.dense, number, r);
            await net.run(workspace, 0, items, perItem, dense, null, null, job);
            job?.end();
          }
          await own.done;
          await placed;
        } catch (error) {
          gathering.over = true;
          await own.done;
          throw error;
        }
        record?.enter(KINDS.place, number, r);
        gathering.place(partitions.length - 1, own.answer);
        gathering.finish();
        if (items === 0 || stage > net.lastStage) continue;
        if (deduplicated !== null) expandPooled(model, bags, deduplicated.sources, pooled, expanded);
        const job = record?.startJob(KINDS.dense, number, r);
        await net.run(workspace, stage, items, perItem, dense, expanded.values, stage === net.lastStage ? scores : null, job);
        job?.end();
      }
    } catch (error) {
      throw placedInRequest(model, request, error);
    }
  }

  /** Asks the shards, and places what they answer as it comes. */
  #ask(
    gathering: Gathering,
    partitions: readonly Partition[],
    deadlineAt: number,
    { record, number }: PreparedBatch,
    round: number,
  ): Promise<unknown> {
    const askAndPlace = async (shard: ShardConnection, s: number): Promise<void> => {
      const asked = partitions[s]?.batch ?? null;
      if (asked === null) return gathering.place(s, null);
      const { pooled, message } = await shard.pool(asked, deadlineAt, record?.startRpc(number, round, s));
      try {
        if (gathering.over) return;
        record?.enter(KINDS.place, number, round);
        gathering.place(s, pooled);
        record?.leave();
      } finally {
        message.release();
      }
    };
    return Promise.all(this.#shards.map(askAndPlace));
  }

  #poolOwn(
    batch: SparseBatch | null,
    { scratch, number, record }: PreparedBatch,
    round: number,
  ): { answer: Uint8Array | null; done: Promise<void> | undefined } {
    if (batch === null || this.engine === null) return { answer: null, done: undefined };
    const answer = scratch.f32('answer', this.engine.outputLength(batch.segments, batch.offsets));
    const job = record?.startJob(KINDS.pool, number, round);
    const done = this.engine.pool(batch, answer, job)?.then(() => job?.end());
    if (done === undefined) job?.end();
    return { answer: bytesOf(answer), done };
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
    this.engine?.close();
  }
}

const vectors = (key: string, starts: readonly number[], scratch: Scratch): PooledVectors => ({
  values: scratch.f32(key, starts.at(-1) as number),
  starts,
});
