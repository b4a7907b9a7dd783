import fc from 'fast-check';
import { expect, test } from 'vitest';
import { fillRows, rowsOf } from '../../../../src/engine/onnx/onnx-inputs.js';

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
      const run = { job: 0, items, perItem, dense: dense as Float32Array, pooled: pooled as Float32Array, output: new Float32Array(0) };
      for (const [value, found] of rowsOf({ dims, numDense }, run).entries()) {
        const into = new Float32Array(items * (dims[value] as number));
        fillRows(into, found, items);
        const expected = Array.from({ length: items }, (_, item) => rows[value]?.[perItem[value] === 1 ? item : 0]);
        expect([...into]).toEqual(expected.flat());
      }
    }),
  );
});
