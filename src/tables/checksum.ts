import { open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';

/** Checksums cover chunks of this size, so that a flipped bit is located and chunks can be checked apart. */
export const CHUNK_BYTES = 64 * 1024 * 1024;
const READ_BYTES = 4 * 1024 * 1024;

export interface FileChecksum {
  readonly bytes: number;
  /** zlib's crc32 per chunk, 8 lower-case hex digits. */
  readonly crc32: string[];
}

/** Takes a file's bytes in order and gives one crc32 per chunk. */
export class ChunkedCrc32 {
  #bytes = 0;
  #value = 0;
  readonly #chunks: string[] = [];

  update(data: Uint8Array): void {
    for (let at = 0; at < data.byteLength; ) {
      const take = Math.min(data.byteLength - at, CHUNK_BYTES - (this.#bytes % CHUNK_BYTES));
      this.#value = crc32(data.subarray(at, at + take), this.#value);
      at += take;
      this.#bytes += take;
      if (this.#bytes % CHUNK_BYTES === 0) this.#closeChunk();
    }
  }

  #closeChunk(): void {
    this.#chunks.push(this.#hex());
    this.#value = 0;
  }

  #hex(): string {
    return (this.#value >>> 0).toString(16).padStart(8, '0');
  }

  /** The sums so far; more bytes may follow. */
  digest(): FileChecksum {
    return { bytes: this.#bytes, crc32: this.#bytes % CHUNK_BYTES === 0 ? [...this.#chunks] : [...this.#chunks, this.#hex()] };
  }
}

/** Reads the whole file in order, which also brings it into the page cache. */
export async function checksumFile(path: string, onBytes?: (bytes: number) => void): Promise<FileChecksum> {
  const file = await open(path, 'r');
  try {
    const sum = new ChunkedCrc32();
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, READ_BYTES, null);
      if (bytesRead === 0) return sum.digest();
      sum.update(buffer.subarray(0, bytesRead));
      onBytes?.(bytesRead);
    }
  } finally {
    await file.close();
  }
}
