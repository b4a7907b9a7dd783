/** ns. Jobs that are estimated below this run on the calling thread: a wake-up of another one costs 20 to 55 us, and the event loop may wait as long. */
export const SYNC_BUDGET_NS = 40_000;
