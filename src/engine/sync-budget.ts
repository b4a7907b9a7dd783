import { availableParallelism } from 'node:os';

/** A wake-up of another thread costs 20 to 55 us. */
const SEVERAL_CORES_NS = 40_000;
/** The kernel lets a thread run this long before another of the same core: on one core the event loop waits as long for a job elsewhere. */
const ONE_CORE_NS = 3_000_000;

/** Jobs that are estimated below this run on the calling thread: a hop to another one wins less than it costs. */
export const syncBudgetNs = (cores: number = availableParallelism()): number => (cores > 1 ? SEVERAL_CORES_NS : ONE_CORE_NS);
