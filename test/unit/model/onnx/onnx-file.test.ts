import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import { readOnnxSignature } from '../../../../src/model/onnx/onnx-file.js';
import { onnxFixture } from '../../../reference/onnx-model.js';
import { bytes, type Dim, type Field, message, model, node, number, tensor, text, valueInfo } from '../../../reference/onnx-writer.js';

const [INPUT, OUTPUT, INITIALIZER] = [11, 12, 5];
const read = (given: Uint8Array) => readOnnxSignature(given, 'dense.onnx');
const float = (name: string, shape: (number | null)[] | null) => ({ name, elementType: 'float32', shape });

test('reads what a model of the onnx package says', () => {
  const vectors = ['sum', 'mean', 'weighted'].map((name) => float(name, [null, 12]));
  expect(read(readFileSync(onnxFixture('dlrm.onnx')))).toEqual({
    inputs: [float('dense', [null, 5]), ...vectors],
    outputs: [float('score', [null, 1]), float('logit', [null])],
    // bottom.weight and top.weight.
    macs: 12 * 5 + 18,
  });
  expect(read(readFileSync(onnxFixture('user-row.onnx'))).inputs).toEqual([float('sum', [null, 12]), float('user', [1, 12])]);
});

const dim: fc.Arbitrary<Dim> = fc.oneof(fc.nat(2 ** 53 - 1), fc.constantFrom('items', '', 'N'), fc.constant(null));
const value = fc.record({
  name: fc.string({ maxLength: 12, unit: 'grapheme' }),
  shape: fc.option(fc.array(dim, { maxLength: 4 })),
});

test('reads any names and shapes, and leaves out inputs that have a value', () => {
  fc.assert(
    fc.property(
      fc.array(value, { maxLength: 6 }),
      fc.array(value, { maxLength: 4 }),
      fc.infiniteStream(fc.boolean()),
      (inputs, outputs, given) => {
        const named = inputs.map((input, at) => ({ ...input, name: `${at} ${input.name}` }));
        const valued = named.filter(() => given.next().value);
        const bytesOfModel = model(
          ...outputs.map(({ name, shape }) => valueInfo(OUTPUT, name, 1, shape)),
          ...valued.map(({ name }) => tensor(INITIALIZER, name, [2])),
          ...named.map(({ name, shape }) => valueInfo(INPUT, name, 1, shape)),
        );
        const expected = ({ name, shape }: (typeof named)[number]) =>
          float(name, shape?.map((each) => (typeof each === 'number' ? each : null)) ?? null);
        expect(read(bytesOfModel)).toEqual({
          inputs: named.filter((input) => !valued.includes(input)).map(expected),
          outputs: outputs.map(expected),
          macs: 0,
        });
      },
    ),
  );
});

test.each([
  [1, 'float32'],
  [7, 'int64'],
  [11, 'float64'],
  [999, 'of element type 999'],
])('element type %i is %s', (elementType, expected) => {
  expect(read(model(valueInfo(INPUT, 'a', elementType, []))).inputs[0]?.elementType).toBe(expected);
});

test('what is no tensor has no element type', () => {
  const sequence = message(INPUT, text(1, 'a'), message(2, message(4)));
  expect(read(model(sequence, message(INPUT, text(1, 'b')))).inputs).toEqual([
    { name: 'a', elementType: 'no tensor', shape: null },
    { name: 'b', elementType: 'of no type', shape: null },
  ]);
});

test('a negative dim, and one beyond 2^53, is one that nothing fits', () => {
  const shape = [message(1, number(1, -1n)), message(1, number(1, 2n ** 62n))].flat();
  const info = message(INPUT, text(1, 'a'), message(2, message(1, number(1, 1), bytes(2, shape))));
  const [input] = read(model(info)).inputs;
  for (const each of input?.shape ?? []) expect(each).toBeGreaterThan(2 ** 53);
  expect(input?.shape?.length).toBe(2);
});

test('dims of a weight may be packed into one field', () => {
  const weight = message(INITIALIZER, bytes(1, [3, 4]), text(8, 'w'));
  expect(read(model(weight, node('MatMul', ['x', 'w']))).macs).toBe(12);
});

