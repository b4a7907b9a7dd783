import { expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { requestFromJson } from '../../../src/predictor/request-json.js';

const parsed = (json: string) => requestFromJson(JSON.parse(json));

function refusal(json: string): TerabagError {
  try {
    parsed(json);
  } catch (error) {
    expect(error).toBeInstanceOf(TerabagError);
    expect(error).toMatchObject({ code: 'invalid_argument' });
    return error as TerabagError;
  }
  return expect.fail(`accepted: ${json}`);
}

test('a request has the fields that it gives, and dense and sparse features that may be none', () => {
  expect(parsed('{}')).toEqual({ dense: {}, sparse: {} });
  expect(
    parsed('{"items": 3, "dense": {"a": [1, 2.5]}, "sparse": {"b": {"indices": [1, "2"], "offsets": [0, 2], "weights": [0, -1e38]}}}'),
  ).toEqual({
    items: 3,
    dense: { a: [1, 2.5] },
    sparse: { b: { indices: [1, '2'], offsets: [0, 2], weights: [0, -1e38] } },
  });
});

test('features may have any name, and are own properties', () => {
  const { dense, sparse } = parsed(
    '{"dense": {"__proto__": [1]}, "sparse": {"__proto__": {"indices": [], "offsets": [0]}, "toString": {"indices": [], "offsets": [0]}}}',
  );
  expect([Object.keys(dense), Object.keys(sparse)]).toEqual([['__proto__'], ['__proto__', 'toString']]);
});

test('64-bit ids are strings, and a number that has lost digits is refused', () => {
  const ids = (json: string) => `{"sparse": {"a": {"indices": [7, ${json}], "offsets": [0, 2]}}}`;
  expect(parsed(ids('"9223372036854775807"')).sparse['a']?.indices).toEqual([7, '9223372036854775807']);
  expect(parsed(ids('9007199254740991')).sparse['a']?.indices).toEqual([7, 2 ** 53 - 1]);
  for (const lost of ['9007199254740993', '9007199254740992', '-9223372036854775808', '1e300'])
    expect(refusal(ids(lost))).toMatchObject({
      message: expect.stringMatching(
        /^sparse\.a\.indices has to be strings of decimal digits where ids are 2\^53 and beyond, position 1: /,
      ),
      details: { field: 'sparse.a.indices', position: 1 },
    });
});

test.each([
  ['[]', 'request has to be an object: an array', 'request'],
  ['null', 'request has to be an object: null', 'request'],
  ['"{}"', 'request has to be an object: the string "{}"', 'request'],
  ['{"item": 1}', 'request has no field "item"; it has items, dense, sparse', 'request'],
  ['{"__proto__": {"items": 1}}', 'request has no field "__proto__"; it has items, dense, sparse', 'request'],
  ['{"items": "1"}', 'items has to be an integer: the string "1"', 'items'],
  ['{"items": 1.5}', 'items has to be an integer: 1.5', 'items'],
  ['{"items": 9007199254740993}', 'items has to be an integer between -2^53 and 2^53: 9007199254740992', 'items'],
  ['{"items": 1e400}', 'items has to be an integer: Infinity', 'items'],
  ['{"items": null}', 'items has to be an integer: null', 'items'],
  ['{"dense": []}', 'dense has to be an object: an array', 'dense'],
  ['{"dense": {"a": 1}}', 'dense.a has to be an array: 1', 'dense.a'],
  ['{"dense": {"a": [1, null]}}', 'dense.a has to be finite numbers, position 1: null', 'dense.a'],
  ['{"dense": {"a": [1e400]}}', 'dense.a has to be finite numbers, position 0: Infinity', 'dense.a'],
  ['{"dense": {"a": ["1"]}}', 'dense.a has to be finite numbers, position 0: the string "1"', 'dense.a'],
  ['{"sparse": {"a": null}}', 'sparse.a has to be an object: null', 'sparse.a'],
  ['{"sparse": {"a": {"offsets": [0]}}}', 'sparse.a.indices has to be an array: undefined', 'sparse.a.indices'],
  ['{"sparse": {"a": {"indices": []}}}', 'sparse.a.offsets has to be an array: undefined', 'sparse.a.offsets'],
  [
    '{"sparse": {"a": {"indices": [], "offsets": ["0"]}}}',
    'sparse.a.offsets has to be integers, position 0: the string "0"',
    'sparse.a.offsets',
  ],
  ['{"sparse": {"a": {"indices": [], "offsets": [0, 0.5]}}}', 'sparse.a.offsets has to be integers, position 1: 0.5', 'sparse.a.offsets'],
  [
    '{"sparse": {"a": {"indices": [], "offsets": [0, 9007199254740993]}}}',
    'sparse.a.offsets has to be integers between -2^53 and 2^53, position 1: 9007199254740992',
    'sparse.a.offsets',
  ],
  [
    '{"sparse": {"a": {"indices": ["1.0"], "offsets": [0, 1]}}}',
    'sparse.a.indices has to be integers or strings of decimal digits, position 0: the string "1.0"',
    'sparse.a.indices',
  ],
  [
    '{"sparse": {"a": {"indices": [true], "offsets": [0, 1]}}}',
    'sparse.a.indices has to be integers or strings of decimal digits, position 0: true',
    'sparse.a.indices',
  ],
  ['{"sparse": {"a": {"indices": [], "offsets": [0], "weights": null}}}', 'sparse.a.weights has to be an array: null', 'sparse.a.weights'],
  [
    '{"sparse": {"a": {"indices": [], "offsets": [0], "weight": []}}}',
    'sparse.a has no field "weight"; it has indices, offsets, weights',
    'sparse.a',
  ],
])('%s is refused with its field', (json, message, field) => {
  const error = refusal(json);
  expect(error.message).toBe(message);
  expect(error.details['field']).toBe(field);
});
