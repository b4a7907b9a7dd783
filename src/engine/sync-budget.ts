/** ns. Jobs that are estimated below this run on the calling thread: a wake-up of another one costs 20 to 55 us, and the event loop may wait as long. */
export const SYNC_BUDGET_NS = 40_000;

/**
 * ns, on one thread. What a shard pools where it receives it, when nothing else waits there: its event loop serves nothing else, no user's code
 * runs on it, and handing over costs a wake-up, the code of the event loop, which is in no cache any more, and a copy of the answer. With a
 * quarter of it, P99 of DRM1 on 4 shards was 3 to 10 % higher: the largest requests take more than a millisecond of each shard.
 */
export const RECEIVER_BUDGET_NS = 4_000_000;
