import type { DensePart } from '../engine/dense-part.js';
import type { SparseBatch } from '../engine/sparse-batch.js';
import type { SparseEngine } from '../engine/sparse-engine.js';
import { type ErrorCode, TerabagError } from '../errors.js';
import { type ResolvedBag, type ResolvedModel, returnedDim } from '../model/graph.js';
import { KINDS } from '../observe/layout.js';
import type { PredictorMeter } from '../observe/predictor-meter.js';
import type { RpcSpan } from '../observe/spans.js';
import { NO_STAGES, type Stages } from '../observe/stages.js';
import type { Tracer } from '../observe/tracer.js';
import { isFinite32 } from '../tables/finite.js';
import { Admission, type AdmissionOptions, type Admitted } from './admission.js';
import {
  answerBytesOf,
  type Expansion,
  expandPooled,
  Gathering,
  inputStarts,
  type PooledVectors,
  pooledLength,
  pooledStarts,
} from './gather.js';
import { firstBadId } from './ids.js';
import { copiedKeys, placeKeyError } from './key-errors.js';
import { dropRepeatedBags } from './modes/dedup.js';
import { numBatches } from './modes/paper.js';
import { type BadId, firstBadCopy, type Partition } from './partition.js';
import type { Prediction, PredictOptions, PredictRequest } from './predictor.js';
import { type CheckedRequest, checkRequest, sliceItems } from './request.js';
import { requestBytes } from './request-bytes.js';
import { type BatchMemory, RequestMemory } from './request-memory.js';
import type { Round } from './rounds.js';
import { bytesOf, type Scratch } from './scratch.js';
import { SequenceCutter } from './sequences.js';

/** What pools on other machines. */
export interface PoolingShard {
  /** See ShardClient. */
  pool(
    batch: SparseBatch,
    options: {
      readonly deadlineAt: number;
      readonly answerBytes: number;
      readonly signal?: AbortSignal | null;
      readonly rpc?: RpcSpan | null;
    },
  ): Promise<{ readonly pooled: Uint8Array; readonly message: { release(): void } }>;
}

export interface PipelineOptions {
  readonly model: ResolvedModel;
  readonly modelHash: string;
  /** In the stages that the rounds name. */
  readonly net: DensePart;
  readonly rounds: readonly Round[];
  /** In the order of the rounds' partitions. */
  readonly shards: readonly PoolingShard[];
  /** Main's own tables; null when it has none. */
  readonly engine: SparseEngine | null;
  /** Main's tables are all there are: its answer is in the order that the dense net reads, and is not gathered. */
  readonly onMain: boolean;
  /** Items per batch; default all of a request's. */
  readonly batchItems?: number | undefined;
  /** Sends and pools bags that are alike once; default false. */
  readonly dedup?: boolean | undefined;
  readonly admission?: AdmissionOptions | undefined;
  /** Default error. */
  readonly onShardFailure?: ShardFailurePolicy | undefined;
  readonly trace?: Tracer | undefined;
  readonly meter?: PredictorMeter | undefined;
}

/** What becomes of a request when a shard gives no vectors: it fails, or their bags are taken for empty. */
export const SHARD_FAILURE_POLICIES = ['error', 'default-embedding'] as const;
/** @useDeclaredType */
export type ShardFailurePolicy = (typeof SHARD_FAILURE_POLICIES)[number];

/** Failures of the request itself, or of nobody: a degraded answer would hide them. */
const REQUESTS_OWN: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  ...(['invalid_argument', 'index_out_of_range', 'bad_offsets', 'aborted', 'closed'] as const),
]);
/** Of the time to the deadline, what is left to the dense layers when a shard may be done without. */
const KEPT_FOR_LAYERS = 0.1;

const NO_VECTORS = new Float32Array(0);

/** One request that runs. */
interface Running {
  readonly admitted: Admitted<RequestMemory>;
  readonly stages: Stages;
  /** When shards have to have answered, by the clock of the admission. */
  readonly shardsBy: number;
  /** Names of tables whose vectors were done without, by their index in the model. */
  readonly missing: Map<number, string>;
}

/** A batch whose ids are copied: nothing of the caller's is read any more. */
interface PreparedBatch {
  readonly memory: BatchMemory;
  readonly number: number;
  /** As it is asked for. */
  readonly request: CheckedRequest;
  /** Null: the dense net reads vectors as they come. */
  readonly expansion: Expansion | null;
  /** Of the sequences' rows; null without sequences. */
  readonly lengths: Uint32Array | null;
  /** By round. */
  readonly partitions: readonly (readonly Partition[])[];
  /** [items, values of all outputs]. */
  readonly returned: Float32Array;
}

