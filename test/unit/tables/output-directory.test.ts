import { mkdtemp, readdir, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { writeFileAtomic } from '../../../src/tables/atomic.js';
import { checkRoom, fillDirectory, refuseUsed } from '../../../src/tables/output-directory.js';

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
  ['EMFILE', 'overloaded', /output cannot be written \(EMFILE\).*ulimit -n/],
  ['ENFILE', 'overloaded', /output cannot be written \(ENFILE\).*fs\.file-max/],
])('a directory that cannot be filled (%s) is told as %s, and nothing of it is left', async (said, code, message) => {
  const output = join(dir, 'new/output');
  const filling = fillDirectory(output, async () => {
    await writeFileAtomic(join(output, 'first'), 'x');
    throw systemError(said);
  });
  await expect(filling).rejects.toMatchObject({ code, message: expect.stringMatching(message), details: { path: output, reason: said } });
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

test('a directory below a file is refused before anything is made, with the reason', async () => {
  await writeFileAtomic(join(dir, 'file'), 'x');
  const output = join(dir, 'file/output');
  const refusal = {
    code: 'invalid_argument',
    message: `output has to be a directory (ENOTDIR): ${output}`,
    details: { path: output, reason: 'ENOTDIR' },
  };
  await expect(refuseUsed(output)).rejects.toMatchObject(refusal);
  await expect(checkRoom(output, 1)).rejects.toMatchObject(refusal);
  await rm(join(dir, 'file'));
});

test('what was wrong with the content stays as it is', async () => {
  const wrong = new TerabagError('bad_table', 'of the source');
  await expect(fillDirectory(join(dir, 'output'), () => Promise.reject(wrong))).rejects.toBe(wrong);
});
