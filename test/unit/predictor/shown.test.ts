import { expect, test } from 'vitest';
import { shown } from '../../../src/predictor/shown.js';

test.each([
  [1, '1'],
  [-0, '-0'],
  [Number.NaN, 'NaN'],
  [2 ** 63, '9223372036854775808'],
  [1e22, '1e+22'],
  ['1', 'the string "1"'],
  ['', 'the string ""'],
  ['a\n"', 'the string "a\\n\\""'],
  ['x'.repeat(41), `the string "${'x'.repeat(40)}..."`],
  [2n ** 63n, 'the bigint 9223372036854775808n'],
  [10n ** 50n, `the bigint 1${'0'.repeat(39)}...`],
  [true, 'true'],
  [null, 'null'],
  [undefined, 'undefined'],
  [[1], 'an array'],
  [{ toString: null }, 'an object'],
  [Object.create(null), 'an object'],
  [Int8Array.of(1), 'a Int8Array'],
  [() => 1, 'a function'],
  [Symbol('s'), 'a symbol'],
])('values that print alike are told apart by their type: %s', (value, text) => {
  expect(shown(value)).toBe(text);
});