/**
 * The way of one request: check, partition, pool here and on shards, dense layers, scores. A local predictor is a plan without shards.
 *
 * Which error a request gets: see Predictor. What main checks by itself comes first. When anything fails later, main looks for a bad id among the
 * ids that it copied unread, so that it need not wait for the shard that would find it. Other outcomes are awaited in their fixed order, and the
 * first failure ends the request and cancels its RPCs: an error waits for the outcomes before it, which come by the deadline, and for no others.
 */
export class Pipeline {
  readonly #admission: Admission<RequestMemory>;
  readonly #batchItems: number;
  readonly #cutter: SequenceCutter;
  readonly #counts = { degraded: 0, nonFinite: 0 };
  trace: Tracer | null;

  constructor(private readonly options: PipelineOptions) {
    this.trace = options.trace ?? null;
    this.#cutter = new SequenceCutter(options.model, { repeated: options.onMain ? 'each' : 'once' });
    this.#batchItems = options.batchItems ?? Number.POSITIVE_INFINITY;
    this.#admission = new Admission(() => new RequestMemory(options.net), options.admission);
  }

  predict(request: PredictRequest, options: PredictOptions = {}): Promise<Prediction> {
    // What is no object is refused below.
    const traced = (options?.trace ?? this.trace)?.open() ?? NO_STAGES;
    const stages = this.options.meter?.open(traced) ?? traced;
    return this.#admission.run(options, (admitted) => this.#predict(request, this.#running(admitted, stages)), stages);
  }

