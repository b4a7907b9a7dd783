import { expect, test } from 'vitest';
import type { Checkpoint, CheckpointTensor, Dtype, Piece } from '../../../src/import/checkpoint.js';
import { rowMajor } from '../../../src/import/checkpoint.js';
import { planKeys } from '../../../src/import/plan-keys.js';
import { TensorNames } from '../../../src/import/tensor-names.js';

const pieceOf = (offset: number, size: number, stride = 1): Piece => ({
  ...{ path: 'file', byteOffset: 0, known: null, header: null },
  ...{ offsets: [offset], sizes: [size], strides: [stride] },
});

function checkpointOf(shape: readonly number[], pieces: readonly Piece[], dtype: Dtype = 'I64'): Checkpoint {
  const tensor: CheckpointTensor = { name: 'ids', dtype, shape, pieces: async () => pieces };
  return { path: 'file', kind: 'test', tensors: new Map([['ids', tensor]]), inModelOrder: false, skipped: new Map(), marks: new Map() };
}

const plan = (rows: number, checkpoint: Checkpoint) =>
  planKeys(checkpoint, new TensorNames(checkpoint), { table: 't', rows, tensor: 'ids', field: 'tables[3]' });

test('keys in several places are a column, in the order of the rows', async () => {
  const { pieces } = await plan(6, checkpointOf([6], [pieceOf(4, 2), pieceOf(0, 4, 3)], 'U64'));
  expect(pieces.map(({ offsets, sizes, strides }) => ({ offsets, sizes, strides }))).toEqual([
    { offsets: [4, 0], sizes: [2, 1], strides: [1, 1] },
    { offsets: [0, 0], sizes: [4, 1], strides: [3, 1] },
  ]);
});

const TOO_MANY = 2 ** 32 + 1;
test.each<[string, number, Checkpoint, string]>([
  ['more rows than an index can name', TOO_MANY, checkpointOf([TOO_MANY], [pieceOf(0, TOO_MANY)]), 'at most 4294967296 rows'],
  ['more rows than a double tells apart', 2 ** 53, checkpointOf([2 ** 53], [pieceOf(0, 2 ** 53)]), 'at most 4294967296 rows'],
  ['one value for 2^32 rows', 2 ** 32, checkpointOf([2 ** 32], [pieceOf(0, 2 ** 32, 0)]), 'ids is one value repeated'],
  ['a gap between chunks', 6, checkpointOf([6], [pieceOf(0, 2), pieceOf(3, 3)]), 'do not cover their tensor once'],
  ['chunks that overlap', 6, checkpointOf([6], [pieceOf(0, 4), pieceOf(2, 2)]), 'overlap'],
  [
    'a chunk of two dims',
    6,
    checkpointOf([6], [{ ...pieceOf(0, 6), offsets: [0, 0], sizes: [3, 2], strides: rowMajor([3, 2]) }]),
    'outside',
  ],
])('%s is refused', async (_, rows, checkpoint, what) => {
  await expect(plan(rows, checkpoint)).rejects.toMatchObject({
    code: 'bad_checkpoint',
    message: expect.stringContaining(what),
    details: { tensor: 'ids' },
  });
});
