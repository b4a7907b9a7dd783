/** A bench suite: trials as data, one row of figures per trial. */
export interface Suite {
  readonly name: string;
  readonly description: string;
  /** What a figure means and its unit, by column. */
  readonly columns: Readonly<Record<string, string>>;
  run(options: SuiteOptions): AsyncGenerator<Row>;
}

export interface SuiteOptions {
  /** Smaller data and fewer rounds: shows that it works, not what it reaches. */
  readonly quick: boolean;
  /** A directory of its own for files, removed afterwards. */
  readonly dir: string;
}

export type Row = Readonly<Record<string, string | number>>;

export function median(samples: readonly number[]): number {
  const ascending = [...samples].sort((a, b) => a - b);
  const middle = ascending.length >> 1;
  return ascending.length % 2 === 1
    ? (ascending[middle] as number)
    : ((ascending[middle - 1] as number) + (ascending[middle] as number)) / 2;
}

/** Half the distance between the quartiles, relative to the median: the noise of a figure. */
export function relativeSpread(samples: readonly number[]): number {
  const ascending = [...samples].sort((a, b) => a - b);
  const quartile = (q: number): number => ascending[Math.round(q * (ascending.length - 1))] as number;
  return (quartile(0.75) - quartile(0.25)) / 2 / median(samples);
}

/** Nanoseconds of one call: repeats it until a round takes long enough for the clock. */
export function nanosecondsPerCall(call: () => void, roundMs: number): number {
  let calls = 0;
  const startedAt = process.hrtime.bigint();
  const until = startedAt + BigInt(Math.round(roundMs * 1e6));
  let now = startedAt;
  while (now < until) {
    call();
    calls++;
    now = process.hrtime.bigint();
  }
  return Number(now - startedAt) / calls;
}

/** Rounds in turn over all trials, so that a slow phase of the machine falls on each; returns the samples by trial. */
export function alternate(trials: readonly (() => void)[], rounds: number, roundMs: number): number[][] {
  const samples = trials.map((): number[] => []);
  for (let round = -1; round < rounds; round++) {
    trials.forEach((trial, index) => {
      const sample = nanosecondsPerCall(trial, roundMs);
      // The first round warms caches and the compiler up.
      if (round >= 0) samples[index]?.push(sample);
    });
  }
  return samples;
}
