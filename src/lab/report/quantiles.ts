/** The smallest sample that at least the share q of all samples do not exceed (nearest rank). Samples are ascending and not empty. */
export function quantile(ascending: ArrayLike<number>, q: number): number {
  const rank = Math.max(1, Math.ceil(q * ascending.length));
  return ascending[Math.min(rank, ascending.length) - 1] as number;
}

export interface SampleSummary {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

/** In the unit of the samples. */
export function summarize(samples: readonly number[]): SampleSummary {
  const ascending = Float64Array.from(samples).sort();
  return {
    count: samples.length,
    p50: quantile(ascending, 0.5),
    p90: quantile(ascending, 0.9),
    p99: quantile(ascending, 0.99),
    max: quantile(ascending, 1),
  };
}
