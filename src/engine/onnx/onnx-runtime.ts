/** The part of onnxruntime-node that is used here. The package is an optional peer, so its own types may be missing. */
export interface OnnxRuntime {
  readonly InferenceSession: {
    create(model: Uint8Array, options: SessionOptions): Promise<OnnxSession>;
  };
  readonly Tensor: new (type: 'float32' | 'int64', data: Float32Array | BigInt64Array, dims: readonly number[]) => OnnxTensor;
}

export interface SessionOptions {
  readonly intraOpNumThreads: number;
  readonly interOpNumThreads: number;
  readonly executionMode: 'sequential';
  readonly graphOptimizationLevel: 'all';
  readonly logSeverityLevel: 0 | 1 | 2 | 3 | 4;
  readonly extra: Readonly<Record<string, unknown>>;
}

export interface OnnxTensor {
  readonly type: string;
  readonly data: ArrayLike<number>;
  readonly dims: readonly number[];
}

export interface OnnxSession {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  run(feeds: Readonly<Record<string, OnnxTensor>>, fetches: readonly string[]): Promise<Readonly<Record<string, OnnxTensor>>>;
  release(): Promise<void>;
}

/** Loads onnxruntime-node, or what stands for it. */
export async function loadOnnxRuntime(specifier: string): Promise<OnnxRuntime> {
  const module = (await import(specifier)) as { readonly default: OnnxRuntime };
  return module.default;
}

export const sessionOptions = (threads: number): SessionOptions => ({
  intraOpNumThreads: threads,
  interOpNumThreads: 1,
  executionMode: 'sequential',
  graphOptimizationLevel: 'all',
  // All that matters is thrown, too.
  logSeverityLevel: 4,
  // Threads that spin between operators would take the cores from pooling and from the event loop.
  extra: { session: { intra_op: { allow_spinning: '0' } } },
});
