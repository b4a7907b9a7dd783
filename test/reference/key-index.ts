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

export const homeOf = (key: bigint, seed: number, homes: number): number =>
  Number((mix64((key & MASK) ^ BigInt(seed)) * BigInt(homes)) >> 64n);

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

export interface ReadIndex {
  readonly keys: number;
  readonly seed: number;
  readonly homes: number;
  /** Of each bucket: its keys with their rows, and where those lie that it has no room for. */
  readonly buckets: readonly { readonly entries: readonly (readonly [bigint, number])[]; readonly first: number; readonly last: number }[];
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
  const homes = Math.ceil((Number(keys) * 16) / 65);
  const buckets = Array.from({ length: header[tensor].shape[0] }, (_, b) => {
    const bucket = data.subarray(b * 64, (b + 1) * 64);
    const entries = Array.from(
      { length: bucket.readUInt8(60) },
      (_, slot) => [bucket.readBigUInt64LE(slot * 8), bucket.readUInt32LE(40 + slot * 4)] as const,
    );
    return { entries, first: bucket.readUInt8(61), last: bucket.readUInt8(62) };
  });
  const find = (key: bigint): number | null => {
    const home = homeOf(key, Number(seed), homes);
    const { first, last } = buckets[home] as ReadIndex['buckets'][number];
    const behind = first === 0 ? [] : Array.from({ length: last - first + 1 }, (_, n) => home + first + n);
    for (const b of [home, ...behind]) for (const [held, row] of buckets[b]?.entries ?? []) if (held === (key & MASK)) return row;
    return null;
  };
  return { keys: Number(keys), seed: Number(seed), homes, buckets, find };
}
