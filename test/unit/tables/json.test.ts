import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseJson } from '../../../src/tables/json.js';

const nested = (levels: number): string => `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`;

test('what JSON.parse takes is taken as it does, up to 128 levels, with or without a look at numbers', () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      expect(parseJson(text)).toEqual(JSON.parse(text));
      expect(parseJson(text, () => undefined)).toEqual(JSON.parse(text));
    }),
  );
  expect(parseJson(nested(128))).toEqual(JSON.parse(nested(128)));
});

test.each([
  ['objects', nested(129)],
  ['arrays', `${'['.repeat(129)}"a"${']'.repeat(129)}`],
  ['many levels', nested(100_000)],
])('more levels are refused: %s', (_, text) => {
  expect(() => parseJson(text)).toThrow(/^more than 128 levels at position \d+$/);
  expect(() => parseJson(text, () => undefined)).toThrow(SyntaxError);
});

test.each([
  ['{"a": 1, "a": 2}', 'key stands twice: "a" in root, position 9'],
  ['{"x": [0, {"b c": {"a": 1, "\\u0061": 2}}]}', 'key stands twice: "\\u0061" in x[1]["b c"], position 27'],
  ['["\\ud800"]', 'half of a surrogate pair in "\\ud800" at position 1'],
])('%s is refused with its place', (text, message) => {
  expect(() => parseJson(text)).toThrow(new SyntaxError(message));
});
