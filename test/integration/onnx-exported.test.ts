import { describe, test } from 'vitest';
import { bundleOf, expectSameBits, expectScoresOfPyTorch, exportedModels } from '../reference/exported-models.js';
import { NEEDS_RUNTIME, onnxRuntimeDirectory } from '../reference/onnx-model.js';

describe.skipIf(onnxRuntimeDirectory() === null).each(exportedModels('onnx'))(`%s (${NEEDS_RUNTIME})`, (name) => {
  test('is sound, and gives the scores of PyTorch', () => expectScoresOfPyTorch(bundleOf(name)));

  test.each([1, 2, 4])('%i shards give the bits of the local predictor', (shards) => expectSameBits(bundleOf(name), shards));
});
