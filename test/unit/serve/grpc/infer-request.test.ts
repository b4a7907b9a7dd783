import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import { readInferRequest } from '../../../../src/serve/grpc/infer-request.js';
import { type InferTensorContentsSchema, ModelInferRequestSchema } from '../../../../src/serve/grpc/proto/open_inference_pb.js';
import type { Datatype } from '../../../../src/serve/tensors/tensor.js';

type Request = MessageInitShape<typeof ModelInferRequestSchema>;

const encoded = (request: Request): Buffer => Buffer.from(toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, request)));
const read = (request: Request | Buffer, hold: (bytes: number) => void = () => undefined) =>
  readInferRequest(Buffer.isBuffer(request) ? request : encoded(request), hold);
const input = (name: string, datatype: string, shape: readonly number[], contents?: MessageInitShape<typeof InferTensorContentsSchema>) =>
  ({ name, datatype, shape: shape.map(BigInt), ...(contents && { contents }) }) as NonNullable<Request['inputs']>[number];

const int32 = fc.oneof(fc.integer(), fc.constantFrom(0, -1, 127, 128, 2 ** 31 - 1, -(2 ** 31)));
const uint32 = fc.oneof(fc.nat(), fc.constantFrom(0, 2 ** 31, 2 ** 32 - 1));
const int64 = fc.oneof(
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.bigInt({ min: 0n, max: 300n }),
  fc.constantFrom(2n ** 28n, 2n ** 35n - 1n),
);
const uint64 = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 300n }));
const float = fc.float({ noNaN: true });

/** Of each datatype, its field and values. */
const TYPED: readonly (readonly [Datatype, string, fc.Arbitrary<number | bigint>])[] = [
  ['INT8', 'intContents', int32],
  ['INT32', 'intContents', int32],
  ['INT64', 'int64Contents', int64],
  ['UINT16', 'uintContents', uint32],
  ['UINT32', 'uintContents', uint32],
  ['UINT64', 'uint64Contents', uint64],
  ['FP32', 'fp32Contents', float],
];

const typedInput = fc
  .constantFrom(...TYPED)
  .chain(([datatype, field, value]) =>
    fc.array(value, { maxLength: 20 }).map((values) => ({ datatype, field, values, contents: { [field]: values } })),
  );

test('typed values of any datatype are those that the generated code reads', () => {
  fc.assert(
    fc.property(fc.array(typedInput, { maxLength: 5 }), (inputs) => {
      const { tensors, raw } = read({
        inputs: inputs.map(({ datatype, values, contents }, at) => input(`i${at}`, datatype, [values.length], contents)),
      });
      expect(raw).toBe(false);
      expect(tensors.map(({ name, datatype, data }) => [name, datatype, Array.from(data as ArrayLike<unknown>)])).toEqual(
        inputs.map(({ datatype, values }, at) => [`i${at}`, datatype, values]),
      );
      for (const { data } of tensors) expect(ArrayBuffer.isView(data)).toBe(true);
    }),
    { numRuns: 300 },
  );
});

test('values that are not packed, or come in pieces, are read too', () => {
  const int64Tag = 3 << 3;
  const contents = new BinaryWriter();
  contents.uint32(int64Tag).int64(5n);
  contents
    .uint32(int64Tag | 2)
    .fork()
    .int64(-7n)
    .int64(2n ** 40n)
    .join();
  contents.uint32(int64Tag).int64(9n);
  const shape = new BinaryWriter()
    .uint32((3 << 3) | 0)
    .int64(2)
    .uint32((3 << 3) | 0)
    .int64(2)
    .finish();
  const message = new BinaryWriter().uint32((5 << 3) | 2).fork();
  message
    .uint32((1 << 3) | 2)
    .string('f')
    .uint32((2 << 3) | 2)
    .string('INT64')
    .raw(shape);
  message
    .uint32((5 << 3) | 2)
    .bytes(contents.finish())
    .join();
  const [tensor] = read(Buffer.from(message.finish())).tensors;
  expect(tensor?.shape).toEqual([2, 2]);
  expect(tensor?.data).toEqual([5n, -7n, 2n ** 40n, 9n]);
});

