import { native } from '../../src/engine/native.js';
import { decodeShardMessage, shardMessageParts } from '../../src/rpc/codec.js';
import type { ShardMessage } from '../../src/rpc/messages.js';
import type { SeededRandom } from './random.js';

type Pooled = Extract<ShardMessage, { kind: 'pooled' }>;

/** Bits that are flipped at most. CRC-32C finds any odd number of them, and so few of any kind in messages of this length. */
const MOST_FLIPPED = 3;

const encode = (message: ShardMessage): Uint8Array => new Uint8Array(Buffer.concat(shardMessageParts(message)));

/** With a checksum that is right: what lies is not the line, but the shard. */
const signed = (answer: Pooled): Uint8Array =>
  encode({ ...answer, checksum: native.answerChecksum(answer.id, answer.stamp, answer.pooled) });

function pooledOf(message: Uint8Array): Pooled | null {
  const decoded = decodeShardMessage(Uint8Array.from(message));
  return decoded.kind === 'pooled' ? decoded : null;
}

/** What an answer is turned into. None of these may be taken for what was asked for. */
const LIES: readonly ((message: Uint8Array, random: SeededRandom, others: readonly Uint8Array[]) => Uint8Array | null)[] = [
  function flipBits(message, random) {
    const flipped = Uint8Array.from(message);
    for (let bit = 1 + random.below(MOST_FLIPPED); bit > 0; bit--) flipped[random.below(flipped.length)]! ^= 1 << random.below(8);
    return flipped;
  },
  function cut(message, random) {
    return message.slice(0, random.below(message.length));
  },
  function garbage(message, random) {
    return Uint8Array.from(message, () => random.uint32());
  },
  function lose() {
    return null;
  },
  /** Vectors of another request under this one's id. */
  function vectorsOfAnother(message, random, others) {
    const [mine, theirs] = [pooledOf(message), pooledOf(random.pick(others))];
    if (mine === null || theirs === null || mine.id === theirs.id) return message;
    return encode({ ...mine, pooled: theirs.pooled, checksum: theirs.checksum });
  },
  /** This one's vectors under another id, which may be in flight. */
  function idOfAnother(message, random, others) {
    const [mine, theirs] = [pooledOf(message), pooledOf(random.pick(others))];
    if (mine === null || theirs === null || mine.id === theirs.id) return message;
    return encode({ ...mine, id: theirs.id });
  },
  /** Another version, which has other rows. */
  function otherVersion(message, random) {
    const mine = pooledOf(message);
    if (mine === null) return message;
    const [stamp, pooled] = [Uint8Array.from(mine.stamp), Uint8Array.from(mine.pooled)];
    stamp[random.below(stamp.length)]! ^= 1 + random.below(255);
    return signed({ ...mine, stamp, pooled: pooled.fill(0x40) });
  },
  function otherLength(message, random) {
    const mine = pooledOf(message);
    if (mine === null) return message;
    const floats = random.below(mine.pooled.byteLength / 2);
    if (floats * 4 === mine.pooled.byteLength) return null;
    return signed({ ...mine, pooled: new Uint8Array(floats * 4) });
  },
  function unknownError(message) {
    const mine = pooledOf(message);
    return mine === null ? message : encode({ kind: 'error', id: mine.id, code: 'because', message: 'the shard says so', details: {} });
  },
];

/** An answer as a false shard, or a broken line, gives it; null when it gives none. */
export const falsify = (message: Uint8Array, random: SeededRandom, others: readonly Uint8Array[]): Uint8Array | null =>
  random.pick(LIES)(message, random, others);
