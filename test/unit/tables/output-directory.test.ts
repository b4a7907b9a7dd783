import { mkdtemp, readdir, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { writeFileAtomic } from '../../../src/tables/atomic.js';
import { fillDirectory } from '../../../src/tables/output-directory.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
});
afterAll(() => rm(dir, { recursive: true }));

const systemError = (code: string): Error => Object.assign(new Error(`${code}: what the system says`), { code });

test.each([
  ['ENOSPC', 'does_not_fit', /no room left.*ENOSPC/],
  ['EDQUOT', 'does_not_fit', /no room left.*EDQUOT/],
  ['EROFS', 'invalid_argument', /output cannot be written.*EROFS/],
])('a directory that cannot be filled (%s) is told as %s, and nothing of it is left', async (said, code, message) => {
  const output = join(dir, 'new/output');
  const filling = fillDirectory(output, async () => {
    await writeFileAtomic(join(output, 'first'), 'x');
    throw systemError(said);
  });
  await expect(filling).rejects.toMatchObject({ code, message: expect.stringMatching(message), details: { path: output } });
  expect(await readdir(dir)).toEqual([]);
});

test('a directory that cannot be made is refused by name', async () => {
  const output = join(dir, 'dangling');
  await symlink(join(dir, 'nowhere/below'), output);
  await expect(fillDirectory(output, () => Promise.resolve())).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringContaining(output),
  });
  await rm(output);
});

test('what was wrong with the content stays as it is', async () => {
  const wrong = new TerabagError('bad_table', 'of the source');
  await expect(fillDirectory(join(dir, 'output'), () => Promise.reject(wrong))).rejects.toBe(wrong);
});
