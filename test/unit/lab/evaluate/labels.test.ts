import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Label, LabelReader } from '../../../../src/lab/evaluate/labels.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-test-'));
});
afterAll(() => rm(dir, { recursive: true }));

let files = 0;
async function reader(text: string): Promise<LabelReader> {
  const path = join(dir, `labels-${files++}.jsonl`);
  await writeFile(path, text);
  return new LabelReader(path);
}

async function readAll(text: string, items: readonly number[]): Promise<Label[][]> {
  const labels = await reader(text);
  const all: Label[][] = [];
  try {
    for (const [at, count] of items.entries()) all.push(await labels.take(at + 1, count));
    await labels.end(items.length);
    return all;
  } finally {
    await labels.close();
  }
}

test('all ways to write labels give the same ones', async () => {
  const label = fc.constantFrom<Label>(0, 1, null);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(label, { maxLength: 4 }), { minLength: 1, maxLength: 8 }), async (requests) => {
      fc.pre(requests.some((labels) => labels.length > 0));
      const items = requests.map(({ length }) => length);
      const lines = (each: readonly unknown[]): string => each.map((value) => `${JSON.stringify(value)}\n`).join('');
      expect(await readAll(lines(requests), items)).toEqual(requests);
      expect(await readAll(lines(requests.map((labels) => ({ labels, other: 1 }))), items)).toEqual(requests);
      expect(await readAll(lines(requests.flat()), items)).toEqual(requests);
    }),
    { numRuns: 50 },
  );
});

test.each([
  ['labels that end early', '[1]\n', [1, 1], /labels end before request 2/],
  ['no labels', '', [1], /labels end before request 1/],
  ['items that end early', '1\n0\n', [3], /labels end before request 1/],
  ['a request too many', '[1]\n[0]\n', [1], /line 2: there are more labels than the 1 requests have items/],
  ['an item too many', '1\n0\n', [1], /line 2: there are more labels/],
  ['labels of another number of items', '[1,0]\n[1]\n', [2, 2], /line 2: request 2 has 2 items, and 1 labels/],
  ['2', '[1,2]\n', [2], /line 1: a label is 0, 1 or null: 2$/],
  ['a text', '"1"\n', [1], /line 1: a label is 0, 1 or null: the string "1"$/],
  ['true', 'true\n', [1], /line 1: a label is 0, 1 or null: true$/],
  ['a half', '1\n0.5\n', [2], /line 2: a label is 0, 1 or null: 0.5$/],
  ['an object without labels', '{"label":[1]}\n', [1], /line 1: labels of a request are a list/],
  ['an item among requests', '[1]\n1\n', [1, 1], /line 2: labels of a request are a list.*: 1$/],
  ['a request among items', '1\n[1]\n', [1, 1], /line 2: a label is 0, 1 or null: an array$/],
  ['what is no JSON', '[1]\n[1\n', [1, 1], /line 2: /],
])('%s are refused', async (_, text, items, message) => {
  await expect(readAll(text, items)).rejects.toMatchObject({ code: 'invalid_argument', message: expect.stringMatching(message) });
});

test('a file that is not there is refused', async () => {
  await expect(new LabelReader(join(dir, 'none')).take(1, 1)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(/^labels cannot be read \(ENOENT\): .*none$/),
    details: { reason: 'ENOENT' },
  });
});
