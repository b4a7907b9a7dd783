/** Ids of one embedding bag layer: any integer array. 64-bit ids may be bigint. */
export type Indices = Int32Array | Uint32Array | BigInt64Array | readonly (number | bigint)[];

/** Bag b is indices[offsets[b] .. offsets[b + 1]); offsets has B + 1 entries, starts at 0 and ends at indices.length. */
export interface BagsInput {
  readonly indices: Indices;
  readonly offsets: Int32Array | Uint32Array | readonly number[];
  /** One per index; required by a weighted bag, refused by others. */
  readonly weights?: Float32Array | readonly number[];
}

/**
 * One request: N candidate items for one user. A dense feature has dim numbers (the same for all items) or N x dim, row-major;
 * a bag layer gets 1 bag (of the user, pooled and sent once) or N.
 * All arrays are copied before predict() returns its promise: the caller may change, reuse or transfer them at once.
 */
export interface PredictRequest {
  /** N; when left out, the largest number of rows or bags given. */
  readonly items?: number;
  readonly dense: Readonly<Record<string, Float32Array | readonly number[]>>;
  /** By name of the embedding bag layer. */
  readonly sparse: Readonly<Record<string, BagsInput>>;
}

export interface PredictOptions {
  /** From the call; default 1000. */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal;
}

export interface Prediction {
  /** [items, scoreDim] float32, row-major; owned by the caller. */
  readonly scores: Float32Array;
  readonly items: number;
  readonly scoreDim: number;
  readonly modelHash: string;
}

/** What an application holds: local (all tables in this process) or sharded. Every call ends by its deadline with the right answer or a TerabagError. */
export interface Predictor {
  readonly modelHash: string;
  predict(request: PredictRequest, options?: PredictOptions): Promise<Prediction>;
  /**
   * Counts of requests since it was opened. A local predictor adds tableBytes, and of these residentBytes, hugePageBytes and lockedBytes as they
   * were after opening, where the system tells.
   */
  stats(): Readonly<Record<string, number>>;
  close(): Promise<void>;
}
