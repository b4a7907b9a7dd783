/**
 * How a record lies in memory: a header, then spans one after another, all doubles and as few as will do. Times are performance.now() in ms, 0
 * where nothing was stamped; durations that native code or a shard measured are in us.
 */
export const HEADER = { startedAt: 0, endedAt: 1, mainCpuUs: 2 } as const;
export const HEADER_LENGTH = 3;

/** How every span begins, and all that a phase has. what: see whatOf. */
export const SPAN = { what: 0, startedAt: 1, endedAt: 2 } as const;
export const PHASE_LENGTH = 3;
/** A job of the addon: the five that NativeDenseNet writes, or the three of NativeSparseEngine; onThread is 1 when it hopped. */
export const JOB = { queuedUs: 3, ranUs: 4, cpuUs: 5, interactionUs: 6, layersUs: 7, onThread: 8 } as const;
export const JOB_LENGTH = 9;
/**
 * shard: position in the plan. idle: what the event loop had slept in all by then, ms. stages: of the shard, in the order of SHARD_STAGES, when
 * there is receivedAt.
 */
export const RPC = { shard: 3, serializedAt: 4, sentAt: 5, receivedAt: 6, idleSent: 7, idleReceived: 8, stages: 9 } as const;
export const RPC_LENGTH = 16;

/** The main thread's own work, one phase at a time; in the order of KINDS. */
export const PHASES = ['admission', 'check', 'partition', 'place', 'finish'] as const;
export type PhaseKind = (typeof PHASES)[number];
/** Jobs of the addon: layers of a stage, and main's own tables. */
export const JOBS = ['dense', 'pool'] as const;
export type JobKind = (typeof JOBS)[number];

/** Kinds of spans are numbered through. */
export const KINDS = { admission: 0, check: 1, partition: 2, place: 3, finish: 4, dense: 5, pool: 6, rpc: 7 } as const satisfies Record<
  PhaseKind | JobKind | 'rpc',
  number
>;

const KINDS_END = 8;
const MOST_ROUNDS = 2 ** 16;
/** Kind, batch and round of a span in one double. round: of the RPCs, so that it is the net with rpc paper. */
export const whatOf = (kind: number, batch: number, round: number): number => kind + KINDS_END * (round + MOST_ROUNDS * batch);
export function readWhat(what: number): { kind: number; batch: number; round: number } {
  const place = Math.floor(what / KINDS_END);
  return { kind: what % KINDS_END, batch: Math.floor(place / MOST_ROUNDS), round: place % MOST_ROUNDS };
}
export const lengthOfSpan = (kind: number): number => (kind < KINDS.dense ? PHASE_LENGTH : kind < KINDS.rpc ? JOB_LENGTH : RPC_LENGTH);
