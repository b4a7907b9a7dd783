import fc from 'fast-check';
import { expect, test } from 'vitest';
import { fillLengths, fillRows, lengthsOf, rowsOf } from '../../../../src/engine/onnx/onnx-inputs.js';

test('every value has its rows, and one row is repeated for all items', () => {
  const dims = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 7 });
  fc.assert(
    fc.property(dims, fc.nat(7), fc.integer({ min: 1, max: 21 }), fc.infiniteStream(fc.boolean()), (dims, split, items, many) => {
      const numDense = Math.min(split, dims.length);
      const perItem = Uint8Array.from(dims, () => (many.next().value ? 1 : 0));
      // A number says whose it is: value, row and position.
      const rows = dims.map((dim, value) =>
        Array.from({ length: perItem[value] === 1 ? items : 1 }, (_, row) =>
          Array.from({ length: dim }, (__, at) => value * 1000 + row * 10 + at),
        ),
      );
      const [dense, pooled] = [rows.slice(0, numDense), rows.slice(numDense)].map((part) => Float32Array.from(part.flat(2)));
      const run = {
        job: 0,
        items,
        perItem,
        dense: dense as Float32Array,
        pooled: pooled as Float32Array,
        lengths: null,
        output: new Float32Array(0),
      };
      for (const [value, found] of rowsOf({ dims, numDense }, run).entries()) {
        const into = new Float32Array(items * (dims[value] as number));
        fillRows(into, found, items);
        const expected = Array.from({ length: items }, (_, item) => rows[value]?.[perItem[value] === 1 ? item : 0]);
        expect([...into]).toEqual(expected.flat());
      }
    }),
  );
});

test('every sequence has the lengths of its rows, and one is repeated for all items', () => {
  const [none, lengths] = [new Float32Array(0), Uint32Array.of(7, 4, 5, 6, 8)];
  const run = { job: 0, items: 3, perItem: Uint8Array.of(1, 0, 1, 1, 0), dense: none, pooled: none, lengths, output: none };
  const found = lengthsOf({ sequences: [1, 3, 4] }, run);
  const filled = [...found].map(([value, own]) => {
    const into = new BigInt64Array(3).fill(-1n);
    fillLengths(into, own);
    return [value, ...into];
  });
  expect(filled).toEqual([
    [1, 7n, 7n, 7n],
    [3, 4n, 5n, 6n],
    [4, 8n, 8n, 8n],
  ]);
});