  #running(admitted: Admitted<RequestMemory>, stages: Stages): Running {
    const { deadlineAt, deadlineMs } = admitted;
    const kept = this.options.onShardFailure === 'default-embedding' ? deadlineMs * KEPT_FOR_LAYERS : 0;
    return { admitted, stages, shardsBy: deadlineAt - kept, missing: new Map() };
  }

  get counts(): Admission<RequestMemory>['counts'] & Readonly<Record<'degraded' | 'nonFinite', number>> {
    return { ...this.#admission.counts, ...this.#counts };
  }

  /** Refuses new requests and waits until no work reads tables or memory any more. */
  close(): Promise<void> {
    return this.#admission.close();
  }

  /** No promise when the scores are there on return. */
  #predict(request: PredictRequest, running: Running): Prediction | Promise<Prediction> {
    const { model, modelHash, onMain } = this.options;
    const { stages, admitted } = running;
    stages.enter(KINDS.check);
    const checked = checkRequest(model, request, admitted.memory.scratch);
    const { items } = checked;
    stages.setItems(items, checked.bags);
    stages.enter(KINDS.partition);
    const returned = new Float32Array(items * returnedDim(model));
    const end = (): Prediction => {
      stages.enter(KINDS.finish);
      const values = returnedValues(model, returned, items);
      if (!isFinite32(values.scores)) this.#counts.nonFinite++;
      return { ...values, items, scoreDim: model.outputDim, modelHash, ...this.#degradation(running.missing) };
    };
    const batches = this.#prepare(checked, returned, admitted.memory);
    admitted.hold(requestBytes(model, batches));
    const work = onMain ? this.#runOnMain(batches[0] as PreparedBatch, running) : this.#runBatches(batches, running);
    return work === undefined ? end() : work.then(end);
  }

  #degradation(missing: ReadonlyMap<number, string>): Pick<Prediction, 'degraded' | 'missingTables'> {
    if (missing.size === 0) return NOT_DEGRADED;
    this.#counts.degraded++;
    const inOrderOfModel = [...missing].sort(([one], [other]) => one - other);
    return { degraded: true, missingTables: inOrderOfModel.map(([, name]) => name) };
  }

  /** Cuts a request into batches and their ids by shards, before predict returns its promise. */
  #prepare(request: CheckedRequest, returned: Float32Array, memory: RequestMemory): PreparedBatch[] {
    const { model } = this.options;
    const count = numBatches(request.items, this.#batchItems);
    const batches: PreparedBatch[] = [];
    try {
      if (count === 1) batches.push(this.#prepareBatch(0, request, returned, memory.batch(0)));
      for (let batch = 0; count > 1 && batch < count; batch++) {
        const [from, to] = [batch * this.#batchItems, Math.min(request.items, (batch + 1) * this.#batchItems)];
        // The first has the scratch of the request, which the others are cut from.
        const own = memory.batch(batch + 1);
        const slice = sliceItems(model, request, from, to, own.scratch);
        const dim = returnedDim(model);
        batches.push(this.#prepareBatch(batch, slice, returned.subarray(from * dim, to * dim), own));
      }
      return batches;
    } catch (error) {
      // Batches and shards are cut one after another, but the first fault is the first in the request.
      throw firstBadId(model, request) ?? error;
    }
  }

  #prepareBatch(number: number, given: CheckedRequest, returned: Float32Array, memory: BatchMemory): PreparedBatch {
    const { model, rounds, onMain, dedup = false } = this.options;
    const { scratch } = memory;
    const deduplicated = dedup ? dropRepeatedBags(model, given, scratch) : null;
    const bagsOnce = deduplicated?.request ?? given;
    const sequences = this.#cutter.cut(bagsOnce, scratch);
    const request = sequences?.request ?? bagsOnce;
    const expansion =
      deduplicated === null && (sequences === null || (onMain && sequences.inPlace))
        ? null
        : {
            sources: deduplicated?.sources ?? [],
            positions: sequences?.positions ?? [],
            starts: inputStarts(model, deduplicated?.rows ?? given.bags.map(({ numBags }) => numBags)),
          };
    const partitions = rounds.map(({ partitioner }) => partitioner.partition(request, scratch));
    return { memory, number, request, expansion, lengths: sequences?.lengths ?? null, partitions, returned };
  }

  #firstBadCopy(batches: readonly PreparedBatch[]): TerabagError | null {
    let first: BadId | null = null;
    for (const { request, partitions } of batches) {
      for (const round of partitions) {
        const bad = firstBadCopy(this.options.model, request, round);
        if (bad === null) continue;
        if (first === null || bad.layer < first.layer || (bad.layer === first.layer && bad.position < first.position)) first = bad;
      }
    }
    return first?.error ?? null;
  }

  /** An error of who holds a keyed table names the key; its place in the request is known here. */
  #placed(error: unknown, { request, partitions }: PreparedBatch): unknown {
    return placeKeyError(error, this.options.model, request.bags, (layer) => copiedKeys(partitions.flat(), layer));
  }

  /** Pools all tables here and runs all layers in one stage, on the calling thread when both are small. */
  #runOnMain(batch: PreparedBatch, running: Running): Promise<void> | undefined {
    const { admitted, stages } = running;
    const { memory, partitions, returned } = batch;
    const asked = partitions[0]?.[0]?.batch ?? null;
    const answer = asked === null ? NO_VECTORS : memory.scratch.f32('answer', this.#answerLength(batch, asked));
    const score = (): Promise<void> | undefined => {
      if (admitted.over) return undefined;
      const pooled = batch.expansion === null ? answer : this.#expandAnswer(batch, batch.expansion, bytesOf(answer), stages);
      return this.#runLayers(batch, 0, 1, { pooled, returned }, running);
    };
    const fail = (error: unknown): never => {
      throw this.#firstBadCopy([batch]) ?? this.#placed(error, batch);
    };
    let pooling: Promise<void> | undefined;
    try {
      if (asked !== null) pooling = this.#pool(asked, answer, batch, 0, stages);
    } catch (error) {
      fail(error);
    }
    return pooling === undefined ? score() : pooling.catch(fail).then(score);
  }

  #answerLength({ request, lengths }: PreparedBatch, asked: SparseBatch): number {
    const { model, engine } = this.options;
    // Vectors of sequences may come with counts.
    return lengths === null ? pooledLength(model, request) : (engine as SparseEngine).outputLength(asked.segments, asked.offsets);
  }

  /** What the dense net reads, of the answer of main's own tables, which are all there are. */
  #expandAnswer(
    { request, partitions, memory, number }: PreparedBatch,
    expansion: Expansion,
    answer: Uint8Array,
    stages: Stages,
  ): Float32Array {
    const { model, rounds } = this.options;
    stages.enter(KINDS.place, number, 0);
    const pooled = askedVectors(model, request, memory.scratch);
    const expanded = vectors('expanded', expansion.starts, memory.scratch);
    const gathering = new Gathering(model, [], partitions[0] ?? [], pooled);
    gathering.place(0, answer);
    gathering.finish();
    expandPooled(model, rounds[0]?.bags ?? [], expansion, pooled, expanded);
    return expanded.values;
  }

  /** Runs the batches side by side. Settles when nothing reads their memory any more. */
  async #runBatches(batches: readonly PreparedBatch[], running: Running): Promise<void> {
    const { admitted } = running;
    let searched = false;
    const search = (): void => {
      if (searched || admitted.over) return;
      searched = true;
      const bad = this.#firstBadCopy(batches);
      if (bad !== null) admitted.fail(bad);
    };
    admitted.onOver = () => {
      for (const { memory } of batches) memory.cancel.abort();
    };
    const started: Promise<unknown>[] = [];
    const ends = batches.map((batch) => this.#runBatch(batch, running, { started, search }));
    try {
      await inOrder(ends, search);
    } catch (error) {
      admitted.fail(error);
    } finally {
      if (admitted.over) {
        await Promise.allSettled(ends);
        await Promise.allSettled(started);
      }
    }
  }

  /** Asks and computes round by round, unless the request is over. started gets what reads the batch's memory, maybe after this has failed. */
  async #runBatch(batch: PreparedBatch, running: Running, failures: Failures): Promise<void> {
    const { model, net, rounds } = this.options;
    const { memory, number, request, expansion, returned } = batch;
    const { admitted, stages } = running;
    const { items } = request;
    const pooled = askedVectors(model, request, memory.scratch);
    const expanded = expansion === null ? pooled : vectors('expanded', expansion.starts, memory.scratch);
    try {
      for (const [r, { bags, rowWise, stage }] of rounds.entries()) {
        if (admitted.over) return;
        const partitions = batch.partitions[r] ?? [];
        const gathering = new Gathering(model, rowWise, partitions, pooled);
        stages.leave();
        const asked = this.#ask({ gathering, batch, round: r, running, search: failures.search });
        started(asked, failures);
        const [own, answer] = this.#poolOwn(partitions.at(-1)?.batch ?? null, batch, r, stages);
        const outcomes = own === undefined ? asked : [own, ...asked];
        if (own !== undefined) started([own], failures);
        if (items > 0 && r === 0) await this.#runLayers(batch, r, 0, { pooled: null, returned: null }, running);
        for (const outcome of outcomes) await outcome;
        if (admitted.over) return;
        stages.enter(KINDS.place, number, r);
        gathering.place(partitions.length - 1, answer);
        gathering.finish();
        if (items === 0 || stage > net.lastStage) continue;
        if (expansion !== null) expandPooled(model, bags, expansion, pooled, expanded);
        const last = stage === net.lastStage ? returned : null;
        await this.#runLayers(batch, r, stage, { pooled: expanded.values, returned: last }, running);
      }
    } catch (error) {
      failures.search();
      // Nobody waits for the rest of this batch, whatever becomes of those before it.
      memory.cancel.abort();
      throw this.#placed(error, batch);
    }
  }

  /** Asks the shards, and places what they answer as it comes. */
  #ask(asking: Asking): Promise<void>[] {
    const { gathering, batch, round } = asking;
    const asked: Promise<void>[] = [];
    for (let shard = 0; shard < this.options.shards.length; shard++) {
      const sent = batch.partitions[round]?.[shard]?.batch ?? null;
      if (sent === null) gathering.place(shard, null);
      else asked.push(this.#askShard(shard, sent, asking));
    }
    return asked;
  }

  async #askShard(shard: number, asked: SparseBatch, asking: Asking): Promise<void> {
    const { gathering, round, running } = asking;
    const { memory, number, partitions } = asking.batch;
    const { admitted, stages, shardsBy: deadlineAt } = running;
    const rpc = stages.startRpc(number, round, shard);
    const answerBytes = answerBytesOf(this.options.model, partitions[round]?.[shard] as Partition);
    let answer: Awaited<ReturnType<PoolingShard['pool']>>;
    try {
      answer = await (this.options.shards[shard] as PoolingShard).pool(asked, {
        ...{ deadlineAt, answerBytes, signal: memory.cancel.signal, rpc },
      });
    } catch (error) {
      this.#doWithout(shard, error, asking);
      return;
    }
    try {
      if (admitted.over) return;
      stages.enter(KINDS.place, number, round);
      gathering.place(shard, answer.pooled);
      stages.leave();
    } finally {
      answer.message.release();
    }
  }

  /** Takes the bags of a shard that gave no vectors for empty, or throws why it gave none. */
  #doWithout(shard: number, error: unknown, { gathering, running, search }: Asking): void {
    const { model, onShardFailure } = this.options;
    const { admitted, missing } = running;
    if (onShardFailure !== 'default-embedding' || REQUESTS_OWN.has(TerabagError.from(error).code)) throw error;
    // A bad id is the request's fault, whichever shard would have found it.
    search();
    if (admitted.over) throw error;
    for (const layer of gathering.placeDefaults(shard)) {
      const { table, tableName } = model.bags[layer] as ResolvedBag;
      missing.set(table, tableName);
    }
  }

  /** Main's own tables: a promise when threads pool them, and the answer that is there then. */
  #poolOwn(asked: SparseBatch | null, batch: PreparedBatch, round: number, stages: Stages): [Promise<void> | undefined, Uint8Array | null] {
    const { engine } = this.options;
    if (asked === null || engine === null) return [undefined, null];
    const answer = batch.memory.scratch.f32('answer', engine.outputLength(asked.segments, asked.offsets));
    return [this.#pool(asked, answer, batch, round, stages), bytesOf(answer)];
  }

  #pool(asked: SparseBatch, into: Float32Array, { number }: PreparedBatch, round: number, stages: Stages): Promise<void> | undefined {
    return stages.runJob(KINDS.pool, number, round, (times) => (this.options.engine as SparseEngine).pool(asked, into, times));
  }

  /** Runs a stage of the dense part; pooled from stage 1 on, what is returned of the last. */
  #runLayers(
    { request: { items, perItem, users, dense }, lengths, memory, number }: PreparedBatch,
    round: number,
    stage: number,
    { pooled, returned }: { readonly pooled: Float32Array | null; readonly returned: Float32Array | null },
    { admitted, stages }: Running,
  ): Promise<void> | undefined {
    if (items === 0) return undefined;
    const { net } = this.options;
    return stages.runJob(KINDS.dense, number, round, (times) =>
      net.run(memory.workspace, stage, items, perItem, dense, pooled, stage === 0 ? null : lengths, returned, times, admitted, users),
    );
  }
}

