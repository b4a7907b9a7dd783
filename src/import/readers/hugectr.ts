import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { badCheckpoint, type Checkpoint, type CheckpointTensor, plainTensor } from '../checkpoint.js';
import type { CheckpointFiles } from '../open-files.js';

/** Files of a table: keys, their vectors, and with a localized embedding their slots. */
const KEYS = 'key';
const VECTORS = 'emb_vector';
const SLOTS = 'slot_id';

/** The directory itself, and those in it, that hold a table; none when it is no such model. */
export async function hugeCtrTables(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { withFileTypes: true });
  const holds = (names: readonly string[]): boolean => names.includes(KEYS) && names.includes(VECTORS);
  if (holds(entries.filter((entry) => !entry.isDirectory()).map(({ name }) => name))) return [directory];
  const found: string[] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (entry.isDirectory() && holds(await readdir(join(directory, entry.name)))) found.push(join(directory, entry.name));
  }
  return found;
}

/** Sparse models of HugeCTR: for each table a directory with keys (int64) and vectors (float32) side by side. */
export async function readHugeCtr(files: CheckpointFiles, directory: string, tables: readonly string[]): Promise<Checkpoint> {
  const tensors = new Map<string, CheckpointTensor>();
  for (const table of tables) {
    const name = basename(table);
    const add = (file: string, dtype: 'I64' | 'F32', shape: readonly number[], keyedBy?: string): void => {
      const tensor = `${name}.${file}`;
      const plain = plainTensor(tensor, dtype, shape, { path: join(table, file), byteOffset: 0, known: null, header: null });
      tensors.set(tensor, keyedBy === undefined ? plain : { ...plain, keyedBy });
    };
    const [keyBytes, vectorBytes] = [await files.size(join(table, KEYS)), await files.size(join(table, VECTORS))];
    const keys = keyBytes / 8;
    const dim = vectorBytes / 4 / keys;
    if (!Number.isInteger(keys) || !Number.isInteger(dim) || dim < 1)
      throw badCheckpoint(
        table,
        `vectors do not fit the keys, which are int64: ${KEYS} has ${keyBytes} bytes, ${VECTORS} ${vectorBytes} (truncated?)`,
      );
    add(KEYS, 'I64', [keys]);
    add(VECTORS, 'F32', [keys, dim], `${name}.${KEYS}`);
    const names = await readdir(table);
    if (!names.includes(SLOTS)) continue;
    const slotBytes = await files.size(join(table, SLOTS));
    if (slotBytes !== keyBytes)
      throw badCheckpoint(table, `slots do not fit the keys: ${SLOTS} has ${slotBytes} bytes, ${KEYS} ${keyBytes} (truncated?)`);
    add(SLOTS, 'I64', [keys]);
  }
  return { path: directory, kind: 'HugeCTR', tensors, inModelOrder: false, skipped: new Map(), marks: new Map() };
}
