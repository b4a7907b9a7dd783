import type { FileHandle } from 'node:fs/promises';

/**
 * Linux keeps what one write brings into the page cache on 2 MiB pages where the write covers them whole. Blocks that start at multiples of
 * this size leave a new table ready to be mapped on huge pages; the same bytes written at other offsets stay half on small pages.
 */
const BLOCK_BYTES = 4 * 1024 * 1024;

/** Writes a file from its start, in order, in blocks that are aligned in the file. */
export class BlockWriter {
  readonly #block: Uint8Array;
  #filled = 0;

  /** totalBytes: of the whole file; a small file needs no whole block. */
  constructor(
    private readonly file: FileHandle,
    totalBytes: number,
  ) {
    this.#block = new Uint8Array(Math.min(BLOCK_BYTES, Math.max(1, totalBytes)));
  }

  /** The bytes are copied. */
  async put(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const piece = bytes.subarray(at, at + this.#block.length - this.#filled);
      this.#block.set(piece, this.#filled);
      this.#filled += piece.length;
      at += piece.length;
      if (this.#filled === this.#block.length) await this.flush();
    }
  }

  async flush(): Promise<void> {
    for (let at = 0; at < this.#filled; ) at += (await this.file.write(this.#block, at, this.#filled - at)).bytesWritten;
    this.#filled = 0;
  }
}