/** Scores, and by name what further outputs give, of rows that hold them side by side. */
function returnedValues(model: ResolvedModel, returned: Float32Array, items: number): Pick<Prediction, 'scores' | 'outputs'> {
  if (model.outputs === undefined) return { scores: returned };
  const rowDim = returnedDim(model);
  const columns = (from: number, dim: number): Float32Array => {
    const values = new Float32Array(items * dim);
    for (let item = 0; item < items; item++) values.set(returned.subarray(item * rowDim + from, item * rowDim + from + dim), item * dim);
    return values;
  };
  let at = model.outputDim;
  const outputs = model.outputs.map(({ name, dim }) => {
    const values = columns(at, dim);
    at += dim;
    return [name, values] as const;
  });
  return { scores: columns(0, model.outputDim), outputs: Object.fromEntries(outputs) };
}

/** What is asked of shards together. */
interface Asking {
  readonly gathering: Gathering;
  readonly batch: PreparedBatch;
  readonly round: number;
  readonly running: Running;
  /** Looks for a fault of the request itself, which ends it. */
  readonly search: () => void;
}

const NOT_DEGRADED = {};

/** What happens to a batch that fails. */
interface Failures {
  /** All that reads memory of a batch, and may do so after the batch has failed. */
  readonly started: Promise<unknown>[];
  /** Called on any failure: looks for a fault of the request itself. */
  readonly search: () => void;
}

