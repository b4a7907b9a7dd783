/** ns. Jobs that are estimated below this run on the calling thread: a wake-up of another one costs 20 to 55 us, and the event loop may wait as long. */
export const SYNC_BUDGET_NS = 40_000;

/**
 * ns, on one thread. What a shard pools where it receives it, when nothing else waits there: its event loop serves nothing else, no user's code
 * runs on it, and handing over costs a wake-up, the code of the event loop, which is in no cache any more, and a copy of the answer.
 */
export const RECEIVER_BUDGET_NS = 1_000_000;
