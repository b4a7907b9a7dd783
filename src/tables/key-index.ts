/**
 * The file of a key index: which row a 64-bit key has. docs/model-json.md describes it, native/kernels/key_index.h reads it, writeKeyIndex of
 * src/engine/key-index.ts writes it.
 */
export const BUCKET_BYTES = 64;
/** Most keys of a bucket. */
export const BUCKET_KEYS = 7;
/** Rows are 32 bits there. */
export const MAX_KEYS = 2 ** 32;
/** How far behind its home a key may lie, in buckets. */
const MAX_REACH = 14;
/** Of which a key's place and its row take the bits that a slot has. */
const FEWEST_HOMES = 16;

/** Buckets that are homes: 16 for 65 keys. */
export const homesOf = (keys: number): number => Math.max(FEWEST_HOMES, Math.ceil((keys * 16) / 65));

/** Whether an index of so many keys can have so many buckets. */
export const soundBuckets = (keys: number, buckets: number): boolean =>
  keys >= 1 && keys <= MAX_KEYS && buckets >= homesOf(keys) && buckets - homesOf(keys) <= MAX_REACH;

/** What the __metadata__ of a file says of an index, under keyIndexKey of its tensor. */
export interface KeyIndexMetadata {
  readonly keys: number;
  readonly seed: number;
}

export const keyIndexKey = (tensor: string): string => `${tensor}.key_index`;

export const formatKeyIndex = ({ keys, seed }: KeyIndexMetadata): string => `terabag 1 keys ${keys} seed ${seed}`;

/** Null when it is of another version, or no such text. */
export function parseKeyIndex(text: string | undefined): KeyIndexMetadata | null {
  const [, keys, seed] = /^terabag 1 keys (\d{1,10}) seed (\d{1,15})$/.exec(text ?? '') ?? [];
  return keys === undefined ? null : { keys: Number(keys), seed: Number(seed) };
}

/** High 32 bits of a product of two unsigned 32-bit integers. */
function highProduct(a: number, b: number): number {
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (middle & 0xffff);
  return a1 * b1 + (middle >>> 16) + (other >>> 16);
}

const [C1_HIGH, C1_LOW] = [0xbf58476d, 0x1ce4e5b9];
const [C2_HIGH, C2_LOW] = [0x94d049bb, 0x133111eb];

/**
 * The part of a table that is split over so many that has a key, given as the halves of its 64 bits: the low half of mix64(key), as a fraction of
 * 2^32, times parts. The same as part_of of native/kernels/key_index.h, in numbers that a double holds exactly.
 */
export function partOfKey(high: number, low: number, parts: number): number {
  let lo = low ^ ((low >>> 30) | (high << 2));
  let hi = high ^ (high >>> 30);
  hi = highProduct(lo, C1_LOW) + Math.imul(lo, C1_HIGH) + Math.imul(hi, C1_LOW);
  lo = Math.imul(lo, C1_LOW);
  lo ^= (lo >>> 27) | (hi << 5);
  hi = (hi | 0) ^ ((hi | 0) >>> 27);
  hi = highProduct(lo, C2_LOW) + Math.imul(lo, C2_HIGH) + Math.imul(hi, C2_LOW);
  lo = Math.imul(lo, C2_LOW);
  lo ^= (lo >>> 31) | (hi << 1);
  return Math.floor(((lo >>> 0) * parts) / 2 ** 32);
}

/** The part of each key. */
export function partsOfKeys(keys: BigInt64Array, parts: number, into: Uint32Array): void {
  const halves = new Int32Array(keys.buffer, keys.byteOffset, keys.length * 2);
  for (let k = 0; k < keys.length; k++) into[k] = partOfKey(halves[2 * k + 1] as number, halves[2 * k] as number, parts);
}
