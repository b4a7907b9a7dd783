import { open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import type { TerabagError } from '../errors.js';
import type { Extent } from './blocks.js';
import { fileError } from './file-error.js';

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
    return crc32Digits(this.#value);
  }

  /** The sums so far; more bytes may follow. */
  digest(): FileChecksum {
    return { bytes: this.#bytes, crc32: this.#bytes % CHUNK_BYTES === 0 ? [...this.#chunks] : [...this.#chunks, this.#hex()] };
  }
}

/** Reads the whole file in order, which also brings it into the page cache. */
export async function checksumFile(path: string, onBytes?: (bytes: number) => void): Promise<FileChecksum> {
  const sum = new ChunkedCrc32();
  await readFrom(path, 0, Number.POSITIVE_INFINITY, (bytes) => {
    sum.update(bytes);
    onBytes?.(bytes.length);
  });
  return sum.digest();
}

/** zlib's crc32 of one extent of the file, 8 lower-case hex digits. */
export async function checksumExtent(path: string, { from, bytes }: Extent, onBytes?: (bytes: number) => void): Promise<string> {
  let value = 0;
  await readFrom(path, from, bytes, (read) => {
    value = crc32(read, value);
    onBytes?.(read.length);
  });
  return crc32Digits(value);
}

/** A crc32 as model.json has it. */
export const crc32Digits = (value: number): string => (value >>> 0).toString(16).padStart(8, '0');

/** Bytes are good until onBytes returns. */
async function readFrom(path: string, from: number, length: number, onBytes: (bytes: Uint8Array) => void): Promise<void> {
  const unreadable = (error: unknown): TerabagError => fileError(error, 'file cannot be read', path, 'bad_table');
  const file = await open(path, 'r').catch((error: unknown) => {
    throw unreadable(error);
  });
  try {
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (let at = 0; at < length; ) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(READ_BYTES, length - at), from + at).catch((error: unknown) => {
        throw unreadable(error);
      });
      if (bytesRead === 0) return;
      onBytes(buffer.subarray(0, bytesRead));
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}
