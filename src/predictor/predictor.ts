import type { Precision } from '../engine/native.js';
import type { OnnxOptions } from '../engine/onnx/onnx-net.js';
import type { Residency } from '../engine/residency.js';
import type { ResolvedModel } from '../model/graph.js';
import type { PredictorStats } from '../observe/counters.js';
import type { PredictorMeter } from '../observe/predictor-meter.js';
import type { Tracer } from '../observe/tracer.js';
import type { Watched } from './watched.js';

/** Ids of one embedding bag or sequence layer: integers, 64-bit ones as bigint, or as a string of decimal digits where JSON carries them. */
export type Indices = Int32Array | Uint32Array | BigInt64Array | readonly (number | bigint | string)[];

/**
 * Bag b is indices[offsets[b] .. offsets[b + 1]); offsets has B + 1 entries, starts at 0 and ends at indices.length. PyTorch's EmbeddingBag leaves
 * the last one out, unless include_last_offset is set: append indices.length to its offsets.
 */
export interface BagsInput {
  readonly indices: Indices;
  readonly offsets: Int32Array | Uint32Array | BigInt64Array | readonly (number | bigint)[];
  /** One per index; required by a weighted bag, refused by others. Finite in float32. */
  readonly weights?: Float32Array | readonly number[];
}

/**
 * One request: N candidate items for one user. A dense feature has dim numbers (the same for all items) or N x dim, row-major, finite in float32;
 * a bag layer gets 1 bag (of the user, pooled and sent once) or N. Names are own properties of dense and sparse.
 * All arrays are copied before predict() returns its promise: the caller may change, reuse or transfer them at once.
 */
export interface PredictRequest {
  /** N; when left out, the largest number of rows or bags given. */
  readonly items?: number;
  readonly dense: Readonly<Record<string, Float32Array | readonly number[]>>;
  /**
   * Of a request of several users: the number of items of each, 1 or more, which add up to N; the first user's items come first. A feature has then 1
   * row for all, one for each user, or one for each item. Each user's scores have the bits of a request of its own. Not for ONNX models.
   */
  readonly users?: Uint32Array | readonly number[];
  /** By name of the embedding bag or sequence layer. A sequence keeps the order of its bag's ids; of more than it has positions, others are cut off. */
  readonly sparse: Readonly<Record<string, BagsInput>>;
}

export interface PredictOptions {
  /** Milliseconds from the call, above 0 and below 2^31; default that of the predictor. */
  readonly deadlineMs?: number;
  /** Aborting ends the request at once (code aborted), and cancels what was asked of shards. */
  readonly signal?: AbortSignal | null;
  /** Where requests wait for each other, those of a higher priority go first; default normal. */
  readonly priority?: Priority;
  /** Whose request it is: where requests wait, callers take turns. Default: one caller for all that name none. */
  readonly caller?: string;
}

/** From the one that goes first. */
export const PRIORITIES = ['high', 'normal', 'low'] as const;
/** @useDeclaredType */
export type Priority = (typeof PRIORITIES)[number];

/** How a predictor is opened, whether its tables are in this process or on shards. */
export interface PredictorOptions {
  /** full (default): lengths and checksums of all opened files; size: lengths, and the checksums of a sample of chunks. */
  readonly verify?: 'full' | 'size';
  /** How the tables of this process are held in memory; default populate. */
  readonly residency?: Residency;
  /** What the dense layers compute in; default fp32. `terabag predict --precision ... --compare` shows what others cost in accuracy. */
  readonly precision?: Precision;
  /** How a dense part that is an ONNX model is run. */
  readonly onnx?: OnnxOptions;
  /** Bytes of the tables of this process brought into memory, and checked. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Told when tables lie on small memory pages, which slows lookups, and what to do about it; default process.emitWarning. */
  readonly onWarning?: (message: string) => void;
  /** Of requests that name none, ms above 0 and below 2^31; default 100. */
  readonly deadlineMs?: number;
  /**
   * Requests beyond are refused as overloaded; default 1024. So are those beyond what can be answered by their deadlines, which is learnt from the
   * requests before: stats().concurrencyLimit.
   */
  readonly maxInFlight?: number;
  /** Bytes of the ids, vectors, dense rows and scores of all requests in flight, beyond which others are refused as overloaded; default 1 GiB. */
  readonly maxInFlightBytes?: number;
  /** Ends the opening (code aborted). Of no effect once the predictor is there. */
  readonly signal?: AbortSignal;
  /** Keeps what the stages of the latest requests took, here and on the shards; default nothing is measured. */
  readonly trace?: Tracer;
  /** Counts requests, and what their stages take, for /metrics. One meter measures one predictor. */
  readonly meter?: PredictorMeter;
}

export interface Prediction {
  /** [items, scoreDim] float32, row-major; owned by the caller. Not finite where the model's own rows or weights make it so. */
  readonly scores: Float32Array;
  readonly items: number;
  readonly scoreDim: number;
  /** Values of the further outputs that model.json names, by their names: [items, dim of the layer] each. Only where it names some. */
  readonly outputs?: Readonly<Record<string, Float32Array>>;
  readonly modelHash: string;
  /**
   * Only with onShardFailure 'default-embedding', and only when a shard gave no vectors: bags of missingTables, all or those of some
   * batches, were taken for empty, so that the scores are not those of the request.
   */
  readonly degraded?: true;
  /** By name, in the model's order; with degraded. */
  readonly missingTables?: readonly string[];
}

/** Whether requests can be answered now. */
export interface Readiness {
  readonly ready: boolean;
  /** Shards without a replica that serves this predictor's version, with the tables that they hold, or parts of; and why. */
  readonly missing: readonly { readonly shard: string; readonly tables: readonly string[]; readonly reason: string }[];
}

/**
 * What an application holds: local (all tables in this process) or sharded. Every call ends by its deadline with the right answer or a
 * TerabagError. The error of a request with several faults is that of the first in this order, whichever is found first: what the predictor
 * refuses (closed, deadline, abort, too many requests); names, shapes and values, in the model's order; the first id, by bag layer and position,
 * that its table does not have; then, batch by batch and round by round, main's own work, and the shards in the plan's order. So a failure of one
 * shard is told when the shards before it have answered, or at the deadline.
 */
export interface Predictor {
  readonly modelHash: string;
  /** What a server's page shows of it. @internal */
  readonly watched?: Watched;
  /** Names, dims and rules of what a request has to hold, and of the outputs. */
  readonly model: ResolvedModel;
  /** That it was opened with. */
  readonly meter?: PredictorMeter;
  predict(request: PredictRequest, options?: PredictOptions): Promise<Prediction>;
  /** A predictor that is not ready stays usable: requests wait for what is missing until their deadline. */
  readiness(): Readiness;
  /** Counts since it was opened; PREDICTOR_COUNTERS describes each. */
  stats(): PredictorStats;
  /**
   * Refuses new requests, and waits for those that run. A process without other work ends also without it; but for a sharded predictor where the
   * addon has no sockets (macOS, Windows), and those of zeromq.js wait for this call.
   */
  close(): Promise<void>;
}
