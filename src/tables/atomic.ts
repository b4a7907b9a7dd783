import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { TerabagError } from '../errors.js';

/** Name of a file that is being written: a killed process leaves it behind. */
const TEMPORARY = /^(.+)\.\d+\.tmp$/;

/** The final name of what a process left half-written under this one; null of other files. */
export const finalName = (name: string): string | null => TEMPORARY.exec(name)?.[1] ?? null;

/** A file that is written beside its final name, and gets that with commit: readers see the old file or the whole new one. */
export class AtomicFile {
  readonly #temporary: string;

  private constructor(
    readonly path: string,
    temporary: string,
    readonly file: FileHandle,
  ) {
    this.#temporary = temporary;
  }

  static async create(path: string): Promise<AtomicFile> {
    const temporary = `${path}.${process.pid}.tmp`;
    return new AtomicFile(path, temporary, await open(temporary, 'w').catch(cannotWrite(path)));
  }

  /** Flushes, renames, and flushes the directory. When it fails, discard. */
  async commit(): Promise<void> {
    await this.file.sync();
    await this.file.close();
    await rename(this.#temporary, this.path).catch(cannotWrite(this.path));
    await syncDirectory(dirname(this.path));
  }

  async discard(): Promise<void> {
    await this.file.close().catch(() => undefined);
    await rm(this.#temporary, { force: true });
  }
}

/** What keeps the caller from a path of their choice is theirs to mend; a full disk is for the caller to tell. */
const cannotWrite =
  (path: string) =>
  (error: NodeJS.ErrnoException): never => {
    if (error.code === 'ENOSPC' || error.code === 'EDQUOT') throw error;
    throw new TerabagError('invalid_argument', `file cannot be written (${error.code}): ${path}`, { path }, { cause: error });
  };

/** What was created, renamed or removed in a directory lasts from here on. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Writes a file atomically; when that fails, nothing is left. */
export async function writeAtomic(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const atomic = await AtomicFile.create(path);
  try {
    await write(atomic.file);
    await atomic.commit();
  } catch (error) {
    await atomic.discard();
    throw error;
  }
}

/** Refuses a path that writeAtomic could not write to, before the work whose result it is for. */
export async function refuseUnwritable(path: string): Promise<void> {
  await (await AtomicFile.create(path)).discard();
}

export function writeFileAtomic(path: string, data: string | Uint8Array): Promise<void> {
  return writeAtomic(path, async (file) => {
    await file.writeFile(data);
  });
}
