import type { SparseBatch } from '../engine/sparse-batch.js';

/**
 * What travels between main shard and sparse shard: one msgpack array per message, [version, kind, ...fields].
 * Tensors are little-endian binaries of any alignment. No sockets here.
 */
export const WIRE_VERSION = 2;

export type ShardState = 'ready' | 'draining';

export type ClientMessage =
  /** Opens a connection: which model the main shard serves. */
  | { readonly kind: 'hello'; readonly modelHash: string }
  /** remainingMs: what is left of the deadline when it was sent. timed: whether the answer is to say what its stages took. */
  | { readonly kind: 'pool'; readonly id: number; readonly remainingMs: number; readonly batch: SparseBatch; readonly timed: boolean }
  | { readonly kind: 'ping'; readonly id: number }
  | { readonly kind: 'stats'; readonly id: number };

export interface ShardStats {
  readonly shard: string;
  readonly model: string;
  readonly state: ShardState;
  readonly uptimeMs: number;
  readonly requests: number;
  readonly errors: number;
  readonly malformed: number;
  readonly expired: number;
  readonly undeliverable: number;
  readonly inFlight: number;
  readonly cpuUserUs: number;
  readonly cpuSystemUs: number;
  readonly rssBytes: number;
  /** Of the shard's rows. */
  readonly tableBytes: number;
  /** Of these: in memory, mapped by 2 MiB pages, locked. Measured in the seconds before; null where the system does not tell. */
  readonly residentBytes: number | null;
  readonly hugePageBytes: number | null;
  readonly lockedBytes: number | null;
}

/**
 * Microseconds of a shard's work on one message, one stage after another; together they are its service. dispatch: checks, and memory for the
 * answer; queue: until a thread of the addon begins; handBack: until the event loop goes on. Apart from these, poolCpu is pooling's CPU time.
 * What waited in the socket before it was received is not in them: main takes it for network.
 */
export const SHARD_STAGES = ['deserializeUs', 'dispatchUs', 'queueUs', 'poolUs', 'handBackUs', 'serializeUs', 'poolCpuUs'] as const;
export type ShardStage = (typeof SHARD_STAGES)[number];
/** Where each stands among them. */
export const STAGE_SLOTS = {
  deserializeUs: 0,
  dispatchUs: 1,
  queueUs: 2,
  poolUs: 3,
  handBackUs: 4,
  serializeUs: 5,
  poolCpuUs: 6,
} as const satisfies Record<ShardStage, number>;

export type ShardMessage =
  | { readonly kind: 'welcome'; readonly shard: string; readonly modelHash: string; readonly state: ShardState }
  /**
   * pooled: [bags, dim] float32 per segment, one after another. serviceUs: from receive to reply, on the shard's clock. stages: in the order of
   * SHARD_STAGES, when asked for.
   */
  | {
      readonly kind: 'pooled';
      readonly id: number;
      readonly serviceUs: number;
      readonly pooled: Uint8Array;
      readonly stages: ArrayLike<number> | null;
    }
  | {
      readonly kind: 'error';
      readonly id: number;
      readonly code: string;
      readonly message: string;
      readonly details: Readonly<Record<string, string | number | boolean>>;
    }
  | { readonly kind: 'pong'; readonly id: number; readonly state: ShardState }
  | { readonly kind: 'stats'; readonly id: number; readonly stats: ShardStats };
