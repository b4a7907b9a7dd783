import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RowReads } from '../../../../src/lab/choose-formats/row-reads.js';
import type { Bundle } from '../../../../src/model/bundle.js';
import { resolveModel } from '../../../../src/model/graph.js';
import { modelSchema } from '../../../../src/model/spec.js';
import { checkRequest } from '../../../../src/predictor/request.js';
import { Scratch } from '../../../../src/predictor/scratch.js';

const ROWS = 12;
const PADDING = 3;
const MAX_LENGTH = 2;
/** One table, read by a bag that skips padding and by a sequence that keeps its first or last ids; and another, which is not counted. */
const bundleOf = (truncate: 'first' | 'last'): Bundle => {
  const table = { rows: ROWS, dim: 2, format: 'fp32', file: 'tables.safetensors' };
  const layers = [
    { type: 'embedding_bag', name: 'bag', table: 'a', paddingId: PADDING, unseen: { policy: 'zero' } },
    { type: 'embedding_sequence', name: 'history', table: 'a', maxLength: MAX_LENGTH, truncate },
    { type: 'embedding_bag', name: 'other', table: 'b' },
    { type: 'sequence_pool', name: 'pooled', input: 'history', pooling: 'sum' },
    { type: 'concat', name: 'all', inputs: ['bag', 'pooled', 'other'] },
  ];
  const spec = modelSchema.parse({
    ...{ terabag: 1, name: 'm', version: '1', dense: [], output: 'all', files: {} },
    tables: ['a', 'b'].map((name) => ({ name, tensor: name, ...table })),
    nets: [{ name: 'net', layers }],
  });
  return { spec, model: resolveModel(spec, new Map()) } as Bundle;
};

const bags = (most: number) =>
  fc.array(fc.array(fc.integer({ min: 0, max: most }), { maxLength: 5 }), { minLength: 2, maxLength: 2 }).map((lists) => ({
    lists,
    input: { indices: lists.flat(), offsets: [0, lists[0]?.length ?? 0, lists.flat().length] },
  }));

test('ids are counted that read a row: none that is padding, cut off, or not of the table; up to 255', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('first', 'last'),
      fc.array(fc.tuple(bags(ROWS + 2), bags(ROWS - 1), bags(ROWS - 1)), { minLength: 1, maxLength: 4 }),
      fc.constantFrom(1, 90),
      async (truncate, requests, times) => {
        const bundle = bundleOf(truncate);
        const reads = new RowReads(bundle, new Set([0]));
        const expected = new Array<number>(ROWS).fill(0);
        const model = bundle.model!;
        for (const [bag, history, other] of requests) {
          const sparse = { bag: bag.input, history: history.input, other: other.input };
          const checked = checkRequest(model, { items: 2, dense: {}, sparse }, new Scratch());
          for (let time = 0; time < times; time++) reads.add(checked);
          const kept = history.lists.flatMap((ids) => (truncate === 'first' ? ids.slice(0, MAX_LENGTH) : ids.slice(-MAX_LENGTH)));
          const ids = [...bag.lists.flat().filter((id) => id !== PADDING && id < ROWS), ...kept];
          for (const id of ids) expected[id] = (expected[id] as number) + times;
        }
        expect([...(await reads.ofTable(0, '.'))]).toEqual(expected.map((count) => Math.min(255, count)));
        expect(reads.requests).toBe(requests.length * times);
      },
    ),
    { numRuns: 60 },
  );
});
