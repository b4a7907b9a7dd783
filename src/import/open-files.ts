import type { FileHandle } from 'node:fs/promises';
import { openToRead } from '../tables/blocks.js';
import { fileError } from '../tables/file-error.js';
import { badCheckpoint } from './checkpoint.js';

/** Checkpoints of many ranks have thousands of files. */
const MOST_OPEN = 32;

/** Files that can be read at any place. A file that ends before what is asked for is a bad_checkpoint. */
export interface CheckpointFiles {
  /** Bytes from `from` on, in memory of their own. */
  read(path: string, from: number, length: number): Promise<Buffer>;
  readInto(path: string, from: number, into: Uint8Array): Promise<void>;
  size(path: string): Promise<number>;
}

/** Files of a checkpoint, opened when they are read, a few at a time. Whoever reads has to wait before the next read of another file. */
export class OpenFiles implements CheckpointFiles {
  readonly #open = new Map<string, FileHandle>();

  async read(path: string, from: number, length: number): Promise<Buffer> {
    const into = Buffer.alloc(length);
    await this.readInto(path, from, into);
    return into;
  }

  async readInto(path: string, from: number, into: Uint8Array): Promise<void> {
    const file = await this.#fileOf(path);
    for (let at = 0; at < into.length; ) {
      const { bytesRead } = await file.read(into, at, into.length - at, from + at).catch((error: unknown) => {
        throw fileError(error, 'file cannot be read', path, 'bad_checkpoint');
      });
      if (bytesRead === 0) throw badCheckpoint(path, `file ends at byte ${from + at}, expected ${from + into.length} (truncated?)`);
      at += bytesRead;
    }
  }

  async size(path: string): Promise<number> {
    return (await (await this.#fileOf(path)).stat()).size;
  }

  async #fileOf(path: string): Promise<FileHandle> {
    const known = this.#open.get(path);
    if (known !== undefined) return known;
    const [oldest] = this.#open;
    if (oldest !== undefined && this.#open.size >= MOST_OPEN) {
      this.#open.delete(oldest[0]);
      await oldest[1].close();
    }
    const file = await openToRead(path).catch((error: unknown) => {
      throw fileError((error as Error).cause ?? error, 'file cannot be opened', path, 'bad_checkpoint');
    });
    this.#open.set(path, file);
    return file;
  }

  async close(): Promise<void> {
    const files = [...this.#open.values()];
    this.#open.clear();
    for (const file of files) await file.close();
  }
}
