import assert from 'node:assert/strict';
import fc from 'fast-check';
import { test } from 'vitest';
import type { ResolvedBag, ResolvedModel } from '../../../../src/model/graph.js';
import { requestOfTensors } from '../../../../src/serve/tensors/request-tensors.js';
import { signatureOf } from '../../../../src/serve/tensors/signature.js';
import type { Datatype, Tensor, TensorData } from '../../../../src/serve/tensors/tensor.js';

const bag = (name: string, given: Partial<ResolvedBag> = {}): ResolvedBag =>
  ({
    name,
    tableName: name,
    table: 0,
    dim: 4,
    rows: 100,
    pooling: 'sum',
    weighted: false,
    leavesOut: false,
    net: 0,
    ...given,
  }) as ResolvedBag;

const model = (bags: readonly ResolvedBag[], dense: ResolvedModel['dense'] = []): ResolvedModel => ({
  dense,
  bags,
  layers: [],
  output: 0,
  outputDim: 1,
  outputs: [{ name: 'click', dim: 2 }],
});

const tensor = (name: string, data: TensorData, datatype: Datatype = 'INT64', shape: readonly number[] = [data.length]): Tensor => ({
  name,
  datatype,
  shape,
  data,
});

const request = (of: ResolvedModel, tensors: readonly Tensor[], items?: number) => requestOfTensors(of, signatureOf(of), tensors, items);

const refuses = (of: ResolvedModel, tensors: readonly Tensor[], field: string, message: RegExp): void =>
  void assert.throws(
    () => request(of, tensors),
    (error: Error & { code?: string; details?: { field?: string } }) => {
      assert.deepEqual([error.code, error.details?.field], ['invalid_argument', field]);
      assert.match(error.message, message);
      return true;
    },
  );

const clicks = model([bag('clicks')]);
const ids = (...values: number[]): BigInt64Array => BigInt64Array.from(values, BigInt);

test('lengths, offsets and their aliases of any integer type make the same bags', () => {
  const bags = fc.array(fc.array(fc.integer({ min: 0, max: 99 }), { maxLength: 5 }), { maxLength: 8 });
  const separator = fc.constantFrom('.', '__');
  fc.assert(
    fc.property(bags, separator, fc.boolean(), fc.boolean(), (given, between, wide, asLengths) => {
      const ends = [0];
      for (const each of given) ends.push((ends.at(-1) as number) + each.length);
      const bounds = asLengths ? given.map(({ length }) => length) : ends;
      const typed = (name: string, values: number[]) =>
        wide ? tensor(name, ids(...values)) : tensor(name, Uint8Array.from(values), 'UINT8');
      const { sparse } = request(clicks, [
        typed(`clicks${between}values`, given.flat()),
        typed(`clicks${between}${asLengths ? 'lengths' : 'offsets'}`, bounds),
      ]);
      assert.deepEqual(Array.from(sparse['clicks']?.indices ?? [], Number), given.flat());
      assert.deepEqual(Array.from(sparse['clicks']?.offsets ?? [], Number), ends);
    }),
  );
});

test('ids alone are bags of one length', () => {
  const ofShape = (shape: readonly number[]) => request(clicks, [tensor('clicks', ids(1, 2, 3, 4, 5, 6), 'INT64', shape)]).sparse['clicks'];
  assert.deepEqual(ofShape([6])?.offsets, Uint32Array.of(0, 1, 2, 3, 4, 5, 6));
  assert.deepEqual(ofShape([2, 3])?.offsets, Uint32Array.of(0, 3, 6));
  assert.deepEqual(request(clicks, [tensor('clicks', ids(), 'INT64', [3, 0])]).sparse['clicks']?.offsets, Uint32Array.of(0, 0, 0, 0));
});

test('data are handed on where they lie', () => {
  const of = model([bag('clicks', { weighted: true })], [{ name: 'age', dim: 2 }]);
  const [values, offsets, weights, age] = [ids(7, 8), ids(0, 2), Float32Array.of(1, 2), Float32Array.of(3, 4)];
  const made = request(
    of,
    [
      tensor('age', age, 'FP32', [1, 2]),
      tensor('clicks.values', values),
      tensor('clicks.offsets', offsets),
      tensor('clicks.weights', weights, 'FP32'),
    ],
    3,
  );
  assert.equal(made.dense['age'], age);
  assert.equal(made.sparse['clicks']?.indices, values);
  assert.equal(made.sparse['clicks']?.offsets, offsets);
  assert.equal(made.sparse['clicks']?.weights, weights);
  assert.equal(made.items, 3);
});

