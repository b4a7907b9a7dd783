import type { Finding } from '../report/characterisation.js';
import { BATCH_FINDINGS } from './findings/batches.js';
import { COST_FINDINGS } from './findings/costs.js';
import { SHARD_FINDINGS } from './findings/shards.js';
import { TAIL_FINDINGS } from './findings/tail.js';
import type { Hypothesis, Judged } from './hypothesis.js';

export const HYPOTHESES: readonly Hypothesis[] = [...TAIL_FINDINGS, ...SHARD_FINDINGS, ...BATCH_FINDINGS, ...COST_FINDINGS];

/** Each hypothesis as held, not held or not measured on this machine, with the numbers that say so. */
export const evaluateFindings = (results: Judged): Finding[] =>
  HYPOTHESES.map(({ id, statement, judge }) => ({ id, statement, ...judge(results) }));
