import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { refuseUnwritable, writeAtomic, writeFileAtomic } from '../../../src/tables/atomic.js';
import { type SafetensorsHeader, writeSafetensors } from '../../../src/tables/safetensors.js';

let dir: string;
let path: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
  path = join(dir, 'file');
  await writeFileAtomic(path, 'old');
});
afterAll(() => rm(dir, { recursive: true }));

const left = async (): Promise<[string[], string]> => [await readdir(dir), await readFile(path, 'utf8')];

test('a write that fails in the middle leaves the old file and no other', async () => {
  const fail = writeAtomic(path, async (file) => {
    await file.writeFile('half of the ne');
    expect(await readFile(path, 'utf8')).toBe('old');
    throw new Error('disk full');
  });
  await expect(fail).rejects.toThrow('disk full');
  expect(await left()).toEqual([['file'], 'old']);
});

test('tensors whose data differ from their shape leave the old file', async () => {
  for (const data of [new Uint8Array(15), new Uint8Array(17), [new Uint8Array(8), new Uint8Array(4)]]) {
    await expect(writeSafetensors(path, [{ name: 'w', dtype: 'F32', shape: [2, 2], data }])).rejects.toMatchObject({
      code: 'invalid_argument',
    });
    expect(await left()).toEqual([['file'], 'old']);
  }
});

test('what was written is read before it has its name; what its check refuses leaves the old file', async () => {
  const tensors = [{ name: 'w', dtype: 'F32', shape: [1], data: new Uint8Array(4) }];
  const names: string[] = [];
  const check = async (written: SafetensorsHeader): Promise<void> => {
    names.push(...written.tensors.keys());
    expect(await readFile(path, 'utf8')).toBe('old');
    throw new Error('unfit');
  };
  await expect(writeSafetensors(path, tensors, { check })).rejects.toThrow('unfit');
  expect(names).toEqual(['w']);
  expect(await left()).toEqual([['file'], 'old']);
});

test('a path that cannot be written is refused by name', async () => {
  for (const bad of [join(dir, 'none/file'), join(path, 'below'), dir])
    await expect(writeFileAtomic(bad, 'x')).rejects.toMatchObject({
      code: 'invalid_argument',
      details: { path: bad },
      message: expect.stringMatching(/^file cannot be written \(E(NOENT|NOTDIR|ISDIR)\): /),
    });
  expect(await left()).toEqual([['file'], 'old']);
});

test('a path that could not be written is refused with the option that names it; what can be is left as it is, a pipe without a reader too', async () => {
  for (const [bad, reason] of [
    [join(dir, 'none/file'), 'ENOENT'],
    [join(path, 'below'), 'ENOTDIR'],
    [dir, 'EISDIR'],
  ])
    await expect(refuseUnwritable('--out', bad!)).rejects.toMatchObject({
      code: 'invalid_argument',
      message: `--out: file cannot be written (${reason}): ${bad}`,
      details: { path: bad, reason, field: '--out' },
    });
  for (const good of [path, join(dir, 'new'), '/dev/null']) await refuseUnwritable('--out', good);
  execFileSync('mkfifo', [join(dir, 'pipe')]);
  await refuseUnwritable('--out', join(dir, 'pipe'));
  await rm(join(dir, 'pipe'));
  expect(await left()).toEqual([['file'], 'old']);
});

test('a write that ends replaces the file', async () => {
  await writeFileAtomic(path, 'new');
  expect(await left()).toEqual([['file'], 'new']);
});