test('unsigned 64-bit keys are the same bits; unsigned rows keep their value', () => {
  const largest = BigUint64Array.of(2n ** 64n - 1n);
  const indices = (keyed: boolean) =>
    request(model([bag('clicks', { keyed })]), [tensor('clicks', largest, 'UINT64')]).sparse['clicks']?.indices;
  assert.deepEqual(indices(true), BigInt64Array.of(-1n));
  assert.deepEqual(indices(false), [2n ** 64n - 1n]);
});

test('a canonical name goes before an alias that is spelt the same', () => {
  const of = model([bag('a'), bag('a.values')], [{ name: 'a__lengths', dim: 1 }]);
  const { places } = signatureOf(of);
  assert.deepEqual(places.get('a.values'), { feature: 'a', role: 'values' });
  assert.deepEqual(places.get('a__lengths'), { feature: 'a__lengths', role: 'dense' });
  assert.deepEqual(places.get('a.values.values'), { feature: 'a.values', role: 'values' });
  const { dense, sparse } = request(of, [
    tensor('a__lengths', [0.5], 'FP32'),
    tensor('a.values', ids(4)),
    tensor('a.lengths', ids(1)),
    tensor('a.values.values', ids(5, 6)),
    tensor('a.values.lengths', ids(2)),
  ]);
  assert.deepEqual(dense['a__lengths'], [0.5]);
  assert.deepEqual([sparse['a']?.indices, sparse['a.values']?.indices], [ids(4), ids(5, 6)]);
});

test('metadata names the canonical inputs and each output', () => {
  const { inputs, outputs } = signatureOf(model([bag('clicks', { weighted: true })], [{ name: 'age', dim: 2 }]));
  assert.deepEqual(inputs, [
    { name: 'age', datatype: 'FP32', shape: [-1, 2] },
    { name: 'clicks.values', datatype: 'INT64', shape: [-1] },
    { name: 'clicks.lengths', datatype: 'INT64', shape: [-1] },
    { name: 'clicks.offsets', datatype: 'INT64', shape: [-1], optional: true },
    { name: 'clicks.weights', datatype: 'FP32', shape: [-1] },
  ]);
  assert.deepEqual(outputs, [
    { name: 'scores', datatype: 'FP32', shape: [-1, 1] },
    { name: 'click', datatype: 'FP32', shape: [-1, 2] },
  ]);
});

test('what does not fit is refused by the name of its tensor', () => {
  const [values, lengths] = [tensor('clicks.values', ids(1, 2)), tensor('clicks.lengths', ids(2))];
  refuses(clicks, [values, lengths, tensor('views', ids(1))], 'views', /is not of the model; it has clicks\.values/);
  refuses(clicks, [values, values, lengths], 'clicks.values', /given twice/);
  refuses(clicks, [values, tensor('clicks__values', ids(1)), lengths], 'clicks__values', /says the same as input clicks\.values/);
  refuses(clicks, [lengths], 'clicks.values', /is missing/);
  refuses(clicks, [values], 'clicks.lengths', /is missing.*clicks\.offsets/);
  refuses(clicks, [values, lengths, tensor('clicks.offsets', ids(0, 2))], 'clicks.offsets', /exclude each other/);
  refuses(clicks, [tensor('clicks', ids(1)), lengths], 'clicks.lengths', /exclude each other/);
  refuses(clicks, [tensor('clicks.values', [1, 2], 'FP32'), lengths], 'clicks.values', /INT64/);
  refuses(clicks, [tensor('clicks.values', ids(1, 2, 3, 4), 'INT64', [2, 2]), lengths], 'clicks.values', /one dim/);
  refuses(clicks, [values, tensor('clicks.lengths', ids(1))], 'clicks.lengths', /sum up to the ids.*2: 1/);
  refuses(clicks, [values, tensor('clicks.lengths', ids(9, 9))], 'clicks.lengths', /2: 9 or more/);
  refuses(clicks, [values, tensor('clicks.lengths', ids(-1, 3))], 'clicks.lengths', /0 or more: position 0, -1/);
  refuses(clicks, [tensor('clicks', ids(1, 2), 'INT64', [1, 1, 2])], 'clicks', /shape/);
  const weighted = model([bag('clicks', { weighted: true })]);
  refuses(weighted, [values, lengths, tensor('clicks.weights', [1], 'FP32')], 'clicks.weights', /each id.*2: 1/);
  refuses(weighted, [values, lengths, tensor('clicks.weights', ids(1, 2))], 'clicks.weights', /FP32: INT64/);
  const dense = model([], [{ name: 'age', dim: 2 }]);
  refuses(dense, [], 'age', /is missing/);
  refuses(dense, [tensor('age', [1, 2, 3, 4], 'FP32', [1, 4])], 'age', /\[1, 2\] or \[items, 2\]: \[1, 4\]/);
  refuses(dense, [tensor('age', [1, 2], 'INT32', [1, 2])], 'age', /FP32: INT32/);
});
