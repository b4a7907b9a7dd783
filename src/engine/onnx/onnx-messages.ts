/** Between a predictor and the worker thread that runs its ONNX model. */

/** What a worker starts with. */
export interface OnnxTask {
  /** What is imported for onnxruntime-node. */
  readonly runtime: string;
  readonly model: Uint8Array;
  /** Of a RunFlag. */
  readonly flag: SharedArrayBuffer;
  /** Of one run. */
  readonly threads: number;
  /** Floats of a row of each dense feature, then of each bag and sequence, in the model's order. */
  readonly dims: readonly number[];
  readonly numDense: number;
  /** Numbers of the values that are sequences. */
  readonly sequences: readonly number[];
  readonly inputs: readonly OnnxInput[];
  readonly lengths: readonly OnnxLengths[];
  readonly outputs: readonly OnnxOutput[];
}

export interface OnnxInput {
  readonly name: string;
  /** Number of the value: dense features first, then bags and sequences. */
  readonly value: number;
  /** Of a row. */
  readonly shape: readonly number[];
  /** One row whatever the number of items. */
  readonly oneRow: boolean;
}

/** An input that gets the lengths of a sequence. */
export type OnnxLengths = Omit<OnnxInput, 'shape'>;

export interface OnnxOutput {
  readonly name: string;
  readonly dim: number;
}

/** The run of one batch. dense, pooled, lengths and output lie in shared memory. */
export interface OnnxRun {
  readonly job: number;
  readonly items: number;
  readonly perItem: Uint8Array;
  readonly dense: Float32Array;
  readonly pooled: Float32Array;
  /** Of each row of the sequences, in the model's order; null without sequences. */
  readonly lengths: Uint32Array | null;
  /** Gets a row for each item: the values of the outputs, one behind another. */
  readonly output: Float32Array;
}

export type ToWorker = { readonly kind: 'run'; readonly run: OnnxRun } | { readonly kind: 'close' };

export type FromWorker =
  | { readonly kind: 'opened' }
  /** runtime: the package is missing, or does not load; model: it refuses the model. */
  | { readonly kind: 'refused'; readonly what: 'missing' | 'runtime' | 'model'; readonly message: string }
  /** On the clock of process.hrtime, microseconds. */
  | { readonly kind: 'done'; readonly job: number; readonly startedUs: number; readonly endedUs: number }
  | { readonly kind: 'failed'; readonly job: number; readonly message: string };

/** The clock that threads of a process have in common, microseconds. */
export const sharedClockUs = (): number => Number(process.hrtime.bigint()) / 1000;