test('raw values lie where they came, and are copied only where they are not aligned', () => {
  const values = BigInt64Array.of(1n, -2n, 3n);
  const bytes = encoded({ inputs: [input('f', 'INT64', [3])], rawInputContents: [new Uint8Array(values.buffer)] });
  const at = bytes.indexOf(Buffer.from(values.buffer));
  let inPlace = 0;
  for (let shift = 0; shift < 8; shift++) {
    const memory = new ArrayBuffer(bytes.length + 8);
    const placed = Buffer.from(memory, shift, bytes.length);
    placed.set(bytes);
    const { tensors, raw } = read(placed);
    expect(raw).toBe(true);
    const { data } = tensors[0] as { data: BigInt64Array };
    expect(data).toEqual(values);
    if (data.buffer === memory) expect((shift + at) % 8).toBe(0);
    if (data.buffer === memory) inPlace++;
  }
  expect(inPlace).toBe(1);
});

const one = new Uint8Array(BigInt64Array.of(1n).buffer);
const two = new Uint8Array(BigInt64Array.of(2n).buffer);
const dataOf = (request: Request) => read(request).tensors.map(({ name, data }) => [name, ...Array.from(data as ArrayLike<bigint>)]);

test('raw values belong to the inputs in their order, or to those without contents', () => {
  const a = input('a', 'INT64', [1]);
  const typed = input('typed', 'INT64', [1], { int64Contents: [9n] });
  const empty = input('empty', 'INT64', [0]);
  const b = input('b', 'INT64', [1]);
  const none = new Uint8Array();
  expect(dataOf({ inputs: [a, b], rawInputContents: [one, two] })).toEqual([
    ['a', 1n],
    ['b', 2n],
  ]);
  expect(dataOf({ inputs: [a, typed, b], rawInputContents: [one, two] })).toEqual([
    ['a', 1n],
    ['typed', 9n],
    ['b', 2n],
  ]);
  expect(dataOf({ inputs: [a, typed, b], rawInputContents: [one, none, two] })).toEqual([
    ['a', 1n],
    ['typed', 9n],
    ['b', 2n],
  ]);
  expect(dataOf({ inputs: [a, empty, b], rawInputContents: [one, none, two] })).toEqual([['a', 1n], ['empty'], ['b', 2n]]);
  expect(dataOf({ inputs: [a, empty, b, typed], rawInputContents: [one, two] })).toEqual([['a', 1n], ['empty'], ['b', 2n], ['typed', 9n]]);
  expect(dataOf({ inputs: [empty] })).toEqual([['empty']]);
});

function refuses(request: Request | Buffer, field: string, message: RegExp, code = 'invalid_argument'): void {
  try {
    read(request);
  } catch (error) {
    const { code: told, details, message: text } = error as TerabagError;
    expect([told, details['field']]).toEqual([code, field]);
    expect(text).toMatch(message);
    return;
  }
  throw new Error(`it is taken, and should not be: ${message}`);
}

test('refusals name the tensor or the parameter', () => {
  const values = { int64Contents: [1n, 2n] };
  const parameters = { shared_memory_region: { parameterChoice: { case: 'stringParam' as const, value: 'r' } } };
  refuses({ inputs: [input('f', 'INT64', [3], values)] }, 'f', /^input f has 2 values, and \[3\] takes 3$/);
  refuses({ inputs: [input('f', 'INT64', [-1], values)] }, 'f', /shape of integers, 0 or more: -1/);
  refuses({ inputs: [input('f', 'INT32', [2], values)] }, 'f', /has values in int64_contents, and those of INT32 belong in int_contents/);
  refuses({ inputs: [input('f', 'FP32', [1], { fp64Contents: [1] })] }, 'f', /fp64_contents, and those of FP32 belong in fp32_contents/);
  refuses({ inputs: [input('f', 'INT64', [2], { ...values, intContents: [1] })] }, 'f', /has values in int_contents/);
  refuses({ inputs: [input('f', 'FP16', [2])] }, 'f', /datatype of .*FP32: FP16/);
  refuses({ inputs: [input('f', 'INT64', [2])], rawInputContents: [one] }, 'f', /has 8 bytes, and INT64 \[2\] takes 16/);
  refuses({ inputs: [input('f', 'INT64', [2], values)], rawInputContents: [one] }, 'f', /both contents and raw_input_contents/);
  refuses({ inputs: [input('f', 'INT64', [1])], rawInputContents: [one, two] }, 'raw_input_contents', /has 2 entries, and 1 inputs/);
  refuses({ inputs: [{ ...input('f', 'INT64', [1]), parameters } as never] }, 'f', /shared memory is not supported/, 'unsupported');
  refuses({ outputs: [{ name: 'o', parameters: { classification: {} } }] }, 'o', /classification is not supported/, 'unsupported');
  refuses({ outputs: [{ name: 'o', parameters }] }, 'o', /shared memory is not supported/, 'unsupported');
});

