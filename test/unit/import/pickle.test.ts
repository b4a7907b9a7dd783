import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { refuser } from '../../../src/import/checkpoint.js';
import { PickleDict, PickleTuple, type PickleValue, readPickle } from '../../../src/import/pickle.js';
import { findTensors, TORCH_GLOBALS } from '../../../src/import/torch-pickle.js';
import { call, global, opcodes, persistent, pickled, pickleOf, tensor, type Written } from '../../reference/pickle.js';

const refuse = refuser('data.pkl');
const read = (data: Uint8Array): PickleValue => readPickle(data, { globals: TORCH_GLOBALS, refuse });
const find = (value: Written) => findTensors(read(pickleOf(value)), refuse);

/** What the reference's values are once read. */
function plain(value: PickleValue): unknown {
  if (value instanceof PickleTuple) return value.items.map(plain);
  if (value instanceof PickleDict) return { dict: [...value.entries].map(([key, item]) => [plain(key), plain(item)]) };
  return value;
}

test('values of any nesting read back', () => {
  const { value } = fc.letrec<{ value: Written }>((tie) => ({
    value: fc.oneof(
      { depthSize: 'small' },
      fc.constantFrom(null, true, false),
      fc.integer(),
      fc.maxSafeInteger(),
      fc.string({ unit: 'grapheme' }),
      fc.array(tie('value'), { maxLength: 4 }),
      fc.uniqueArray(fc.tuple(fc.string(), tie('value')), { maxLength: 4, selector: ([key]) => key }).map((dict) => ({ dict })),
    ),
  }));
  fc.assert(
    fc.property(value, (written) => {
      expect(plain(read(pickleOf(written)))).toEqual(written);
    }),
  );
});

test.each([
  ['os', 'system'],
  ['posix', 'system'],
  ['builtins', 'eval'],
  ['builtins', 'getattr'],
  ['subprocess', 'Popen'],
  ['torch', 'load'],
  ['torch._utils', '__import__'],
  ['collections', 'OrderedDict.__init__'],
])('a pickle that names %s.%s is refused with that name, and by STACK_GLOBAL too', (module, name) => {
  const refused = expect.objectContaining({
    code: 'bad_checkpoint',
    message: expect.stringContaining(`which is never run: ${module}.${name}`),
    details: { path: 'data.pkl', global: `${module}.${name}` },
  });
  expect(() => read(pickleOf(call(global(module, name), ['true'])))).toThrow(refused);
  expect(() => read(pickleOf(opcodes(pickled(module), pickled(name), 0x93)))).toThrow(refused);
});

test.each([
  ['INST', opcodes('(ios\nsystem\n')],
  ['OBJ', opcodes('(', pickled(global('collections', 'OrderedDict')), 'o')],
  ['EXT1', opcodes(0x82, 1)],
  ['NEXT_BUFFER', opcodes(0x97)],
  ['a persistent id of protocol 0', opcodes('Pstorage\n')],
  ['a text of protocol 0', opcodes("S'a'\n")],
  ['a call of a value', call('text', [])],
  ['a state of a text', opcodes(pickled('text'), '}b')],
  ['items of a text', opcodes(pickled('text'), 'Na')],
  ['half an item', opcodes('}(', pickled('key'), 'u')],
  ['arguments by name', opcodes(pickled(global('collections', 'OrderedDict')), ')', pickled({ dict: [['a', 1]] }), 0x92)],
  ['a mark that is missing', opcodes('t')],
  ['a value that is missing', opcodes('0N')],
  ['a number that nothing was put under', opcodes('h', 9)],
  ['two values', opcodes('NN')],
  ['an integer of 200 bytes', opcodes(0x8a, 200, new Uint8Array(200))],
  ['a text that is longer than the data', opcodes('X', Uint8Array.of(255, 255, 255, 255))],
  ['a text of 2^63 bytes', opcodes(0x8d, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 128))],
  ['a text that is not UTF-8', opcodes('X', Uint8Array.of(1, 0, 0, 0, 255))],
  ['a frame beyond the data', opcodes(0x95, Uint8Array.of(0, 0, 0, 1, 0, 0, 0, 0), 'N')],
])('%s is refused', (_, value) => {
  expect(() => read(pickleOf(value))).toThrow(expect.objectContaining({ code: 'bad_checkpoint' }));
});

test('bytes behind the end, another protocol, and every truncation are refused', () => {
  const whole = pickleOf({ dict: [['a', tensor('0', { values: 4, shape: [2, 2], strides: [2, 1] })]] });
  expect(() => read(Buffer.concat([whole, Uint8Array.of(0)]))).toThrow('1 bytes follow its end');
  expect(() => read(Uint8Array.of(0x80, 6, 0x4e, 0x2e))).toThrow('protocol 6');
  for (let length = 0; length < whole.length; length++)
    expect(() => read(whole.subarray(0, length))).toThrow(expect.objectContaining({ code: 'bad_checkpoint' }));
});

