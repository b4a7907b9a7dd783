import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { expect, test } from 'vitest';
import { CHUNK_BYTES, ChunkedCrc32, checksumFile } from '../../../src/tables/checksum.js';

const hex = (bytes: Uint8Array): string => crc32(bytes).toString(16).padStart(8, '0');
const data = Buffer.alloc(2 * CHUNK_BYTES + 1);
for (let at = 0; at < data.length; at += 4093) data[at] = at % 251;

test.each([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1])(
  '%i bytes have one crc32 per begun chunk, whatever the pieces',
  (length) => {
    const bytes = data.subarray(0, length);
    const chunks = Array.from({ length: Math.ceil(length / CHUNK_BYTES) }, (_, c) =>
      hex(bytes.subarray(c * CHUNK_BYTES, (c + 1) * CHUNK_BYTES)),
    );
    for (const piece of [length, 7_777_777]) {
      const sum = new ChunkedCrc32();
      for (let at = 0; at < length; at += piece) sum.update(bytes.subarray(at, at + piece));
      expect(sum.digest()).toEqual({ bytes: length, crc32: chunks });
      expect(sum.digest()).toEqual({ bytes: length, crc32: chunks });
    }
  },
);

test('the checksum of a file is that of its bytes, and progress adds up to its length', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
  const path = join(dir, 'file');
  const bytes = data.subarray(0, 9_000_001);
  await writeFile(path, bytes);
  let seen = 0;
  expect(await checksumFile(path, (read) => (seen += read))).toEqual({ bytes: bytes.length, crc32: [hex(bytes)] });
  expect(seen).toBe(bytes.length);
  await rm(dir, { recursive: true });
});
