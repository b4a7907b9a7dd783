/**
 * How a record lies in memory: a header, then spans one after another, all doubles. Times are performance.now() in ms, 0 where nothing was
 * stamped; durations that native code or a shard measured are in us. end: where the next span starts.
 */
export const HEADER = { number: 0, startedAt: 1, endedAt: 2, items: 3, end: 4, lostSpans: 5, mainCpuUs: 6, alone: 7 } as const;
export const HEADER_LENGTH = 8;

/** How every span begins, and all that a phase has. round: of the RPCs, so that it is the net with rpc paper. */
export const SPAN = { kind: 0, batch: 1, round: 2, startedAt: 3, endedAt: 4 } as const;
export const PHASE_LENGTH = 5;
/** Of a job of the addon: the five that NativeDenseNet writes, or the three of NativeSparseEngine; onThread is 1 when it hopped. */
export const JOB = { queuedUs: 5, ranUs: 6, cpuUs: 7, interactionUs: 8, layersUs: 9, onThread: 10 } as const;
export const JOB_LENGTH = 11;
/**
 * shard: position in the plan. idle: what the event loop had slept in all by then, ms. stages: of the shard, in the order of SHARD_STAGES, when
 * there is receivedAt.
 */
export const RPC = { shard: 5, serializedAt: 6, sentAt: 7, receivedAt: 8, idleSent: 9, idleReceived: 10, stages: 11 } as const;
export const RPC_LENGTH = 18;

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
export const lengthOfSpan = (kind: number): number => (kind < KINDS.dense ? PHASE_LENGTH : kind < KINDS.rpc ? JOB_LENGTH : RPC_LENGTH);
