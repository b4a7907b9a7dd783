/** One observation: how much of each unknown went into it, and what came out. */
export interface Observation {
  readonly amounts: readonly number[];
  readonly value: number;
  /** What an error is relative to, more than 0. */
  readonly scale: number;
}

const SWEEPS = 20_000;
const SETTLED = 1e-10;

/**
 * Values of 0 or more whose amounts sum up to the observed values with the least sum of squared relative errors: coordinate descent, which ends at an
 * optimum of this convex problem (Franc, Hlavac & Navara, 2005). An unknown that no observation has is 0.
 */
export function nonNegativeLeastSquares(observations: readonly Observation[]): number[] {
  const rows = observations.map(({ amounts, scale }) => amounts.map((amount) => amount / scale));
  const unknowns = rows[0]?.length ?? 0;
  const norms = Array.from({ length: unknowns }, (_, u) => rows.reduce((sum, row) => sum + (row[u] as number) ** 2, 0));
  const values = new Array<number>(unknowns).fill(0);
  const errors = observations.map(({ value, scale }) => value / scale);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    let largest = 0;
    for (let u = 0; u < unknowns; u++) {
      const norm = norms[u] as number;
      if (norm === 0) continue;
      const gradient = rows.reduce((sum, row, r) => sum + (row[u] as number) * (errors[r] as number), 0);
      const next = Math.max(0, (values[u] as number) + gradient / norm);
      const step = next - (values[u] as number);
      values[u] = next;
      rows.forEach((row, r) => {
        errors[r] = (errors[r] as number) - step * (row[u] as number);
      });
      largest = Math.max(largest, Math.abs(step) * Math.sqrt(norm));
    }
    if (largest < SETTLED) break;
  }
  return values;
}
