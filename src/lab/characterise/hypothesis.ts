import type { Characterisation, Finding } from '../report/characterisation.js';

/** What a hypothesis comes to. held is null when what it needs was not measured. */
export type Verdict = Pick<Finding, 'held' | 'numbers'>;

/** What verdicts are made from. */
export type Judged = Pick<Characterisation, 'configurations' | 'overheads' | 'skipped'>;

/**
 * A hypothesis about scale-out inference, after what is recalled of Lui et al. (ISPASS 2021), with the rule that decides it on this machine.
 * Differences inside the spread of the rounds count as none (compareRatios).
 */
export interface Hypothesis {
  readonly id: string;
  readonly statement: string;
  readonly judge: (results: Judged) => Verdict;
}

/** Not measured: what is missing, or why it was skipped. */
export function notMeasured({ skipped }: Judged, experiment: string, missing: string): Verdict {
  const reason = skipped.find((each) => each.experiment === experiment)?.reason;
  return { held: null, numbers: reason === undefined ? `not measured: ${missing}` : `skipped: ${reason}` };
}
