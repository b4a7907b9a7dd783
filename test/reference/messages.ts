import { shardMessageParts } from '../../src/wire/codec.js';
import type { ShardMessage } from '../../src/wire/messages.js';

/** A shard's message as it comes in. */
export const encodeShardMessage = (message: ShardMessage): Buffer => Buffer.concat(shardMessageParts(message));
