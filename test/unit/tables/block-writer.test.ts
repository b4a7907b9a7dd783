import type { FileHandle } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { BlockWriter } from '../../../src/tables/block-writer.js';

const MIB = 2 ** 20;

/** Takes at most `most` bytes a call, as a file may, and notes where calls start. */
function fakeFile(most: number): { file: FileHandle; bytes: () => Buffer; starts: number[] } {
  const pieces: Buffer[] = [];
  const starts: number[] = [];
  let end = 0;
  const write = async (buffer: Uint8Array, offset: number, length: number): Promise<{ bytesWritten: number }> => {
    const bytesWritten = Math.min(length, most);
    starts.push(end);
    pieces.push(Buffer.from(buffer.subarray(offset, offset + bytesWritten)));
    end += bytesWritten;
    return { bytesWritten };
  };
  return { file: { write } as unknown as FileHandle, bytes: () => Buffer.concat(pieces), starts };
}

test.each([
  ['one byte', [1]],
  ['a block', [4 * MIB]],
  ['a header, then pieces of a block', [4096, 4 * MIB, 4 * MIB, 17]],
  ['a piece of several blocks', [5, 13 * MIB + 3]],
  ['nothing', []],
])('%s: the file holds the bytes in order, in calls at multiples of 4 MiB', async (_, sizes) => {
  const pieces = sizes.map((size, n) => Buffer.alloc(size, `piece ${n} of ${size} `));
  const whole = Buffer.concat(pieces);
  const { file, bytes, starts } = fakeFile(Number.POSITIVE_INFINITY);
  const writer = new BlockWriter(file, whole.length);
  for (const piece of pieces) await writer.put(piece);
  await writer.flush();
  expect(bytes().equals(whole)).toBe(true);
  expect(starts.every((start, n) => start === n * 4 * MIB)).toBe(true);
});

test('a write that takes fewer bytes is gone on with', async () => {
  const whole = Buffer.alloc(5 * MIB, 'abc');
  const { file, bytes } = fakeFile(MIB + 1);
  const writer = new BlockWriter(file, whole.length);
  await writer.put(whole);
  await writer.flush();
  expect(bytes().equals(whole)).toBe(true);
});
