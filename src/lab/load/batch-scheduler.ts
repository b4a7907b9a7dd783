import { TerabagError } from '../../errors.js';

/** What a batch size reaches: the highest rate under the bound, 0 when it meets it at none, or was not measured before the signal. */
export interface BatchSize {
  readonly items: number;
  readonly qps: number;
}

export interface BatchSchedule {
  readonly best: BatchSize;
  /** All sizes that were measured, ascending. */
  readonly measured: readonly BatchSize[];
}

export interface BatchScheduleOptions {
  /** Requests at a given batch size, so many a second; measured once per size. */
  readonly measure: (items: number) => Promise<number>;
  /** Largest number of items of a request: a batch of that size is the whole request. */
  readonly mostItems: number;
  /** Where the climb starts; default 64. */
  readonly firstItems?: number;
  /** Sizes within this ratio of each other are not told apart; default 1.15. */
  readonly closest?: number;
  readonly signal?: AbortSignal;
}

const DEFAULT_FIRST = 64;
const DEFAULT_CLOSEST = 1.15;

/**
 * Finds the number of items per batch that gives the most requests a second under the bound. Small batches of a request run side by side, large ones
 * pay for fewer messages and calls: between them lies one optimum, which DeepRecSys (Gupta et al., ISCA 2020) finds by hill climbing.
 * Powers of two first, in the direction that rises; then the gaps beside the best, halved until sizes are close.
 */
export async function scheduleBatches(options: BatchScheduleOptions): Promise<BatchSchedule> {
  const { mostItems, closest = DEFAULT_CLOSEST, signal } = options;
  if (!Number.isInteger(mostItems) || mostItems < 1)
    throw new TerabagError('invalid_argument', `mostItems has to be an integer, 1 or more: ${mostItems}`, { field: 'mostItems' });
  const measured = new Map<number, number>();
  const qpsOf = async (items: number): Promise<number> => {
    const known = measured.get(items);
    if (known !== undefined || signal?.aborted) return known ?? 0;
    const qps = await options.measure(items);
    // Cut short, it says nothing.
    if (signal?.aborted) return 0;
    measured.set(items, qps);
    return qps;
  };
  let best = Math.min(mostItems, powerOfTwoBelow(options.firstItems ?? DEFAULT_FIRST));
  await qpsOf(best);
  for (const next of [(items: number) => Math.min(mostItems, items * 2), (items: number) => Math.max(1, powerOfTwoBelow(items - 1))]) {
    const before = best;
    for (let items = next(best); items !== best && (await qpsOf(items)) > (await qpsOf(best)); items = next(best)) best = items;
    // One direction rises at most.
    if (best !== before) break;
  }
  for (let step = Math.SQRT2; step >= closest; step = Math.sqrt(step)) {
    const beside = [Math.round(best / step), Math.min(mostItems, Math.round(best * step))].filter((items) => items >= 1);
    for (const items of beside) if ((await qpsOf(items)) > (await qpsOf(best))) best = items;
  }
  const ascending = [...measured].map(([items, qps]) => ({ items, qps })).sort((a, b) => a.items - b.items);
  return { best: { items: best, qps: measured.get(best) ?? 0 }, measured: ascending };
}

const powerOfTwoBelow = (items: number): number => 2 ** Math.floor(Math.log2(Math.max(1, items)));
