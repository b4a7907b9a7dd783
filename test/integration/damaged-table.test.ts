import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openLocal } from '../../src/index.js';
import { readSafetensorsHeader } from '../../src/tables/safetensors.js';
import { writeSmallModel } from '../reference/small-model.js';

async function patch(path: string, change: (bytes: Buffer) => void): Promise<void> {
  const file = await open(path, 'r+');
  const bytes = await file.readFile();
  change(bytes);
  await file.write(bytes, 0, bytes.length, 0);
  await file.close();
}

test('a flipped bit in a table is refused at open and names the file', async () => {
  const { dir } = await writeSmallModel(21);
  await patch(join(dir, 'tables/t2.safetensors'), (bytes) => {
    bytes[bytes.length - 5] = (bytes.at(-5) as number) ^ 1;
  });
  await expect(openLocal(dir)).rejects.toMatchObject({ code: 'checksum_mismatch', details: { file: 'tables/t2.safetensors' } });
  await rm(dir, { recursive: true });
});

test('a header whose shape overflows or whose length lies is refused', async () => {
  const { dir } = await writeSmallModel(22);
  const path = join(dir, 'tables/t2.safetensors');
  await patch(path, (bytes) => bytes.write('[999,12]', bytes.indexOf('[200,12]')));
  await expect(readSafetensorsHeader(path)).rejects.toMatchObject({ code: 'bad_table' });
  await patch(path, (bytes) => bytes.writeBigUInt64LE(2n ** 63n));
  await expect(readSafetensorsHeader(path)).rejects.toMatchObject({ code: 'bad_table' });
  await rm(dir, { recursive: true });
});
