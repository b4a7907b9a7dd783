import { type FileHandle, open } from 'node:fs/promises';
import { TerabagError } from '../errors.js';
import { fileError } from './file-error.js';

/** Block of a file that is read from start to end: large enough for the disk, small beside the memory of a process. */
export const BLOCK_BYTES = 4 * 1024 * 1024;

/** As many whole rows as a block has room for, at least one. */
export const rowsInBlock = (rowBytes: number): number => Math.max(1, Math.floor(BLOCK_BYTES / rowBytes));

/** Opens a file for readFully; one that cannot be opened is a bad_table. The caller closes it. */
export function openToRead(path: string): Promise<FileHandle> {
  return open(path, 'r').catch((error: unknown) => {
    throw fileError(error, 'file cannot be opened', path, 'bad_table');
  });
}

/** Fills `into` from the file, starting at byte `from`. A file that ends before, or that cannot be read, is a bad_table. */
export async function readFully(file: FileHandle, path: string, from: number, into: Uint8Array): Promise<void> {
  for (let at = 0; at < into.length; ) {
    const { bytesRead } = await file.read(into, at, into.length - at, from + at).catch((error: unknown) => {
      throw fileError(error, 'file cannot be read', path, 'bad_table');
    });
    if (bytesRead === 0) throw new TerabagError('bad_table', `file ended while it was read: ${path}`, { path });
    at += bytesRead;
  }
}

/** A block of a file at the start of a piece of memory, which has as many bytes again behind it that the reader of the block may use. */
export interface Block {
  readonly memory: Uint8Array;
  readonly bytes: number;
}

export interface Extent {
  readonly from: number;
  readonly bytes: number;
}

/**
 * Reads an extent of a file in blocks of blockBytes, the last one shorter; while one is worked on, the next is read. A block is good until the
 * next is asked for.
 */
export async function* readBlocks(file: FileHandle, path: string, { from, bytes }: Extent, blockBytes: number): AsyncGenerator<Block> {
  const size = Math.min(blockBytes, bytes);
  const memories = [new Uint8Array(2 * size), new Uint8Array(bytes > size ? 2 * size : 0)] as const;
  const read = async (at: number): Promise<Block> => {
    const memory = memories[(at / size) % 2] as Uint8Array;
    const length = Math.min(size, bytes - at);
    await readFully(file, path, from + at, memory.subarray(0, length));
    return { memory, bytes: length };
  };
  let next: Promise<Block> | null = bytes > 0 ? read(0) : null;
  try {
    for (let at = size; next !== null; at += size) {
      const block: Block = await next;
      next = at < bytes ? read(at) : null;
      // Mark it handled: the reader may end before it asks for this block.
      next?.catch(() => undefined);
      yield block;
    }
  } finally {
    // The file must not be closed under a read.
    await next?.catch(() => undefined);
  }
}
