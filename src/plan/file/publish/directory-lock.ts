import { mkdir, open, readFile, rm, rmdir, stat, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { TerabagError } from '../../../errors.js';

/** Says which process writes to a shard's directory: "pid host". */
export const LOCK_FILE = 'publishing.lock';

/** A writer that lives touches its lock this often; one that did not for STALE_MS is dead, wherever it ran. */
const TOUCH_MS = 5_000;
const STALE_MS = 60_000;

/** Each is lost to another writer that came and went in between. */
const MOST_TRIES = 10;

/** Those of this process: its pid alone does not tell a lock of now from one that an earlier process with the pid left. */
const heldHere = new Set<string>();

/**
 * Held while a shard's directory is written: two writers at once would take each other's half-written files for those of a killed run. The lock
 * of a process that was killed does not count. Two that find a dead one in the same moment may both get in, and then one of them fails: what
 * they write are the same bytes, and each file appears whole.
 */
export class DirectoryLock {
  readonly #touching: NodeJS.Timeout;

  private constructor(
    private readonly dir: string,
    private readonly path: string,
    /** Whether the directory was not there before. */
    private readonly made: boolean,
  ) {
    this.#touching = setInterval(() => {
      const now = new Date();
      // Removed by somebody who knows better.
      utimes(path, now, now).catch(() => undefined);
    }, TOUCH_MS);
    this.#touching.unref();
  }

  /** Makes the directory when it is not there. When another process, or call, writes to it, it is refused (invalid_argument). */
  static async take(dir: string): Promise<DirectoryLock> {
    const path = join(resolve(dir), LOCK_FILE);
    if (heldHere.has(path)) throw refused(dir, `process ${process.pid}, this one`);
    // Before anything is awaited: no other call of this process gets further.
    heldHere.add(path);
    let made = false;
    try {
      for (let tries = 0; tries < MOST_TRIES; tries++) {
        made = (await mkdir(dir, { recursive: true })) !== undefined;
        if (await create(path)) return new DirectoryLock(dir, path, made);
        const holder = await holderOf(path);
        if (holder?.alive) throw refused(dir, holder.told);
        if (holder !== null) await rm(path, { force: true });
      }
      throw refused(dir, 'others come and go');
    } catch (error) {
      heldHere.delete(path);
      if (made) await rmdir(dir).catch(() => undefined);
      throw error;
    }
  }

  /** A directory that was made for it, and got nothing else, goes too. */
  async release(): Promise<void> {
    clearInterval(this.#touching);
    await rm(this.path, { force: true });
    heldHere.delete(this.path);
    if (this.made) await rmdir(this.dir).catch(() => undefined);
  }
}

const refused = (dir: string, holder: string): TerabagError =>
  new TerabagError('invalid_argument', `another publish is writing to the directory: ${dir}, ${holder}`, { path: dir });

/** False when it is there, or the directory just went with another's lock. */
async function create(path: string): Promise<boolean> {
  const file = await open(path, 'wx').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST' || error.code === 'ENOENT') return null;
    throw error;
  });
  if (file === null) return false;
  try {
    await file.writeFile(`${process.pid} ${hostname()}\n`);
    return true;
  } catch (error) {
    // Without its holder it would keep others out until it is stale.
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

/** Who holds a lock that this process does not hold; null when it is there no more. */
async function holderOf(path: string): Promise<{ readonly alive: boolean; readonly told: string } | null> {
  try {
    const [{ mtimeMs }, text] = await Promise.all([stat(path), readFile(path, 'utf8')]);
    const [, pid = '', host = ''] = /^(\d+) (.+)\n$/.exec(text) ?? [];
    // Between being made and being written it says nothing.
    const told = pid === '' ? 'just begun' : `process ${pid} on ${host}`;
    const stale = Date.now() - mtimeMs > STALE_MS;
    return { told, alive: !stale && (host !== hostname() || (await isAlive(Number(pid)))) };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

async function isAlive(pid: number): Promise<boolean> {
  // Left by an earlier process with this pid.
  if (pid === process.pid) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  // A killed process keeps its number until its parent asks for it, in some containers for ever.
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return !/\) [ZX] /.test(stat);
}
