import type { Random } from '../../random.js';

/** What a choice needs to know of a replica. */
export interface Candidate {
  /** 0: takes requests; 1: only when no other of 0 does; and so on. Null: takes none. */
  tier(now: number): number | null;
  /** What a request would wait there: ms, of which only the order counts. */
  cost(now: number): number;
}

interface Choice<C> {
  readonly now: number;
  readonly random: Random;
  /** Not to be chosen. */
  readonly except: { has(candidate: C): boolean };
}

/**
 * Power of two choices (Mitzenmacher): of two candidates that are drawn by chance, the one with the lower cost. Loads become nearly as even as if all
 * were compared, and those who choose at the same time do not all choose the same. Only among candidates of the best tier; null when there are none.
 */
export function chooseReplica<C extends Candidate>(candidates: readonly C[], choice: Choice<C>): C | null {
  let best = Number.POSITIVE_INFINITY;
  let count = 0;
  for (const candidate of candidates) {
    const tier = tierOf(candidate, choice);
    if (tier < best) count = 0;
    if (tier <= best) count++;
    best = Math.min(best, tier);
  }
  if (best === Number.POSITIVE_INFINITY) return null;
  const first = Math.floor(choice.random() * count);
  const one = nth(candidates, first, best, choice);
  if (count === 1) return one;
  const other = nth(candidates, (first + 1 + Math.floor(choice.random() * (count - 1))) % count, best, choice);
  return other.cost(choice.now) < one.cost(choice.now) ? other : one;
}

const tierOf = <C extends Candidate>(candidate: C, { now, except }: Choice<C>): number =>
  except.has(candidate) ? Number.POSITIVE_INFINITY : (candidate.tier(now) ?? Number.POSITIVE_INFINITY);

function nth<C extends Candidate>(candidates: readonly C[], n: number, tier: number, choice: Choice<C>): C {
  let left = n;
  for (const candidate of candidates) if (tierOf(candidate, choice) === tier && left-- === 0) return candidate;
  throw new Error(`fewer candidates than counted: ${n}`);
}
