import { native } from '../../src/engine/native.js';
import { shardMessageParts } from '../../src/rpc/codec.js';
import type { ShardMessage } from '../../src/rpc/messages.js';
import { type ServedVersion, stampOf } from '../../src/rpc/version.js';

/** A shard's message as it comes in. */
export const encodeShardMessage = (message: ShardMessage): Buffer => Buffer.concat(shardMessageParts(message));

/** A version of no model. */
export const SERVED: ServedVersion = { modelHash: 'ab'.repeat(32), planHash: 'cd'.repeat(32), epoch: 3 };
export const STAMP = stampOf(SERVED);

type Pooled = Extract<ShardMessage, { kind: 'pooled' }>;

/** The answer of a shard that pooled these vectors. */
export function pooledAnswer(
  { id, stamp }: { readonly id: number; readonly stamp: Uint8Array },
  pooled: Uint8Array,
  stages: Pooled['stages'] = null,
): Pooled {
  return { kind: 'pooled', id, stamp, serviceUs: 1, pooled, checksum: native.answerChecksum(id, stamp, pooled), stages };
}
