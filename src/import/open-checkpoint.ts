import { access, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { aPath } from '../errors.js';
import { fileError } from '../tables/file-error.js';
import { badCheckpoint, type Checkpoint } from './checkpoint.js';
import type { OpenFiles } from './open-files.js';
import { METADATA_FILE, readDistributed } from './readers/distributed.js';
import { INDEX_FILE, readSafetensorsFiles, readSafetensorsIndex, safetensorsIn } from './readers/safetensors.js';
import { looksLikeZip, readTorchSave } from './readers/torch-save.js';
import { readTorchsnapshot, SNAPSHOT_FILE } from './readers/torchsnapshot.js';

/** Directories, by a file that only one kind of them has. */
const DIRECTORIES: readonly { readonly file: string; readonly read: (files: OpenFiles, directory: string) => Promise<Checkpoint> }[] = [
  { file: METADATA_FILE, read: readDistributed },
  { file: SNAPSHOT_FILE, read: readTorchsnapshot },
  { file: INDEX_FILE, read: (_, directory) => readSafetensorsIndex(join(directory, INDEX_FILE)) },
];

/** Finds out what a trainer wrote, by its content, and what tensors it has. Nothing of their values is read. */
export async function openCheckpoint(files: OpenFiles, given: string): Promise<Checkpoint> {
  const path = resolve(aPath('checkpoint', given));
  const found = await stat(path).catch((error: unknown) => {
    throw fileError(error, 'checkpoint cannot be read', path, 'bad_checkpoint');
  });
  return found.isDirectory() ? openDirectory(files, path) : openFile(files, path, found.size);
}

async function openDirectory(files: OpenFiles, directory: string): Promise<Checkpoint> {
  for (const { file, read } of DIRECTORIES) if (await isThere(join(directory, file))) return read(files, directory);
  const parts = await safetensorsIn(directory);
  if (parts.length > 0) return readSafetensorsFiles(directory, parts);
  throw badCheckpoint(
    directory,
    `no checkpoint that is known: a directory needs ${DIRECTORIES.map(({ file }) => file).join(', ')} or safetensors files`,
  );
}

const isThere = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

async function openFile(files: OpenFiles, path: string, bytes: number): Promise<Checkpoint> {
  if (basename(path).endsWith('.json')) return readSafetensorsIndex(path);
  const start = await files.read(path, 0, Math.min(bytes, 16));
  if (looksLikeZip(start)) return readTorchSave(files, path);
  // The length of a header stands first, and the header is JSON.
  if (start[8] === 0x7b) return readSafetensorsFiles(path, [path]);
  if (start[0] === 0x80)
    throw badCheckpoint(
      path,
      'a pickle without its zip, as torch wrote before version 1.6 or pickle writes; load it and save the state dict with torch.save',
    );
  throw badCheckpoint(path, 'no checkpoint that is known: neither a zip of torch.save nor a safetensors file (truncated?)');
}
