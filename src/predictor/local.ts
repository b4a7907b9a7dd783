import { DenseNet } from '../engine/dense-net.js';
import type { NativeWorkspace, Precision } from '../engine/native.js';
import type { Residency, ResidencyReport } from '../engine/residency.js';
import type { SparseEngine } from '../engine/sparse-engine.js';
import { engineTables, openTables } from '../engine/tables.js';
import { type Bundle, openBundle } from '../model/bundle.js';
import { inStages, type ResolvedModel } from '../model/graph.js';
import { KINDS } from '../observe/layout.js';
import type { RequestRecord } from '../observe/request-record.js';
import type { Tracer } from '../observe/tracer.js';
import { Admission } from './admission.js';
import { pooledStarts } from './gather.js';
import { Partitioner } from './partition.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest } from './predictor.js';
import { type CheckedRequest, checkRequest } from './request.js';
import type { Scratch } from './scratch.js';

export interface LocalOptions {
  /** full (default) checks the checksums of all files; size their lengths, and the checksums of a sample of chunks. */
  readonly verify?: 'full' | 'size';
  /** How the tables are held in memory; default populate. */
  readonly residency?: Residency;
  /** Of the dense layers; default fp32. What others cost in accuracy shows `terabag predict --precision ... --compare`. */
  readonly precision?: Precision;
  /** Bytes of the tables brought into memory, and checked. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Told when tables lie on small memory pages, which slows lookups, and what to do about it; default process.emitWarning. */
  readonly onWarning?: (message: string) => void;
  /** Requests beyond are refused as overloaded; default 1024. */
  readonly maxInFlight?: number;
  /** Keeps what the stages of the latest requests took; default nothing is measured. */
  readonly trace?: Tracer;
}

const NONE = new Float32Array(0);

/** Opens a bundle in this process: the singular predictor, all tables here. */
export async function openLocal(bundleDir: string, options: LocalOptions = {}): Promise<Predictor> {
  const bundle = await openBundle(bundleDir, { verify: 'later' });
  const model = bundle.model as ResolvedModel;
  const tables = engineTables(bundle, () => [{ part: 0, parts: 1 }]);
  const { engine, residency } = await openTables(bundle, tables, options);
  try {
    return new LocalPredictor(bundle, model, engine, residency, options);
  } catch (error) {
    engine.close();
    throw error;
  }
}

class LocalPredictor implements Predictor {
  readonly modelHash: string;
  readonly #model: ResolvedModel;
  readonly #engine: SparseEngine;
  readonly #net: DenseNet;
  readonly #partitioner: Partitioner;
  readonly #admission: Admission<NativeWorkspace>;
  readonly #residency: ResidencyReport | null;
  readonly #trace: Tracer | null;

  constructor(bundle: Bundle, model: ResolvedModel, engine: SparseEngine, residency: ResidencyReport | null, options: LocalOptions) {
    this.#residency = residency;
    this.#trace = options.trace ?? null;
    this.modelHash = bundle.hash;
    this.#model = model;
    this.#engine = engine;
    // Nothing is won by layers that could run before the embeddings are there: one stage is one call, and rows stay in cache.
    this.#net = new DenseNet(inStages(model, 1), bundle.dense, options.precision);
    this.#partitioner = new Partitioner(model, [model.bags.map((_, bag) => ({ bag, part: 0, parts: 1 }))]);
    this.#admission = new Admission(options.maxInFlight ?? 1024, () => this.#net.createWorkspace());
  }

  predict(request: PredictRequest, options: PredictOptions = {}): Promise<Prediction> {
    const record = this.#trace?.open() ?? null;
    const work = (scratch: Scratch, workspace: NativeWorkspace): Prediction | Promise<Prediction> => {
      const model = this.#model;
      record?.enter(KINDS.check);
      const checked = checkRequest(model, request, scratch);
      if (record !== null) record.items = checked.items;
      record?.enter(KINDS.partition);
      const batch = this.#partitioner.partition(checked, scratch)[0]?.batch ?? null;
      if (batch === null) return this.#score(checked, NONE, workspace, record);
      // One destination that holds every table whole: its answer is in the order of the model's bags, as the dense net reads it.
      const pooled = scratch.f32('pooled', pooledStarts(model, checked).at(-1) as number);
      const job = record?.startJob(KINDS.pool);
      const score = (): Prediction | Promise<Prediction> => {
        job?.end();
        return this.#score(checked, pooled, workspace, record);
      };
      const pooling = this.#engine.pool(batch, pooled, job);
      return pooling === undefined ? score() : pooling.then(score);
    };
    return this.#admission.run(options, work, record);
  }

  /** No promise when the scores are there on return. */
  #score(
    { items, perItem, dense }: CheckedRequest,
    pooled: Float32Array,
    workspace: NativeWorkspace,
    record: RequestRecord | null,
  ): Prediction | Promise<Prediction> {
    const { outputDim } = this.#model;
    const scores = new Float32Array(items * outputDim);
    const prediction = { scores, items, scoreDim: outputDim, modelHash: this.modelHash };
    if (items === 0) return prediction;
    const job = record?.startJob(KINDS.dense);
    const end = (): Prediction => {
      job?.end();
      record?.enter(KINDS.finish);
      return prediction;
    };
    const running = this.#net.run(workspace, 1, items, perItem, dense, pooled, scores, job);
    return running === undefined ? end() : running.then(end);
  }

  stats(): Readonly<Record<string, number>> {
    const { bytes = 0, residentBytes = 0, hugePageBytes = 0, lockedBytes = 0 } = this.#residency ?? {};
    const known = this.#residency === null ? {} : { tableBytes: bytes, residentBytes, hugePageBytes, lockedBytes };
    return { ...this.#admission.counts, inFlight: this.#admission.inFlight, ...known };
  }

  async close(): Promise<void> {
    await this.#admission.close();
    this.#engine.close();
  }
}
