import { randomBytes } from 'node:crypto';
import type { Stats } from 'node:fs';
import { type FileHandle, lstat, open, readlink, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { type ErrorCode, shortageOf, TerabagError } from '../errors.js';
import { fileError } from './file-error.js';

/** Name of a file that is being written: a killed process leaves it behind. */
const TEMPORARY = /^(.+)\.\d+(?:\.[0-9a-f]+)?\.tmp$/;

/** The final name of what a process left half-written under this one; null of other files. */
export const finalName = (name: string): string | null => TEMPORARY.exec(name)?.[1] ?? null;

/**
 * A file that is written beside its final name, and gets that with commit: readers see the old file or the whole new one. A device or a pipe
 * (/dev/stdout, a FIFO) is written to as it is: a rename would put a file in its place. A symbolic link is replaced, not what it leads to.
 */
export class AtomicFile {
  /** Null when the path itself is written to. */
  readonly #temporary: string | null;

  private constructor(
    readonly path: string,
    temporary: string | null,
    readonly file: FileHandle,
  ) {
    this.#temporary = temporary;
  }

  static async create(path: string): Promise<AtomicFile> {
    const there = await whatIsAt(path);
    // The rename would tell, after the work.
    if (there?.isDirectory()) throw fileError({ code: 'EISDIR' }, UNWRITABLE, path, 'invalid_argument');
    if (!isReplaced(there)) return new AtomicFile(path, null, await open(path, 'w').catch(cannotWrite(path)));
    if (there !== null) await refuseDescriptor(path);
    // Of this writer alone: others of the same path, of this process or of one with its number elsewhere, have theirs.
    const temporary = `${path}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`;
    return new AtomicFile(path, temporary, await open(temporary, 'wx').catch(cannotWrite(path)));
  }

  /**
   * Flushes, renames, and flushes the directory. When it fails, discard. The check reads what was written, before it has its name; what went
   * into a device or a pipe cannot be read again.
   */
  async commit(check: (written: string) => Promise<void> = async () => undefined): Promise<void> {
    if (this.#temporary === null) return this.file.close();
    await this.file.sync();
    await this.file.close();
    await check(this.#temporary);
    await rename(this.#temporary, this.path).catch(cannotWrite(this.path));
    await syncDirectory(dirname(this.path));
  }

  async discard(): Promise<void> {
    await this.file.close().catch(() => undefined);
    if (this.#temporary !== null) await rm(this.#temporary, { force: true });
  }
}

const whatIsAt = (path: string): Promise<Stats | null> => stat(path).catch(() => null);

/** Whether writing puts a new file in the place of what is there; else that is written to as it is. */
export const replaces = async (path: string): Promise<boolean> => isReplaced(await whatIsAt(path));
const isReplaced = (there: Stats | null): boolean => there === null || there.isFile();

/** Of what is there: /dev/stdout and the like when a shell has put a file there: a rename would replace the link, and what is written would be in neither. */
async function refuseDescriptor(path: string): Promise<void> {
  for (let at = path; (await lstat(at).catch(() => null))?.isSymbolicLink(); at = resolve(dirname(at), await readlink(at))) {
    if (!/^\/proc\/.+\/fd$/.test(await realpath(dirname(at)))) continue;
    throw new TerabagError(
      'invalid_argument',
      `${UNWRITABLE}, since it is an open descriptor of this process; name the file itself: ${path}`,
      {
        path,
      },
    );
  }
}

const UNWRITABLE = 'file cannot be written';

/** What keeps the caller from a path of their choice is theirs to mend; a full disk is for the caller to tell. */
const cannotWrite =
  (path: string) =>
  (error: NodeJS.ErrnoException): never => {
    if (error.code === 'ENOSPC' || error.code === 'EDQUOT') throw error;
    throw fileError(error, UNWRITABLE, path, 'invalid_argument');
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

/**
 * Writes a file atomically; when that fails, nothing is left. A full disk is does_not_fit; no file descriptor left, overloaded; a reader of a pipe
 * that has gone, aborted.
 */
export async function writeAtomic(path: string, write: (file: FileHandle) => Promise<void>): Promise<void> {
  const atomic = await AtomicFile.create(path).catch((error: unknown) => {
    throw outputError(error, path);
  });
  try {
    await write(atomic.file);
    await atomic.commit();
  } catch (error) {
    await atomic.discard();
    throw outputError(error, path);
  }
}

const FULL_CODES: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/**
 * What the system says of a write, with what to do when the disk is full, or the process is short of something; a TerabagError, or what the
 * system did not say, stays as it is.
 */
export function outputError(error: unknown, output: string, whenFull = 'no room left on the disk; make room, and try again'): TerabagError {
  const { code, path = output, message } = error as NodeJS.ErrnoException;
  if (error instanceof TerabagError || code === undefined) return TerabagError.from(error);
  const details = { path, reason: code };
  const told = (errorCode: ErrorCode, what: string): TerabagError =>
    new TerabagError(errorCode, `${what}: ${path}, ${message}`, details, { cause: error });
  if (FULL_CODES.has(code)) return told('does_not_fit', `${whenFull} (${code})`);
  if (code === 'EPIPE') return told('aborted', `nobody reads the output any more (${code})`);
  const shortage = shortageOf(code);
  if (shortage !== null) return told(shortage.code, `output cannot be written (${code}): ${shortage.help}`);
  return told('invalid_argument', `output cannot be written (${code})`);
}

/**
 * Refuses a path that writeAtomic could not write to, before the work whose result it is for: the message begins with the option that names it. A
 * device or a pipe is left alone, since the reader of a pipe would take this for the end.
 */
export async function refuseUnwritable(field: string, path: string): Promise<void> {
  const there = await whatIsAt(path);
  if (!isReplaced(there) && !there?.isDirectory()) return;
  try {
    await (await AtomicFile.create(path)).discard();
  } catch (error) {
    const { code, message, details } = outputError(error, path);
    throw new TerabagError(code, `${field}: ${message}`, { ...details, field }, { cause: error });
  }
}

export function writeFileAtomic(path: string, data: string | Uint8Array): Promise<void> {
  return writeAtomic(path, async (file) => {
    await file.writeFile(data);
  });
}
