import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DirectoryLock, LOCK_FILE } from '../../../../src/plan/file/publish/directory-lock.js';

let dir: string;
let shard: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-lock-'));
  shard = join(dir, 'out/shard-0');
});
afterEach(() => rm(dir, { recursive: true }));

const refused = (holder: string) =>
  expect(DirectoryLock.take(shard)).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { path: shard },
    message: expect.stringContaining(`${shard}, ${holder}`),
  });

/** The pid of a process that has ended. */
const deadPid = (): number => spawnSync('true').pid;

async function leaveLock(text: string): Promise<void> {
  await mkdir(shard, { recursive: true });
  await writeFile(join(shard, LOCK_FILE), text);
}

test('one holds a directory at a time, and the next one gets it when it is released', async () => {
  const first = await DirectoryLock.take(shard);
  expect(await readdir(shard)).toEqual([LOCK_FILE]);
  await refused(`process ${process.pid}, this one`);
  expect(await readdir(shard)).toEqual([LOCK_FILE]);
  await first.release();
  const second = await DirectoryLock.take(shard);
  await second.release();
});

test('a directory that was made for the lock goes with it; one that was there, or got files, stays', async () => {
  await (await DirectoryLock.take(shard)).release();
  expect(existsSync(shard)).toBe(false);
  const filled = await DirectoryLock.take(shard);
  await writeFile(join(shard, 'model.json'), '{}');
  await filled.release();
  expect(await readdir(shard)).toEqual(['model.json']);
  await mkdir(join(dir, 'mine'));
  await (await DirectoryLock.take(join(dir, 'mine'))).release();
  expect(await readdir(join(dir, 'mine'))).toEqual([]);
});

test('the lock of a process that lives counts, here or on another host', async () => {
  for (const holder of [`${process.ppid} ${hostname()}`, `${deadPid()} elsewhere`]) {
    await leaveLock(`${holder}\n`);
    await refused(`process ${holder.replace(' ', ' on ')}`);
    expect(existsSync(join(shard, LOCK_FILE))).toBe(true);
  }
  await leaveLock('');
  await refused('just begun');
});

test.skipIf(process.platform !== 'linux')('the lock of a killed process that nobody waited for does not count', async () => {
  const parent = spawn('sh', ['-c', 'sleep 0.2 & echo $!; exec sleep 60'], { stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    const [printed] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(printed.toString());
    await expect.poll(() => readFile(`/proc/${pid}/stat`, 'utf8'), { timeout: 10_000 }).toMatch(/\) Z /);
    await leaveLock(`${pid} ${hostname()}\n`);
    await (await DirectoryLock.take(shard)).release();
  } finally {
    parent.kill('SIGKILL');
  }
});

test('the lock of a killed process does not count, nor one that nobody touched for long', async () => {
  for (const holder of [deadPid(), process.pid]) {
    await leaveLock(`${holder} ${hostname()}\n`);
    await (await DirectoryLock.take(shard)).release();
  }
  for (const text of [`1 ${hostname()}\n`, '7 elsewhere\n', '']) {
    await leaveLock(text);
    const longAgo = new Date(Date.now() - 61_000);
    await utimes(join(shard, LOCK_FILE), longAgo, longAgo);
    await (await DirectoryLock.take(shard)).release();
    expect(await readdir(shard)).toEqual([]);
  }
});
