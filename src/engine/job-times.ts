/** Where a call of the addon says how long it took. */
export interface JobTimes {
  /** Gets what NativeSparseEngine and NativeDenseNet write, microseconds, from timesAt on; pooling on the calling thread takes as long as its call. */
  readonly times: Float64Array;
  readonly timesAt: number;
  /** Set by the call: whether it went to a thread of the addon. */
  onThread: boolean;
}
