import { expect, test } from 'vitest';
import { DenseNet } from '../../../src/engine/dense-net.js';
import { native } from '../../../src/engine/native.js';
import { inStages, resolveModel } from '../../../src/model/graph.js';
import type { ModelSpec } from '../../../src/model/spec.js';

const spec: ModelSpec = {
  terabag: 1,
  name: 'm',
  version: '1',
  output: 'o',
  tables: [],
  files: {},
  dense: [{ name: 'd', dim: 3 }],
  nets: [{ name: 'n', layers: [{ type: 'fc', name: 'o', input: 'd', weight: 'w', bias: 'b', activation: 'none' }] }],
};
const shapes = new Map([
  ['w', [1, 3]],
  ['b', [1]],
]);
const model = inStages(resolveModel(spec, shapes), 1);
const netOf = (weight: number, precision: 'fp32' | 'bf16'): DenseNet =>
  new DenseNet(
    model,
    new Map([
      ['w', { data: Float32Array.of(0, weight, 1) }],
      ['b', { data: Float32Array.of(3.4e38) }],
    ]),
    precision,
  );

test.skipIf(!native.precisions().includes('bf16'))('a weight that would be infinite in bf16 is refused there, with its place', () => {
  // Halfway between the largest number and 2^128 is rounded up, to the even one.
  const least = (2 - 2 ** -8) * 2 ** 127;
  for (const weight of [least, -least, 3.4e38]) {
    expect(() => netOf(weight, 'bf16')).toThrow(
      expect.objectContaining({ code: 'invalid_argument', details: { field: 'precision', tensor: 'w', position: 1 } }),
    );
    netOf(weight, 'fp32');
  }
  netOf(Math.fround(least - 2 ** 104), 'bf16');
});