test('bombs end in an error: many objects, many marks, deep nesting, and lists of the same lists', () => {
  const repeated = (text: string, times: number): Uint8Array => Buffer.alloc(times * text.length, text);
  expect(() => read(pickleOf(opcodes(repeated(']0', 4_000_001), 'N')))).toThrow('more than 4000000 objects');
  expect(() => read(pickleOf(opcodes(repeated('(', 4_000_001), 'N')))).toThrow('more than 4000000 objects');
  const nested = opcodes(']'.repeat(100), 'N', 'a'.repeat(100));
  expect(() => find(nested)).toThrow('more than 64 levels');
  // x = [x, x], 40 times over: 2^40 leaves in 160 bytes.
  const laughs = opcodes(')', ...Array.from({ length: 40 }, () => ['2', 0x86]).flat());
  expect(() => find(laughs)).toThrow('more than 4000000 values');
  const itself = opcodes(']q\x01(h\x01e');
  expect(() => find(itself)).toThrow('more than 64 levels');
});

const STATE = { values: 12, shape: [3, 4], strides: [4, 1] };

test('tensors are found by their paths, in the order of the file; parameters are their tensors', () => {
  const parameter = call(global('torch._utils', '_rebuild_parameter'), [
    tensor('1', STATE),
    true,
    call(global('collections', 'OrderedDict'), []),
  ]);
  const { tensors, skipped } = find({
    dict: [
      ['epoch', 3],
      [
        'state_dict',
        {
          dict: [
            ['b.weight', tensor('0', STATE)],
            ['a.weight', parameter],
          ],
        },
      ],
      ['list', [tensor('2', STATE), { dict: [[7, tensor('3', STATE)]] }]],
      ['sparse', call(global('torch._utils', '_rebuild_sparse_tensor'), [1, 2])],
      ['quantized', call(global('torch._utils', '_rebuild_qtensor'), [1, 2, 3, 4, [global('torch', 'per_tensor_affine'), 0.5, 0]])],
    ],
  });
  expect([...tensors.keys()]).toEqual(['state_dict.b.weight', 'state_dict.a.weight', 'list.0', 'list.1.7']);
  expect(tensors.get('state_dict.a.weight')).toEqual({
    storage: '1',
    dtype: 'F32',
    storageValues: 12,
    first: 0,
    shape: [3, 4],
    strides: [4, 1],
  });
  expect([...skipped]).toEqual([
    ['sparse', 'a sparse tensor'],
    ['quantized', 'a quantized tensor of torch'],
  ]);
});

test.each([
  ['longer than its storage', { ...STATE, shape: [4, 4] }],
  ['that starts behind its storage', { ...STATE, first: 12 }],
  ['with a stride that leads out', { ...STATE, strides: [100, 1] }],
  ['of a negative shape', { ...STATE, shape: [-3, 4] }],
  ['of a negative stride', { ...STATE, strides: [-4, 1] }],
  ['whose size is no safe integer', { ...STATE, shape: [2 ** 31 - 1, 2 ** 31 - 1], strides: [2 ** 31 - 1, 2 ** 31 - 1] }],
  ['with more strides than dims', { ...STATE, strides: [4, 1, 1] }],
])('a tensor %s is refused by its name', (_, described) => {
  expect(() => find({ dict: [['x', tensor('0', described)]] })).toThrow(
    expect.objectContaining({ code: 'bad_checkpoint', details: { path: 'data.pkl', tensor: 'x' } }),
  );
});

test('a storage that is none is refused', () => {
  const rebuilt = (storage: Written): Written => call(global('torch._utils', '_rebuild_tensor_v2'), [storage, 0, [1], [1], false, null]);
  for (const storage of [
    null,
    persistent('0'),
    persistent(['module', null, '0', 'cpu', 1]),
    persistent(['storage', 'torch.FloatStorage', '0', 'cpu', 1]),
  ])
    expect(() => find(rebuilt(storage))).toThrow(expect.objectContaining({ code: 'bad_checkpoint' }));
});

test('any bytes and any opcodes give a value or a bad_checkpoint', () => {
  const opcode = fc.constantFrom(
    ...'(.012BCGJKMNQRTUXabcehjqrstu])}',
    ...[0x80, 0x81, 0x85, 0x86, 0x87, 0x8a, 0x8c, 0x93, 0x94, 0x95].map((byte) => String.fromCharCode(byte)),
  );
  const part = fc.oneof(
    { weight: 6, arbitrary: opcode.map((text) => Uint8Array.from(Buffer.from(text, 'latin1'))) },
    { weight: 2, arbitrary: fc.uint8Array({ maxLength: 5 }) },
    { weight: 1, arbitrary: fc.constantFrom(pickled(global('torch', 'FloatStorage')), pickled(tensor('0', STATE)), pickled('storage')) },
  );
  fc.assert(
    fc.property(fc.array(part, { maxLength: 60 }), (parts) => {
      try {
        findTensors(read(Buffer.concat([Uint8Array.of(0x80, 2), ...parts, Uint8Array.of(0x2e)])), refuse);
      } catch (error) {
        expect(error).toBeInstanceOf(TerabagError);
        expect((error as TerabagError).code).toBe('bad_checkpoint');
      }
    }),
    { numRuns: 20_000 },
  );
});