test('parameters are integers in any form that clients give them', () => {
  const of = (parameterChoice: object) => read({ parameters: { items: { parameterChoice } as never } }).parameters.items;
  expect(of({ case: 'int64Param', value: 7n })).toBe(7);
  expect(of({ case: 'uint64Param', value: 7n })).toBe(7);
  expect(of({ case: 'doubleParam', value: 7 })).toBe(7);
  expect(of({ case: 'stringParam', value: '7' })).toBe(7);
  expect(of({ case: undefined })).toBe(undefined);
  expect(read({ parameters: { other: { parameterChoice: { case: 'stringParam', value: 'x' } } } }).parameters).toEqual({});
  for (const bad of [
    { case: 'int64Param', value: -1n },
    { case: 'doubleParam', value: 0.5 },
    { case: 'stringParam', value: '' },
    { case: 'stringParam', value: 'soon' },
    { case: 'boolParam', value: true },
    { case: 'uint64Param', value: 2n ** 60n },
  ])
    expect(() => of(bad)).toThrow(/parameter items has to be an integer of 0 or more/);
});

test('what values take beside the message is held before they are read', () => {
  let held = 0;
  const hold = (bytes: number): void => {
    held += bytes;
  };
  read({ inputs: [input('f', 'INT64', [3], { int64Contents: [1n, 2n, 3n] }), input('g', 'INT32', [2], { intContents: [1, 2] })] }, hold);
  expect(held).toBe(3 * 8 + 2 * 4);
  held = 0;
  read({ inputs: [input('g', 'FP32', [2], { fp32Contents: [1, 2] })] }, hold);
  expect(held).toBe(0);
  const refused = new TerabagError('overloaded', 'too many');
  const refuse = (): void => {
    throw refused;
  };
  expect(() => read({ inputs: [input('f', 'INT64', [1], { int64Contents: [1n] })] }, refuse)).toThrow(refused);
});

test('a small message that stands for millions of objects is refused', () => {
  const emptyInputs = Buffer.alloc(2 * 70_000);
  for (let at = 0; at < emptyInputs.length; at += 2) emptyInputs[at] = (5 << 3) | 2;
  expect(() => read(emptyInputs)).toThrow(/inputs has more than 65536 entries/);
  const emptyRaw = Buffer.from(emptyInputs.map((byte) => (byte === 0 ? 0 : (7 << 3) | 2)));
  expect(() => read(emptyRaw)).toThrow(/raw_input_contents has more than 65536 entries/);
  const dims = new BinaryWriter()
    .uint32((5 << 3) | 2)
    .fork()
    .uint32((3 << 3) | 2)
    .bytes(new Uint8Array(17))
    .join()
    .finish();
  expect(() => read(Buffer.from(dims))).toThrow(/a shape has more than 16 dims/);
});

test('bytes that are changed anywhere are read, or refused as invalid_argument or unsupported', () => {
  const valid = encoded({
    modelName: 'm',
    id: 'x',
    parameters: { timeout: { parameterChoice: { case: 'int64Param', value: 5n } } },
    inputs: [
      input('a', 'INT64', [3], { int64Contents: [1n, 300n, -1n] }),
      input('b', 'FP32', [2], { fp32Contents: [1, 2] }),
      input('c', 'INT64', [1]),
    ],
    outputs: [{ name: 'scores' }],
    rawInputContents: [one],
  });
  const change = fc.record({
    at: fc.nat(valid.length - 1),
    byte: fc.oneof(fc.nat(255), fc.constantFrom(0xff, 0x80, 0)),
    remove: fc.nat(3),
    insert: fc.nat(3),
  });
  let taken = 0;
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.nat(valid.length), (changes, end) => {
      let bytes = valid.subarray(0, end % 3 === 0 ? end : valid.length);
      for (const { at, byte, remove, insert } of changes)
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.alloc(insert, byte), bytes.subarray(at + remove)]);
      try {
        read(bytes);
        taken++;
      } catch (error) {
        expect(error).toBeInstanceOf(TerabagError);
        expect(['invalid_argument', 'unsupported']).toContain((error as TerabagError).code);
      }
    }),
    { numRuns: 5000 },
  );
  expect(taken).toBeGreaterThan(100);
  // The generated code agrees on what is no message at all.
  expect(() => fromBinary(ModelInferRequestSchema, valid.subarray(0, valid.length - 1))).toThrow();
  expect(() => read(valid.subarray(0, valid.length - 1))).toThrow(/the message is no ModelInferRequest/);
});
