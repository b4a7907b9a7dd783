import type { JobTimes } from './job-times.js';

/** Buffers of one request at a time, used again for the next. */
export type DenseWorkspace = object;

/** Whoever waits for a run. */
export interface Waiting {
  /** The request has ended: nobody wants the scores any more. */
  readonly over: boolean;
}

/**
 * What makes scores of dense features and pooled vectors: layers that the addon runs (DenseNet), or an ONNX model (OnnxNet). Stage 0 needs no
 * embeddings; the last one, 1 or more, gives the scores.
 */
export interface DensePart {
  readonly lastStage: number;
  /** Reads dense features and pooled vectors on another thread where they lie: they have to lie in shared memory. */
  readonly sharesInputs: boolean;
  createWorkspace(): DenseWorkspace;
  /**
   * Runs a stage: done on return (undefined), or when the promise settles; until then the buffers are the run's. perItem[i] is 1 when input i has
   * `items` rows, 0 when it has 1, 2 when it has one for each group of items; dense and pooled have the rows of dense features and of bags, one input after another; a sequence's row has
   * zeros behind its last position, and lengths says of each row of the sequences how many positions it has (null without sequences). output, of the
   * last stage: a row for each item, the values of all outputs one behind another. Measures itself when there is a job. What has not begun when the
   * request is over need not begin.
   */
  run(
    workspace: DenseWorkspace,
    stage: number,
    items: number,
    perItem: Uint8Array,
    dense: Float32Array,
    pooled: Float32Array | null,
    lengths: Uint32Array | null,
    output: Float32Array | null,
    job: JobTimes | null,
    request: Waiting,
    /** Items of each group, one after the other; never of an ONNX model. */
    groups: Uint32Array | null,
  ): Promise<void> | undefined;
  /** When no run is left. */
  close(): Promise<void>;
}