/** Before anything else can throw: a promise that rejects while nothing listens ends the process. */
function started(work: readonly Promise<void>[], failures: Failures): void {
  for (const each of work) each.catch(failures.search);
  failures.started.push(...work);
}

/** Rejects with the error of the first in the list that fails, when all before it are fulfilled. failed is told of any at once. */
async function inOrder(outcomes: readonly Promise<void>[], failed: () => void): Promise<void> {
  // Marks them as handled, too: they may fail while others are awaited.
  for (const outcome of outcomes) outcome.catch(failed);
  for (const outcome of outcomes) await outcome;
}

const vectors = (key: string, starts: readonly number[], scratch: Scratch): PooledVectors => ({
  values: scratch.f32(key, starts.at(-1) as number),
  starts,
});

/** Where the vectors that are asked for are gathered. */
function askedVectors(model: ResolvedModel, request: CheckedRequest, scratch: Scratch): PooledVectors {
  const pooled = vectors('pooled', pooledStarts(model, request), scratch);
  if (!model.bags.some(({ leavesOut, maxLength }) => leavesOut && maxLength !== undefined)) return pooled;
  const counts = model.bags.map(({ leavesOut, maxLength }, bag) =>
    leavesOut && maxLength !== undefined ? scratch.f32(`counts${bag}`, request.bags[bag]?.numBags ?? 0) : null,
  );
  return { ...pooled, counts };
}
