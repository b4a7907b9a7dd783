import fc from 'fast-check';
import { expect, test } from 'vitest';
import { idAt } from '../../../src/predictor/ids.js';
import type { Indices } from '../../../src/predictor/predictor.js';
import { PLAIN_BAG } from '../../reference/plain-bag.js';

const layer = (rows: number) => ({ ...PLAIN_BAG, name: 'clicks', tableName: 'users', rows }) as const;
const bags = (indices: Indices) => ({
  name: 'clicks',
  numBags: 2,
  input: { indices, offsets: [0, 1, indices.length] },
  // As of a slice of a request.
  firstBag: 10,
  firstPosition: 100,
});

test('an id has one row, in whichever form it is given', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), (id) => {
      const forms: Indices = [id, BigInt(id), String(id), `000${id}`];
      for (let form = 0; form < forms.length; form++) expect(idAt(layer(2 ** 53), bags(forms), form)).toBe(id);
    }),
  );
});

test('an id that the table does not have is told as it was given, with all its digits and its place', () => {
  const given = [7, -1, 2 ** 53, 2 ** 63, 7n, 2n ** 63n, -(2n ** 70n), '7', '18446744073709551615', '-9223372036854775808', '9'.repeat(40)];
  for (const [position, id] of given.entries()) {
    expect(() => idAt(layer(7), bags(given), position)).toThrow(
      expect.objectContaining({
        code: 'index_out_of_range',
        details: {
          table: 'users',
          bag: position === 0 ? 10 : 11,
          position: 100 + position,
          index: id === 2 ** 63 ? '9223372036854775808' : String(id),
          rows: '7',
        },
      }),
    );
  }
});

test('an id of more digits than any has is cut where it is told', () => {
  for (const [position, id] of ['7'.repeat(1e6), -(10n ** 5000n), '9'.repeat(41)].entries()) {
    const index = `${String(id).slice(0, 40)}...`;
    expect(() => idAt(layer(7), bags(['1', '7'.repeat(1e6), -(10n ** 5000n), '9'.repeat(41)]), position + 1)).toThrow(
      expect.objectContaining({
        message: expect.stringContaining(`index ${index}`),
        details: expect.objectContaining({ index }),
      }),
    );
  }
});

test('what is no id is refused by its type, and not as one that the table does not have', () => {
  const given = [1.5, Number.NaN, Number.POSITIVE_INFINITY, '', ' 1', '1.0', '1e1', '0x1', '+1', '1n', null, undefined, true, {}, [1]];
  for (const position of given.keys()) {
    expect(() => idAt(layer(7), bags(given as number[]), position)).toThrow(
      expect.objectContaining({
        code: 'invalid_argument',
        details: expect.objectContaining({ position: 100 + position, layer: 'clicks' }),
      }),
    );
  }
});
