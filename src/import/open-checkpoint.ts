import { access, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { aPath } from '../errors.js';
import { fileError } from '../tables/file-error.js';
import { badCheckpoint, type Checkpoint } from './checkpoint.js';
import type { CheckpointFiles } from './open-files.js';
import { METADATA_FILE, readDistributed } from './readers/distributed.js';
import { hugeCtrTables, readHugeCtr } from './readers/hugectr.js';
import { hasArrays, readNpz, readTorchEasyRec, torchEasyRecFiles } from './readers/npz.js';
import { INDEX_FILE, readSafetensorsFiles, readSafetensorsIndex, safetensorsIn } from './readers/safetensors.js';
import { looksLikeZip, readTorchSave } from './readers/torch-save.js';
import { readTorchsnapshot, SNAPSHOT_FILE } from './readers/torchsnapshot.js';
import { readZip } from './zip.js';

/** Directories, by a file that only one kind of them has. */
const DIRECTORIES: readonly { readonly file: string; readonly read: (files: CheckpointFiles, directory: string) => Promise<Checkpoint> }[] =
  [
    { file: METADATA_FILE, read: readDistributed },
    { file: SNAPSHOT_FILE, read: readTorchsnapshot },
    { file: INDEX_FILE, read: (_, directory) => readSafetensorsIndex(join(directory, INDEX_FILE)) },
  ];

/** Finds out what a trainer wrote, by its content, and what tensors it has. Nothing of their values is read. */
export async function openCheckpoint(files: CheckpointFiles, given: string): Promise<Checkpoint> {
  const path = resolve(aPath('checkpoint', given));
  const found = await stat(path).catch((error: unknown) => {
    throw fileError(error, 'checkpoint cannot be read', path, 'bad_checkpoint');
  });
  return found.isDirectory() ? openDirectory(files, path) : openFile(files, path, found.size);
}

/** The tensors of several checkpoints as of one: tables from one program, say, and dense weights from another. */
export async function openCheckpoints(files: CheckpointFiles, paths: readonly [string, ...string[]]): Promise<Checkpoint> {
  const opened: Checkpoint[] = [];
  for (const path of paths) opened.push(await openCheckpoint(files, path));
  const [first, ...others] = opened as [Checkpoint, ...Checkpoint[]];
  if (others.length === 0) return first;
  const tensors = new Map(first.tensors);
  for (const { path, tensors: more } of others) {
    for (const [name, tensor] of more) {
      if (tensors.has(name)) throw badCheckpoint(path, `tensor stands in two checkpoints: ${name}`, { tensor: name });
      tensors.set(name, tensor);
    }
  }
  return {
    path: first.path,
    kind: [...new Set(opened.map(({ kind }) => kind))].join(' and '),
    tensors,
    inModelOrder: opened.every(({ inModelOrder }) => inModelOrder),
    skipped: new Map(opened.flatMap(({ skipped }) => [...skipped])),
    marks: new Map(opened.flatMap(({ marks }) => [...marks])),
  };
}

async function openDirectory(files: CheckpointFiles, directory: string): Promise<Checkpoint> {
  for (const { file, read } of DIRECTORIES) if (await isThere(join(directory, file))) return read(files, directory);
  const ranks = await torchEasyRecFiles(directory);
  if (ranks.length > 0) return readTorchEasyRec(files, directory, ranks);
  const tables = await hugeCtrTables(directory);
  if (tables.length > 0) return readHugeCtr(files, directory, tables);
  const parts = await safetensorsIn(directory);
  if (parts.length > 0) return readSafetensorsFiles(directory, parts);
  throw badCheckpoint(
    directory,
    `no checkpoint that is known: a directory needs ${DIRECTORIES.map(({ file }) => file).join(', ')} sparse_embeddings-N-of-N.npz, tables of key and emb_vector, or safetensors files`,
  );
}

const isThere = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

async function openFile(files: CheckpointFiles, path: string, bytes: number): Promise<Checkpoint> {
  if (basename(path).endsWith('.json')) return readSafetensorsIndex(path);
  const start = await files.read(path, 0, Math.min(bytes, 16));
  if (looksLikeZip(start)) {
    const zip = await readZip(files, path, { from: 0, bytes });
    return hasArrays(zip) ? readNpz(files, zip) : readTorchSave(files, path);
  }
  // The length of a header stands first, and the header is JSON.
  if (start[8] === 0x7b) return readSafetensorsFiles(path, [path]);
  if (start[0] === 0x80)
    throw badCheckpoint(
      path,
      'a pickle without its zip, as torch wrote before version 1.6 or pickle writes; load it and save the state dict with torch.save',
    );
  throw badCheckpoint(path, 'no checkpoint that is known: neither a zip of torch.save nor a safetensors file (truncated?)');
}
