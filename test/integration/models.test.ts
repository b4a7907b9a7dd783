import { describe, test } from 'vitest';
import { bundleOf, expectSameBits, expectScoresOfPyTorch, exportedModels } from '../reference/exported-models.js';

describe.each(exportedModels('layers'))('%s', (name) => {
  test('is sound, and gives the scores of PyTorch', () => expectScoresOfPyTorch(bundleOf(name)));

  test.each([1, 2, 4])('%i shards give the bits of the local predictor', (shards) => expectSameBits(bundleOf(name), shards));
});
