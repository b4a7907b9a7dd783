import fc from 'fast-check';
import { expect, test } from 'vitest';
import { KeptRows } from '../../../src/pack/kept-rows.js';

const ROW_BYTES = 3;
const counts = fc.uint8Array({ minLength: 1, maxLength: 60 });

test('rows are kept that are read often enough, in their order, wherever a block starts and ends', () => {
  fc.assert(
    fc.property(counts, fc.integer({ min: 1, max: 255 }), fc.nat(), fc.nat(), (reads, atLeast, a, b) => {
      const kept = new KeptRows(reads, atLeast);
      const plain = [...reads.keys()].filter((row) => (reads[row] as number) >= atLeast);
      expect([kept.rows, kept.count]).toEqual([reads.length, plain.length]);
      for (const [place, row] of plain.entries()) expect([kept.has(row), kept.placeOf(row)]).toEqual([true, place]);
      const from = a % reads.length;
      const count = b % (reads.length - from + 1);
      const inBlock = plain.filter((row) => row >= from && row < from + count);
      const memory = Uint8Array.from({ length: count * ROW_BYTES }, (_, at) => from + Math.floor(at / ROW_BYTES));
      const gathered = kept.gather(memory, ROW_BYTES, from, count);
      expect([...memory.subarray(0, gathered * ROW_BYTES)]).toEqual(inBlock.flatMap((row) => new Array<number>(ROW_BYTES).fill(row)));
      const keys = BigInt64Array.from({ length: count }, (_, at) => BigInt(-(from + at)));
      expect([...kept.gatherKeys(keys, from)]).toEqual(inBlock.map((row) => BigInt(-row)));
      for (const [n, row] of inBlock.entries()) expect(kept.rowAt(from, n)).toBe(row);
    }),
  );
});
