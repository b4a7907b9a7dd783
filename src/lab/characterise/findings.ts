import type { Finding } from '../report/characterisation.js';
import { BATCH_FINDINGS } from './findings/batches.js';
import { COST_FINDINGS } from './findings/costs.js';
import { SHARD_FINDINGS } from './findings/shards.js';
import { TAIL_FINDINGS } from './findings/tail.js';
import type { Hypothesis, Judged, Verdict } from './hypothesis.js';

const HYPOTHESES: readonly Hypothesis[] = [...TAIL_FINDINGS, ...SHARD_FINDINGS, ...BATCH_FINDINGS, ...COST_FINDINGS];

/** Judges by ratios that have a spread: in a single round any difference would look like one. */
function verdictOf({ judge }: Hypothesis, results: Judged): Verdict {
  const verdict = judge({ ...results, overheads: results.overheads.filter(({ pairs }) => pairs > 1) });
  const ofAll = judge(results);
  if (verdict.held !== null || ofAll.held === null) return verdict;
  return { held: null, numbers: `not measured: one round has no spread to tell differences by; ${ofAll.numbers}` };
}

/** Each hypothesis as held, not held or not measured on this machine, with the numbers that say so. */
export const evaluateFindings = (results: Judged): Finding[] =>
  HYPOTHESES.map((hypothesis) => ({ id: hypothesis.id, statement: hypothesis.statement, ...verdictOf(hypothesis, results) }));
