import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { torchEasyRecFiles } from '../../../src/import/readers/npz.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-npz-'));
});
afterEach(() => rm(dir, { recursive: true }));

const write = (names: readonly string[]): Promise<unknown> => Promise.all(names.map((name) => writeFile(join(dir, name), '')));
const ranks = (count: number): string[] => Array.from({ length: count }, (_, rank) => `sparse_embeddings-${rank}-of-${count}.npz`);

test('files of ranks are in the order of the numbers of their ranks', async () => {
  await write(ranks(12).toReversed());
  expect(await torchEasyRecFiles(dir)).toEqual(ranks(12));
});

test('kinds of tables have ranks of their own, and other files are none', async () => {
  const keyed = ['sparse_dynamic_embedding-00-of-02.npz', 'sparse_dynamic_embedding-01-of-02.npz'];
  await write([...ranks(1), ...keyed, 'other.npz']);
  expect(await torchEasyRecFiles(dir)).toEqual([...keyed, ...ranks(1)]);
});

test.each([
  ['in the middle', ranks(4).toSpliced(2, 1)],
  ['at the end', ranks(4).slice(0, 3)],
  ['of another export', [...ranks(2), 'sparse_embeddings-2-of-4.npz']],
  ['twice', [...ranks(2), 'sparse_embeddings-00-of-02.npz']],
])('a rank that is missing or too many is refused: %s', async (_, names) => {
  await write(names);
  await expect(torchEasyRecFiles(dir)).rejects.toMatchObject({ code: 'bad_checkpoint' });
});