test('many dims in one field are no deep call', () => {
  const weight = message(INITIALIZER, bytes(1, new Array<number>(300_000).fill(1)), text(8, 'w'));
  expect(read(model(weight)).macs).toBe(0);
});

const external: readonly Field[] = [number(14, 1), message(13, text(1, 'location'), text(2, '../outside'))];
const subgraph = (content: Field): Field => message(5, message(6, content));
const nested = (depth: number, content: Field): Field => (depth === 0 ? content : node('If', [], subgraph(nested(depth - 1, content))));
test.each([
  ['an initializer', model(tensor(INITIALIZER, 'w', [1], ...external))],
  ['its location alone', model(tensor(INITIALIZER, 'w', [1], external[0] as Field))],
  ['where it would lie alone', model(tensor(INITIALIZER, 'w', [1], external[1] as Field))],
  ['a constant', model(node('Constant', [], message(5, tensor(5, 'w', [1], ...external))))],
  ['one of several tensors of an attribute', model(node('X', [], message(5, tensor(10, 'w', [1], ...external))))],
  ['a sparse initializer', model(message(15, tensor(1, 'w', [1], ...external)))],
  ['the indices of a sparse constant', model(node('X', [], message(5, message(22, tensor(2, 'w', [1], ...external)))))],
  ['a branch', model(nested(1, tensor(INITIALIZER, 'w', [1], ...external)))],
  ['a branch of a branch', model(nested(9, tensor(INITIALIZER, 'w', [1], ...external)))],
  ['a function', Uint8Array.from([...model(), ...message(25, message(7, message(5, tensor(5, 'w', [1], ...external))))])],
  ['what trains it', Uint8Array.from([...model(), ...message(20, message(1, tensor(INITIALIZER, 'w', [1], ...external)))])],
  ['a second graph', Uint8Array.from([...model(), ...model(tensor(INITIALIZER, 'w', [1], ...external))])],
])('data outside of the file are refused: %s', (_, given) => {
  expect(() => read(given)).toThrow(/^no sound ONNX model: tensor w(ithout a name)? lies in another file|tensor without a name lies/);
  expect(() => read(given)).toThrow(expect.objectContaining({ code: 'bad_model', details: { path: 'dense.onnx' } }));
});

test.each([
  ['nothing', []],
  ['no graph', number(1, 8)],
  ['a number for a graph', number(7, 1)],
  ['a text', [...Buffer.from('hello, world')]],
  ['a group', [7 * 8 + 3]],
  ['field 0', [2, 0]],
  ['a length beyond the end', [7 * 8 + 2, 5, 0]],
  ['a length of 2^63', [7 * 8 + 2, ...new Array<number>(9).fill(0x80), 1]],
  ['a number that does not end', [8, ...new Array<number>(11).fill(0x80)]],
  ['a name that is not UTF-8', [...model(message(INPUT, bytes(1, [0xff])))]],
  ['graphs 100 deep', [...model(nested(100, []))]],
])('%s is no model', (_, given) => {
  expect(() => read(Uint8Array.from(given))).toThrow(expect.objectContaining({ code: 'bad_model' }));
});

test('a damaged model is read or refused, and nothing else happens', () => {
  const sound = ['dlrm.onnx', 'slow.onnx', 'external-data.onnx'].map((file) => readFileSync(onnxFixture(file)));
  fc.assert(
    fc.property(
      fc.constantFrom(...sound),
      fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 6 }),
      fc.nat(),
      fc.boolean(),
      (file, changes, end, cut) => {
        const damaged = Uint8Array.from(file);
        for (const [at, byte] of changes) damaged[at % damaged.length] = byte;
        try {
          const { inputs, outputs } = read(cut ? damaged.subarray(0, end % damaged.length) : damaged);
          for (const { name } of [...inputs, ...outputs]) expect(typeof name).toBe('string');
        } catch (error) {
          expect(error).toBeInstanceOf(TerabagError);
          expect(error).toMatchObject({ code: 'bad_model' });
        }
      },
    ),
    { numRuns: 2000 },
  );
});
