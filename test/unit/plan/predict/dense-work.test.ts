import { expect, test } from 'vitest';
import type { ResolvedLayer, ResolvedModel } from '../../../../src/model/graph.js';
import { NO_ATTRIBUTES } from '../../../../src/model/ops.js';
import { denseWork } from '../../../../src/plan/predict/dense-work.js';
import { PLAIN_BAG } from '../../../reference/plain-bag.js';

const layer = (op: ResolvedLayer['op'], inputs: number[], dim: number, stage: number, diagonal = false): ResolvedLayer => ({
  ...{ ...NO_ATTRIBUTES, name: op, op, inputs, dim, stage, diagonal },
});
const bag = (name: string) => ({ ...PLAIN_BAG, name, dim: 4, rows: 9 }) as const;

/** Values: 0 the dense feature, 1 the user's bag, 2 the items' bag, then the layers. */
const model: ResolvedModel = {
  dense: [{ name: 'dense', dim: 3 }],
  bags: [bag('user'), bag('item')],
  layers: [
    layer('fc', [0], 4, 0), // 3
    layer('fc', [1], 5, 1), // 4: of the user alone
    layer('concat', [1, 2], 8, 1), // 5
    layer('fc', [5], 10, 1), // 6: the user's 4 inputs are multiplied once
    layer('dot_interaction', [3, 1, 2], 7, 1), // 7: 3 pairs of dim 4
    layer('dot_interaction', [3, 1, 2], 10, 2, true), // 8: and 3 of a vector with itself
  ],
  output: 8,
  outputDim: 10,
};

test('what items share is counted once, the rest per item, and weights by stage', () => {
  const [first, second, third] = denseWork(model, [false, true]);
  expect(first).toEqual({ weights: 12, sharedMacs: 0, macsPerItem: 12, pairMacs: 0, pairMacsPerItem: 0 });
  expect(second).toEqual({
    weights: 20 + 80,
    sharedMacs: 20 + 4 * 10,
    macsPerItem: 8 + 4 * 10,
    pairMacs: 0,
    pairMacsPerItem: 3 * 4,
  });
  expect(third).toMatchObject({ macsPerItem: 0, pairMacsPerItem: 6 * 4 });
});

test('with a bag per item nothing is shared', () => {
  expect(denseWork(model, [true, true])[1]).toMatchObject({ sharedMacs: 0 });
});
