import { readFileSync } from 'node:fs';

const MASK = (1n << 64n) - 1n;

/** The finalizer of splitmix64, by its definition. */
export function mix64(value: bigint): bigint {
  let z = value & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

/** The part that has a key, by its definition. */
export const partOf = (key: bigint, parts: number): number => Number(((mix64(key) & 0xffffffffn) * BigInt(parts)) >> 32n);

const product = (key: bigint, seed: number, homes: number): bigint => mix64((key & MASK) ^ BigInt(seed)) * BigInt(homes);

export const homeOf = (key: bigint, seed: number, homes: number): number => Number(product(key, seed, homes) >> 64n);

/** What a slot holds of a key: the low half of the product, without as many bits as homes has behind its highest. */
const remainderOf = (key: bigint, seed: number, homes: number): bigint => (product(key, seed, homes) & MASK) >> shiftOf(homes);
const shiftOf = (homes: number): bigint => BigInt(homes.toString(2).length - 1);

/** The key whose mix64 is this: what mix64 does, backwards. */
export function unmix64(value: bigint): bigint {
  const inverse = (odd: bigint): bigint => {
    let x = odd;
    for (let i = 0; i < 6; i++) x = (x * (2n - odd * x)) & MASK;
    return x & MASK;
  };
  const undo = (z: bigint, shift: bigint): bigint => z ^ (z >> shift) ^ (z >> (2n * shift));
  let z = undo(value & MASK, 31n);
  z = (z * inverse(0x94d049bb133111ebn)) & MASK;
  z = undo(z, 27n);
  z = (z * inverse(0xbf58476d1ce4e5b9n)) & MASK;
  return undo(z, 30n);
}

/** A slot that has a key. */
export interface ReadSlot {
  readonly remainder: bigint;
  readonly distance: number;
  readonly row: number;
}

export interface ReadIndex {
  readonly keys: number;
  readonly seed: number;
  readonly homes: number;
  /** Of each bucket: its slots, and how far behind it those of its keys lie that it has no room for. */
  readonly buckets: readonly { readonly slots: readonly ReadSlot[]; readonly reach: number }[];
  /** By docs/model-json.md. */
  find(key: bigint): number | null;
}

/** Reads an index file that holds nothing else, by docs/model-json.md. */
export function readIndex(path: string, tensor = 'keys'): ReadIndex {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE());
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes));
  const data = file.subarray(8 + headerBytes);
  const [, keys, seed] = /^terabag 1 keys (\d+) seed (\d+)$/.exec(header.__metadata__[`${tensor}.key_index`]) ?? [];
  const homes = Math.max(16, Math.ceil((Number(keys) * 16) / 65));
  const shift = shiftOf(homes);
  const buckets = Array.from({ length: header[tensor].shape[0] }, (_, b) => {
    const bucket = data.subarray(b * 64, (b + 1) * 64);
    const slots = [0, 1, 2, 3, 4, 5, 6].map((slot): ReadSlot => {
      const word = bucket.readBigUInt64LE(slot * 8);
      const lowRow = word % 2n ** (shift - 4n);
      const row = lowRow + (BigInt(bucket.readUInt8(56 + slot)) << (shift - 4n));
      return { remainder: word >> shift, distance: Number((word >> (shift - 4n)) % 16n), row: Number(row) };
    });
    return { slots: slots.filter(({ distance }) => distance !== 15), reach: bucket.readUInt8(63) };
  });
  const find = (key: bigint): number | null => {
    const home = homeOf(key, Number(seed), homes);
    const remainder = remainderOf(key, Number(seed), homes);
    for (let distance = 0; distance <= (buckets[home]?.reach ?? 0); distance++) {
      const found = buckets[home + distance]?.slots.find((slot) => slot.remainder === remainder && slot.distance === distance);
      if (found !== undefined) return found.row;
    }
    return null;
  };
  return { keys: Number(keys), seed: Number(seed), homes, buckets, find };
}
