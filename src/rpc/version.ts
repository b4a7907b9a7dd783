/** What a process serves: one version of a model, placed by one plan. A request is answered by one of them on all shards, or not at all. */
export interface ServedVersion {
  /** SHA-256, in hexadecimal digits. */
  readonly modelHash: string;
  /** Of what a plan places where; see planHashOf. */
  readonly planHash: string;
  /** The plan's number among those that one deployment had. */
  readonly epoch: number;
}

export const STAMP_BYTES = 24;
const HASH_BYTES = 8;

/**
 * What stands for a version in each message that asks for vectors or answers: the first 8 bytes of both hashes, and the epoch as uint64,
 * little-endian. It tells versions apart; who made a message, it does not.
 */
export function stampOf({ modelHash, planHash, epoch }: ServedVersion): Uint8Array {
  const stamp = Buffer.alloc(STAMP_BYTES);
  stamp.write(modelHash.slice(0, 2 * HASH_BYTES), 0, 'hex');
  stamp.write(planHash.slice(0, 2 * HASH_BYTES), HASH_BYTES, 'hex');
  stamp.writeBigUInt64LE(BigInt(epoch), 2 * HASH_BYTES);
  return stamp;
}

export function sameStamp(one: Uint8Array, other: Uint8Array): boolean {
  for (let at = 0; at < STAMP_BYTES; at++) if (one[at] !== other[at]) return false;
  return one.byteLength === STAMP_BYTES && other.byteLength === STAMP_BYTES;
}

/** A version as errors and logs name it. */
export const shownVersion = ({ modelHash, planHash, epoch }: ServedVersion): string =>
  `epoch ${epoch}, model ${modelHash.slice(0, 12)}, plan ${planHash.slice(0, 12)}`;

/** What a stamp tells of its version. */
export function shownStamp(stamp: Uint8Array): string {
  const bytes = Buffer.from(stamp.buffer, stamp.byteOffset, stamp.byteLength);
  const [model, plan] = [bytes.toString('hex', 0, HASH_BYTES), bytes.toString('hex', HASH_BYTES, 2 * HASH_BYTES)];
  return `epoch ${bytes.readBigUInt64LE(2 * HASH_BYTES)}, model ${model.slice(0, 12)}, plan ${plan.slice(0, 12)}`;
}

export const sameVersion = (one: ServedVersion, other: ServedVersion): boolean =>
  one.modelHash === other.modelHash && one.planHash === other.planHash && one.epoch === other.epoch;
