import type { StatsFs } from 'node:fs';
import { mkdir, readdir, rm, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { TerabagError } from '../errors.js';
import { outputError } from './atomic.js';
import { fileError } from './file-error.js';

/** Refuses a directory that holds something; of what may be left of a killed command it says so, since a bundle gets its model.json last. */
export async function refuseUsed(directory: string): Promise<void> {
  const entries = await readdir(directory).catch((error: NodeJS.ErrnoException): string[] => {
    if (error.code === 'ENOENT') return [];
    throw fileError(error, 'output has to be a directory', directory, 'invalid_argument');
  });
  if (entries.length === 0) return;
  const next = entries.includes('model.json')
    ? 'which are a bundle; name another directory'
    : 'and no model.json; when a command that was killed left them, remove the directory and run it again; else name another one';
  throw new TerabagError('invalid_argument', `output has to be empty or not there: ${directory} holds ${entries.length} files, ${next}`, {
    path: directory,
  });
}

/** Makes the directory and fills it; when that fails, nothing of it is left. It was empty or not there. */
export async function fillDirectory<T>(directory: string, fill: () => Promise<T>): Promise<T> {
  const created = await mkdir(directory, { recursive: true }).catch((error: unknown) => {
    throw outputError(error, directory);
  });
  try {
    return await fill();
  } catch (error) {
    // The first failure is what is told: what removes (without descriptors, say) may fail of the same.
    await (created === undefined ? empty(directory) : rm(created, { recursive: true, force: true })).catch(() => undefined);
    throw outputError(error, directory);
  }
}

async function empty(directory: string): Promise<void> {
  for (const entry of await readdir(directory)) await rm(join(directory, entry), { recursive: true, force: true });
}

/** Filesystems keep lists of blocks, and other programs write too. */
const ROOM_TO_SPARE = 1.02;

/** Refuses when the filesystem that the directory is on, or will be, has no room for so many bytes. */
export async function checkRoom(directory: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfsOrParent(resolve(directory));
  const free = bavail * bsize;
  if (free < bytes * ROOM_TO_SPARE)
    throw new TerabagError('does_not_fit', `not enough room on the disk: ${directory} has ${free} bytes, needed are ${Math.ceil(bytes)}`, {
      path: directory,
      free,
      bytes,
    });
}

/** The filesystem of the directory, or of the nearest above it that is there. */
async function statfsOrParent(directory: string): Promise<StatsFs> {
  return statfs(directory).catch((error: NodeJS.ErrnoException) => {
    const parent = dirname(directory);
    if (error.code !== 'ENOENT' || parent === directory)
      throw fileError(error, 'output has to be a directory', directory, 'invalid_argument');
    return statfsOrParent(parent);
  });
}
