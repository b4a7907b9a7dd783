import { TerabagError } from '../../src/errors.js';
import type { CheckpointFiles } from '../../src/import/open-files.js';

/** Files that are only bytes. */
export class FilesInMemory implements CheckpointFiles {
  constructor(readonly files: ReadonlyMap<string, Uint8Array>) {}

  async read(path: string, from: number, length: number): Promise<Buffer> {
    const into = Buffer.alloc(length);
    await this.readInto(path, from, into);
    return into;
  }

  async readInto(path: string, from: number, into: Uint8Array): Promise<void> {
    const bytes = this.#bytes(path);
    if (from < 0 || from + into.length > bytes.length)
      throw new TerabagError('bad_checkpoint', `file ends before: ${path}, ${from + into.length}`, { path });
    into.set(bytes.subarray(from, from + into.length));
  }

  async size(path: string): Promise<number> {
    return this.#bytes(path).length;
  }

  #bytes(path: string): Uint8Array {
    const bytes = this.files.get(path);
    if (bytes === undefined) throw new TerabagError('bad_checkpoint', `no such file: ${path}`, { path });
    return bytes;
  }
}
