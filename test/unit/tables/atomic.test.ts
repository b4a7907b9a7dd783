import { execFileSync } from 'node:child_process';
import { mkdtemp, open, readdir, readFile, rm, symlink } from 'node:fs/promises';
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

test('writers of one path, at the same time and in one process, leave the file of one of them', async () => {
  const contents = Array.from({ length: 6 }, (_, n) => String(n).repeat(200_000 * (n + 1)));
  for (let round = 0; round < 10; round++) {
    await Promise.all(contents.map((content) => writeFileAtomic(path, content)));
    expect(contents).toContain(await readFile(path, 'utf8'));
  }
  await writeFileAtomic(path, 'old');
  expect(await left()).toEqual([['file'], 'old']);
});

test('a link is replaced, and what it leads to stays', async () => {
  const links = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
  const [target, link, loop] = ['target', 'link', 'loop'].map((name) => join(links, name)) as [string, string, string];
  await writeFileAtomic(target, 'old');
  await symlink(target, link);
  await writeFileAtomic(link, 'new');
  expect([await readFile(target, 'utf8'), await readFile(link, 'utf8')]).toEqual(['old', 'new']);
  await symlink(loop, loop);
  await writeFileAtomic(loop, 'new');
  await rm(links, { recursive: true });
});

// Elsewhere /dev/fd holds devices, which are written to as they are.
test.skipIf(process.platform !== 'linux')('a descriptor of the process that is a file is refused', async () => {
  const links = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
  const target = join(links, 'target');
  await writeFileAtomic(target, 'old');
  const file = await open(target, 'r+');
  try {
    const descriptor = join(links, 'stdout');
    await symlink(`/proc/self/fd/${file.fd}`, descriptor);
    for (const given of [descriptor, `/proc/self/fd/${file.fd}`, `/dev/fd/${file.fd}`]) {
      await expect(writeFileAtomic(given, 'x')).rejects.toMatchObject({ code: 'invalid_argument', details: { path: given } });
      await expect(refuseUnwritable('--output', given)).rejects.toThrow(/^--output: .*name the file itself/);
    }
    expect(await readFile(target, 'utf8')).toBe('old');
  } finally {
    await file.close();
    await rm(links, { recursive: true });
  }
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
