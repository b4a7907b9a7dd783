import { link, realpath, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { checkLength, compareChecksums } from '../../../model/bundle-files.js';
import type { FileSpec } from '../../../model/spec.js';
import { AtomicFile, syncDirectory } from '../../../tables/atomic.js';
import { BlockWriter } from '../../../tables/block-writer.js';
import { BLOCK_BYTES, openToRead, readBlocks } from '../../../tables/blocks.js';
import { ChunkedCrc32, checksumFile } from '../../../tables/checksum.js';
import { stopIf } from './split-file.js';

export interface WholeFileOptions {
  /** The source's entry in its model.json. */
  readonly expected: FileSpec;
  /** Whether the source's checksums are checked, and not only its length. */
  readonly check: boolean;
  readonly signal?: AbortSignal | undefined;
  readonly onBytes?: (bytes: number) => void;
}

/** Hard-links a file, or copies it where that cannot be: to another filesystem, or one without links. Damaged files are refused before. */
export async function linkOrCopy(from: string, to: string, options: WholeFileOptions): Promise<'linked' | 'copied'> {
  const { expected, check, signal, onBytes = () => undefined } = options;
  await checkLength(from, from, expected);
  // What an earlier run left is not whole, or it would have been kept.
  await rm(to, { force: true });
  // A link of a symbolic link would be one, to a path that it may not have from there.
  const linked = await link(await realpath(from), to).then(
    () => true,
    () => false,
  );
  if (!linked) {
    await copyBlocks(from, to, options);
    return 'copied';
  }
  try {
    if (!check) onBytes(expected.bytes);
    else {
      const found = await checksumFile(to, (bytes) => {
        stopIf(signal);
        onBytes(bytes);
      });
      // The source is what is damaged; the link goes.
      compareChecksums(from, from, found, expected);
    }
  } catch (error) {
    await rm(to, { force: true });
    throw error;
  }
  await syncDirectory(dirname(to));
  return 'linked';
}

/** In aligned blocks, so that the copy lies on huge pages when it is mapped (BlockWriter); the system's copy leaves small ones. */
async function copyBlocks(
  from: string,
  to: string,
  { expected, check, signal, onBytes = () => undefined }: WholeFileOptions,
): Promise<void> {
  const source = await openToRead(from);
  try {
    const copy = await AtomicFile.create(to);
    try {
      const sum = new ChunkedCrc32();
      const writer = new BlockWriter(copy.file, expected.bytes);
      for await (const { memory, bytes } of readBlocks(source, from, { from: 0, bytes: expected.bytes }, BLOCK_BYTES)) {
        stopIf(signal);
        const block = memory.subarray(0, bytes);
        if (check) sum.update(block);
        await writer.put(block);
        onBytes(bytes);
      }
      await writer.flush();
      if (check) compareChecksums(from, from, sum.digest(), expected);
      await copy.commit();
    } catch (error) {
      await copy.discard();
      throw error;
    }
  } finally {
    await source.close();
  }
}
