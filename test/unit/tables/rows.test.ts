import fc from 'fast-check';
import { expect, test } from 'vitest';
import { gatheredBytes, gatherRows, partRows } from '../../../src/tables/rows.js';

const anyPart = fc.integer({ min: 1, max: 9 }).chain((parts) => fc.record({ part: fc.nat(parts - 1), parts: fc.constant(parts) }));

test('a part has its rows of every block, in order, whatever row the block starts with', () => {
  const anyBlock = fc.record({ rowBytes: fc.integer({ min: 1, max: 37 }), firstRow: fc.nat(50), count: fc.nat(40) });
  fc.assert(
    fc.property(anyBlock, anyPart, (rows, part) => {
      const memory = new Uint8Array(rows.count * rows.rowBytes * 2 + 3);
      for (let at = 0; at < rows.count * rows.rowBytes; at++) memory[at] = (at * 31 + 7) % 256;
      const expected: number[] = [];
      for (let row = 0; row < rows.count; row++)
        if ((rows.firstRow + row) % part.parts === part.part)
          for (let byte = 0; byte < rows.rowBytes; byte++) expected.push(memory[row * rows.rowBytes + byte]!);
      const from = rows.count * rows.rowBytes + 1;
      const end = gatherRows(memory, rows, part, from);
      expect([...memory.subarray(from, end)]).toEqual(expected);
      expect(gatheredBytes(rows, part)).toBe(expected.length);
    }),
  );
});

test('the parts of a table have all of its rows between them', () => {
  fc.assert(
    fc.property(fc.nat(1000), fc.integer({ min: 1, max: 20 }), (rows, parts) => {
      const counts = Array.from({ length: parts }, (_, part) => partRows(rows, { part, parts }));
      expect(counts).toEqual(
        Array.from({ length: parts }, (_, part) => Array.from({ length: rows }, (_, r) => r).filter((r) => r % parts === part).length),
      );
    }),
  );
});
