import type { SparseBatch } from '../engine/sparse-batch.js';
import type { ShardStats } from './shard-stats.js';
import type { ServedVersion } from './version.js';

/**
 * What travels between main shard and sparse shard: one msgpack array per message, [version, kind, ...fields].
 * Tensors are little-endian binaries of any alignment. No sockets here.
 */
export const WIRE_VERSION = 5;

export type ShardState = 'ready' | 'draining';

/** sentAtMs, of all that ask for something: main's monotonic clock when the message was sent, of which the shard knows only differences. */
export type ClientMessage =
  /** Opens a connection: what the main shard serves, and the kernels that it runs, on which bits depend. */
  | { readonly kind: 'hello'; readonly sentAtMs: number; readonly version: ServedVersion; readonly kernels: string }
  /**
   * stamp: of the version that has to answer. remainingMs: what is left of the deadline when it was sent. timed: whether the answer is to say what its
   * stages took.
   */
  | {
      readonly kind: 'pool';
      readonly id: number;
      readonly stamp: Uint8Array;
      readonly sentAtMs: number;
      readonly remainingMs: number;
      readonly batch: SparseBatch;
      readonly timed: boolean;
    }
  /** Nobody waits for the answer of this request to pool any more. It has no answer. */
  | { readonly kind: 'cancel'; readonly id: number }
  | { readonly kind: 'ping'; readonly id: number; readonly sentAtMs: number }
  | { readonly kind: 'stats'; readonly id: number };

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
  | {
      readonly kind: 'welcome';
      readonly shard: string;
      readonly version: ServedVersion;
      readonly kernels: string;
      readonly state: ShardState;
    }
  /**
   * stamp: of the version that the rows are of. pooled: [bags, dim] float32 per segment, one after another. serviceUs: from receive to reply, on the
   * shard's clock. checksum: answerChecksum of id, stamp and pooled. stages: in the order of SHARD_STAGES, when asked for.
   */
  | {
      readonly kind: 'pooled';
      readonly id: number;
      readonly stamp: Uint8Array;
      readonly serviceUs: number;
      readonly pooled: Uint8Array;
      readonly checksum: number;
      readonly stages: ArrayLike<number> | null;
    }
  /**
   * id 0: of a message that had none. This layout is the same in every version, and its version is that of the peer, so that peers of other
   * versions can be told why they get nothing else (code version_mismatch).
   */
  | {
      readonly kind: 'error';
      readonly id: number;
      readonly code: string;
      readonly message: string;
      readonly details: Readonly<Record<string, string | number | boolean>>;
    }
  /** inFlight: requests that wait on the shard or are pooled. */
  | { readonly kind: 'pong'; readonly id: number; readonly stamp: Uint8Array; readonly state: ShardState; readonly inFlight: number }
  | { readonly kind: 'stats'; readonly id: number; readonly stamp: Uint8Array; readonly stats: ShardStats };
