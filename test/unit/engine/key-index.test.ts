import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { type KeyIndexOptions, writeKeyIndex } from '../../../src/engine/key-index.js';
import { native } from '../../../src/engine/native.js';
import { formatKeyIndex, homesOf, parseKeyIndex, partOfKey, soundBuckets } from '../../../src/tables/key-index.js';
import { readSafetensorsHeader, type TensorInfo } from '../../../src/tables/safetensors.js';
import { homeOf, mix64, partOf, readIndex, unmix64 } from '../../reference/key-index.js';

const dir = mkdtempSync(join(tmpdir(), 'terabag-keys-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let files = 0;
const newPath = (): string => join(dir, `index-${files++}.safetensors`);

const LOW = (1n << 32n) - 1n;
const halves = (key: bigint): [number, number] => [Number((key >> 32n) & LOW) | 0, Number(key & LOW) | 0];

/** Blocks of these lengths, over and over, in one buffer that is used again. */
function* inBlocks(keys: readonly bigint[], lengths: readonly number[]): Generator<BigUint64Array> {
  const buffer = new BigUint64Array(Math.max(...lengths));
  for (let at = 0, n = 0; at < keys.length; n++) {
    const block = keys.slice(at, at + (lengths[n % lengths.length] as number));
    buffer.set(block);
    yield buffer.subarray(0, block.length);
    at += block.length;
  }
}

const write = (keys: readonly bigint[], more: Partial<KeyIndexOptions> = {}, path = newPath()): Promise<string> =>
  writeKeyIndex(path, { rows: keys.length, keys: inBlocks(keys, [1000]), ...more }).then(() => path);

const anyKey = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.bigInt({ min: 0n, max: 200n }),
  fc.bigInt({ min: 2n ** 63n - 3n, max: 2n ** 63n + 3n }),
  fc.constantFrom(0n, 1n, 2n ** 64n - 1n, 2n ** 63n, 2n ** 63n - 1n),
);
const anyKeys = fc.uniqueArray(anyKey, { minLength: 1, maxLength: 600 });

describe('a key index', () => {
  it('finds every key as a Map does, and no other, whatever the blocks and the memory', async () => {
    await fc.assert(
      fc.asyncProperty(
        anyKeys,
        fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 4 }),
        fc.array(anyKey, { maxLength: 50 }),
        fc.integer({ min: 1, max: 700 }),
        async (keys, lengths, others, keysInMemory) => {
          const rows = new Map(keys.map((key, row) => [key, row]));
          const index = readIndex(await write(keys, { keys: inBlocks(keys, lengths), keysInMemory }));
          expect(index.keys).toBe(keys.length);
          for (const key of [...keys, ...others]) expect(index.find(key)).toBe(rows.get(key) ?? null);
          expect(soundBuckets(keys.length, index.buckets.length)).toBe(true);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('has the same bytes whatever the blocks and the memory', async () => {
    const keys = Array.from({ length: 50_000 }, (_, row) => mix64(BigInt(row)));
    const [inMemory, spilled, other] = await Promise.all([
      write(keys),
      write(keys, { keysInMemory: 4000 }),
      write(keys, { keysInMemory: 7777, keys: inBlocks(keys, [1, 4096, 33]) }),
    ]);
    expect(readFileSync(spilled as string).equals(readFileSync(inMemory as string))).toBe(true);
    expect(readFileSync(other as string).equals(readFileSync(inMemory as string))).toBe(true);
  });

  it('has one line to read for nearly every key', async () => {
    const keys = Array.from({ length: 100_000 }, (_, row) => mix64(BigInt(row)));
    const displaced = readIndex(await write(keys)).buckets.flatMap(({ slots }) => slots.filter(({ distance }) => distance > 0));
    expect(displaced.length / keys.length).toBeGreaterThan(0.019);
    expect(displaced.length / keys.length).toBeLessThan(0.025);
    expect(displaced.filter(({ distance }) => distance > 1).length / keys.length).toBeLessThan(0.008);
  });

  it('takes less than 16 bytes a key, and starts on a page', async () => {
    const keys = Array.from({ length: 200_000 }, (_, row) => BigInt(row) * 3n);
    const header = await readSafetensorsHeader(await write(keys));
    const tensor = header.tensors.get('keys');
    expect((tensor?.bytes as number) / keys.length).toBeLessThan(16);
    expect((tensor?.byteOffset as number) % 4096).toBe(0);
  });

  it('takes another seed where too many keys have one home, and says when none helps', async () => {
    // 3000 keys whose home with seed 0 is the first of 1477, and 3000 others.
    const same = Array.from({ length: 3000 }, (_, i) => unmix64(BigInt(i) << 20n));
    const keys = [...same, ...Array.from({ length: 3000 }, (_, i) => BigInt(i + 1))];
    expect(new Set(same.map((key) => homeOf(key, 0, homesOf(keys.length))))).toEqual(new Set([0]));
    const index = readIndex(await write(keys));
    expect(index.seed).toBe(1);
    expect(readIndex(await write(keys, { keysInMemory: 500 })).buckets).toEqual(index.buckets);
    keys.forEach((key, row) => expect(index.find(key)).toBe(row));
  });

  it('refuses a key that is there twice, with both rows, in memory and spilled', async () => {
    const keys = Array.from({ length: 3000 }, (_, row) => BigInt(row));
    keys[2222] = 7n;
    for (const keysInMemory of [3000, 100]) {
      await expect(write(keys, { keysInMemory })).rejects.toMatchObject({
        code: 'bad_table',
        details: { key: '7', row: 7, otherRow: 2222 },
      });
    }
    await expect(write(Array.from({ length: 5000 }, () => 2n ** 64n - 5n))).rejects.toMatchObject({
      code: 'bad_table',
      details: { key: '-5' },
    });
    await expect(
      write(
        Array.from({ length: 5000 }, () => -5n),
        { keysInMemory: 64 },
      ),
    ).rejects.toMatchObject({ details: { key: '-5' } });
  });

  it('refuses more and fewer keys than rows, and half a key', async () => {
    const keys = [1n, 2n, 3n];
    for (const rows of [2, 4]) {
      await expect(write(keys, { rows })).rejects.toMatchObject({ code: 'invalid_argument', details: { rows } });
    }
    await expect(write(keys, { keys: [new Uint8Array(12)] })).rejects.toMatchObject({ code: 'invalid_argument' });
    for (const rows of [0, 1.5, 2 ** 32 + 1]) await expect(write(keys, { rows })).rejects.toMatchObject({ details: { field: 'rows' } });
  });

  it('leaves nothing when it is interrupted, when the source fails and when the directory cannot be written', async () => {
    const inside = mkdtempSync(join(dir, 'empty-'));
    const path = join(inside, 'index.safetensors');
    const keys = Array.from({ length: 9000 }, (_, row) => BigInt(row));
    for (const when of [0.1, 0.5, 0.9]) {
      const stop = new AbortController();
      const onProgress = (done: number, total: number): void => {
        if (done >= when * total) stop.abort();
      };
      await expect(write(keys, { signal: stop.signal, onProgress, keysInMemory: 1000 }, path)).rejects.toMatchObject({ code: 'aborted' });
    }
    async function* failing(): AsyncGenerator<BigInt64Array> {
      yield new BigInt64Array(10);
      throw new Error('the source broke');
    }
    await expect(write(keys, { keys: failing() }, path)).rejects.toMatchObject({ message: 'the source broke' });
    expect(readdirSync(inside)).toEqual([]);
    await expect(write(keys, { keysInMemory: 1000 }, join(dir, 'no', 'such.safetensors'))).rejects.toMatchObject({
      code: 'invalid_argument',
    });
  });

  it('tells its progress, which never goes back', async () => {
    const told: number[] = [];
    const keys = Array.from({ length: 20_000 }, (_, row) => BigInt(row));
    await write(keys, { keysInMemory: 1000, onProgress: (done, total) => told.push(done / total) });
    expect(told).toEqual([...told].sort((a, b) => a - b));
    expect(told.at(-1)).toBe(1);
    expect(told.length).toBeGreaterThan(20);
  });

  it('is checked by its bytes: each way to be wrong is told', async () => {
    const keys = Array.from({ length: 4000 }, (_, row) => mix64(BigInt(row)));
    const path = await write(keys);
    const header = await readSafetensorsHeader(path);
    const { byteOffset, shape } = header.tensors.get('keys') as TensorInfo;
    const buckets = shape[0] as number;
    const check = (file: string): Promise<unknown> => native.checkKeyIndex(file, byteOffset, buckets, keys.length, 0);
    expect(await check(path)).toMatchObject({ fault: 'none' });
    const damaged = (change: (bytes: Buffer) => void): Promise<unknown> => {
      const bytes = readFileSync(path);
      change(bytes.subarray(byteOffset));
      const copy = newPath();
      writeFileSync(copy, bytes);
      return check(copy);
    };
    const all = readIndex(path).buckets;
    const half = all.findIndex(({ slots }) => slots.length > 1 && slots.length < 6);
    const at = half * 64;
    const used = all[half]?.slots.length as number;
    // Bits of the row and of the distance in a word: 985 homes.
    const rowBits = 2 ** 5;
    const word = (b: Buffer, slot: number): bigint => b.readBigUInt64LE(at + slot * 8);
    expect(await damaged((b) => b.writeUInt8(1, at + 62))).toEqual({ fault: 'slots', bucket: half });
    expect(await damaged((b) => b.writeUInt8(15, at + 63))).toEqual({ fault: 'slots', bucket: half });
    expect(await damaged((b) => b.fill(0xff, at, at + 8).writeUInt8(0xff, at + 56))).toEqual({ fault: 'slots', bucket: half });
    expect(await damaged((b) => b.writeUInt8(255, at + 56))).toEqual({ fault: 'row', bucket: half });
    const sameRow = (b: Buffer): void => {
      b.writeBigUInt64LE(word(b, 1) - (word(b, 1) % BigInt(rowBits)) + (word(b, 0) % BigInt(rowBits)), at + 8);
      b.writeUInt8(b.readUInt8(at + 56), at + 57);
    };
    expect(await damaged(sameRow)).toMatchObject({ fault: 'row_twice' });
    // One key twice, a key that lies elsewhere than it says, and one that none is looked for at.
    const sameKey = (b: Buffer): void => {
      b.writeBigUInt64LE(word(b, 0) - (word(b, 0) % BigInt(rowBits)) + (word(b, 1) % BigInt(rowBits)), at + 8);
    };
    expect(await damaged(sameKey)).toEqual({ fault: 'place', bucket: half });
    for (const distance of [1, 15])
      expect(await damaged((b) => b.writeBigUInt64LE(word(b, 0) | BigInt(rowBits * distance), at))).toEqual({
        fault: 'place',
        bucket: half,
      });
    expect(await damaged((b) => b.fill(0xff, at + (used - 1) * 8, at + used * 8).writeUInt8(0xff, at + 56 + used - 1))).toMatchObject({
      fault: 'count',
    });
  });

  it('says in its metadata what it is, and nothing else is taken for it', () => {
    expect(parseKeyIndex(formatKeyIndex({ keys: 12, seed: 3 }))).toEqual({ keys: 12, seed: 3 });
    for (const text of [
      undefined,
      '',
      'terabag 2 keys 1 seed 0',
      'terabag 1 keys -1 seed 0',
      'terabag 1 keys 1 seed 0 ',
      'terabag 1 keys 1e3 seed 0',
    ])
      expect(parseKeyIndex(text)).toBeNull();
  });

  it('gives keys to parts by their hash, exactly', () => {
    fc.assert(
      fc.property(anyKey, fc.integer({ min: 1, max: 1000 }), (key, parts) => {
        expect(partOfKey(...halves(key), parts)).toBe(partOf(key, parts));
      }),
      { numRuns: 3000 },
    );
    fc.assert(fc.property(anyKey, (key) => mix64(unmix64(key)) === key));
  });
});
