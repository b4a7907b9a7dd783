import { native } from '../../src/engine/native.js';
import { shardMessageParts } from '../../src/rpc/codec.js';
import type { ShardMessage } from '../../src/rpc/messages.js';
import type { ShardStats } from '../../src/rpc/shard-stats.js';
import { type ServedVersion, stampOf } from '../../src/rpc/version.js';

/** A shard's message as it comes in. */
export const encodeShardMessage = (message: ShardMessage): Buffer => Buffer.concat(shardMessageParts(message));

/** A version of no model. */
export const SERVED: ServedVersion = { modelHash: 'ab'.repeat(32), planHash: 'cd'.repeat(32), epoch: 3 };
export const STAMP = stampOf(SERVED);

/** What a shard says of itself, without a residency that is known. */
export const STATS: ShardStats = {
  ...{
    shard: 'shard-0',
    model: 'abc',
    plan: 'def',
    epoch: 3,
    kernels: 'avx2:1',
    state: 'ready',
    uptimeMs: 1,
    requests: 2,
    errors: 0,
    malformed: 0,
    expired: 0,
  },
  ...{
    skew: 0,
    overloaded: 0,
    inFlightBytes: 5,
    cancelled: 0,
    abandoned: 0,
    undeliverable: 0,
    connections: 1,
    strangers: 0,
    cut: 0,
    inFlight: 0,
    unseen: { items: 3 },
    cpuUserUs: 5,
    cpuSystemUs: 6,
    rssBytes: 7,
    replacedFiles: 0,
    tableBytes: 0,
  },
  ...{ residentBytes: null, hugePageBytes: null, lockedBytes: null },
};

type Pooled = Extract<ShardMessage, { kind: 'pooled' }>;

/** The answer of a shard that pooled these vectors. */
export function pooledAnswer(
  { id, stamp }: { readonly id: number; readonly stamp: Uint8Array },
  pooled: Uint8Array,
  stages: Pooled['stages'] = null,
): Pooled {
  return { kind: 'pooled', id, stamp, serviceUs: 1, pooled, checksum: native.answerChecksum(id, stamp, pooled), stages };
}
