import { shardMessageParts } from '../../src/rpc/codec.js';
import type { ShardMessage } from '../../src/rpc/messages.js';

/** A shard's message as it comes in. */
export const encodeShardMessage = (message: ShardMessage): Buffer => Buffer.concat(shardMessageParts(message));
