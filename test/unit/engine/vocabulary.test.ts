import { expect, test } from 'vitest';
import { native } from '../../../src/engine/native.js';
import { checkVocabulary, type NativeVocabulary } from '../../../src/engine/vocabulary.js';
import { ROW_FORMATS, rowBytes } from '../../../src/model/formats.js';

const { vocabulary } = native;

test('the addon that is loaded has the row formats, poolings and operations of src/model', () => {
  expect(checkVocabulary({ vocabulary }).vocabulary).toBe(vocabulary);
});

const others: readonly (readonly [keyof NativeVocabulary, NativeVocabulary])[] = [
  ['rowFormats', { ...vocabulary, rowFormats: vocabulary.rowFormats.slice(1) }],
  ['rowFormats', { ...vocabulary, rowFormats: vocabulary.rowFormats.map((format) => ({ ...format, valueBits: 8 })) }],
  ['poolings', { ...vocabulary, poolings: vocabulary.poolings.map(({ name, flag }) => ({ name, flag: flag + 1 })) }],
  ['ops', { ...vocabulary, ops: [...vocabulary.ops].reverse() }],
  ['activations', { ...vocabulary, activations: [...vocabulary.activations, 'tanh'] }],
];
test.each(others)('an addon with other %s is refused with both lists and the command that helps', (table, other) => {
  expect(() => checkVocabulary({ vocabulary: other })).toThrow(
    expect.objectContaining({
      code: 'native_addon',
      details: { table },
      message: expect.stringMatching(new RegExp(`npm run build:native.*${table} are .+; expected .+`)),
    }),
  );
});

test('an addon from before there were these tables is refused, not trusted', () => {
  const before = {} as { vocabulary: NativeVocabulary };
  expect(() => checkVocabulary(before)).toThrow(expect.objectContaining({ code: 'native_addon', details: { table: 'rowFormats' } }));
});

test('rows have the bytes that FBGEMM and PyTorch give them', () => {
  const bytes = Object.fromEntries(ROW_FORMATS.map((format) => [format, [1, 2, 3, 64].map((dim) => rowBytes(format, dim))]));
  expect(bytes).toEqual({
    fp32: [4, 8, 12, 256],
    fp16: [2, 4, 6, 128],
    bf16: [2, 4, 6, 128],
    int8: [9, 10, 11, 72],
    int8_fp16: [5, 6, 7, 68],
    int4: [5, 5, 6, 36],
  });
});
