import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { isAbsolute, join, normalize, sep } from 'node:path';
import { TerabagError } from '../errors.js';
import type { Extent } from '../tables/blocks.js';
import { CHUNK_BYTES, checksumExtent, checksumFile } from '../tables/checksum.js';
import { fileError } from '../tables/file-error.js';
import type { FileSpec } from './spec.js';

export const VERIFIES = ['full', 'size'] as const;

/**
 * How a bundle's files are held against model.json. full: every checksum. size: lengths, and the checksums of a sample of chunks, which finds
 * a file that was replaced by another, but not each flipped bit.
 * @useDeclaredType
 */
export type Verify = (typeof VERIFIES)[number];

/** Beyond the first chunk of each file, a sample reads so many bytes of all files together: a second from a warm page cache. */
const SAMPLE_BYTES = 256 * 2 ** 20;

/** The path of a bundle's file; one outside of it is refused (bad_model). */
export function pathInside(dir: string, file: string): string {
  const clean = normalize(file);
  if (isAbsolute(clean) || clean.split(sep)[0] === '..')
    throw new TerabagError('bad_model', `file has to lie inside the bundle: ${file}`, { file });
  return join(dir, clean);
}

/** Says which file a path led to, and its state: a file that was replaced or written to has another one. */
export async function fileIdentity(path: string, file: string): Promise<string> {
  const { dev, ino, size, mtimeNs } = await stat(path, { bigint: true }).catch((error: unknown) => {
    throw cannotStat(error, path, file);
  });
  return `${dev} ${ino} ${size} ${mtimeNs}`;
}

/** written: to where the file lay; replaced: another file has its name, or none. */
export type FileChangeKind = 'written' | 'replaced';

/** What has become of a file since it had this identity; null when nothing has. */
export async function fileChange(path: string, identity: string): Promise<FileChangeKind | null> {
  const now = await fileIdentity(path, path).catch(() => '');
  if (now === identity) return null;
  const inode = (of: string): string => of.split(' ', 2).join(' ');
  return inode(now) === inode(identity) ? 'written' : 'replaced';
}

function cannotStat(error: unknown, path: string, file: string): TerabagError {
  const { code, message, details, cause } = fileError(error, 'file of the bundle is missing', path, 'bad_table');
  return new TerabagError(code, message, { ...details, file }, { cause });
}

/** Holds a file against its entry in model.json, by its length. */
export async function checkLength(path: string, file: string, expected: FileSpec): Promise<void> {
  const { size } = await stat(path).catch((error: unknown) => {
    throw cannotStat(error, path, file);
  });
  if (size !== expected.bytes)
    throw new TerabagError(
      'bad_table',
      `file has another length than model.json says (truncated?): ${path}, ${size} bytes, expected ${expected.bytes}`,
      { file },
    );
}

/** Reads a file and holds it against its checksums in model.json. */
export async function checkContent(path: string, file: string, expected: FileSpec, onBytes?: (bytes: number) => void): Promise<void> {
  if (expected.extents === undefined) {
    compareChecksums(path, file, await checksumFile(path, onBytes), expected);
    return;
  }
  for (const [chunk, extent] of expected.extents.entries())
    compareChunk(path, file, chunk, await checksumExtent(path, extent, onBytes), expected);
}

/** What checksum number `chunk` of a file is of. */
const extentOf = ({ bytes, extents }: FileSpec, chunk: number): Extent =>
  extents?.[chunk] ?? { from: chunk * CHUNK_BYTES, bytes: Math.min(CHUNK_BYTES, bytes - chunk * CHUNK_BYTES) };

const chunksOf = ({ bytes, extents }: FileSpec): number => extents?.length ?? Math.ceil(bytes / CHUNK_BYTES);

/** Bytes of a file that its checksums are of. */
export const checkedBytes = ({ bytes, extents }: FileSpec): number => extents?.reduce((sum, extent) => sum + extent.bytes, 0) ?? bytes;

/** Refuses checksums of a file that are not those of model.json, with the first chunk that differs. */
export function compareChecksums(path: string, file: string, found: FileSpec, expected: FileSpec): void {
  refuseChunkCount(file, expected, found.crc32.length);
  for (const [chunk, crc32] of found.crc32.entries()) compareChunk(path, file, chunk, crc32, expected);
}

function refuseChunkCount(file: string, { crc32 }: FileSpec, chunks: number): void {
  if (crc32.length !== chunks)
    throw new TerabagError(
      'bad_model',
      `model.json: files: more or fewer checksums than the file has chunks of ${CHUNK_BYTES} bytes: ${file}, ${crc32.length}, expected ${chunks}`,
      { file },
    );
}

function compareChunk(path: string, file: string, chunk: number, found: string, expected: FileSpec): void {
  if (found === expected.crc32[chunk]) return;
  throw new TerabagError(
    'checksum_mismatch',
    `file is damaged: ${path}, chunk ${chunk} (from byte ${extentOf(expected, chunk).from}), crc32 ${found}, expected ${expected.crc32[chunk]}`,
    { file, chunk },
  );
}

/** A file of a bundle and its entry in model.json. */
export interface ListedFile {
  readonly file: string;
  readonly path: string;
  readonly expected: FileSpec;
}

interface Chunk extends ListedFile, Extent {
  readonly chunk: number;
}

const chunkOf = (listed: ListedFile, chunk: number): Chunk => ({ ...listed, chunk, ...extentOf(listed.expected, chunk) });

/**
 * The chunks that stand for the files when not all are read: of each the first, which is all of a small one and has the header, and, as far as
 * SAMPLE_BYTES go, the last one and one more. Which one follows from the model's hash: the same on every machine, another for another model.
 */
export function sampleChunks(files: readonly ListedFile[], hash: string): Chunk[] {
  const sampled = files.map((listed) => chunkOf(listed, 0));
  let left = SAMPLE_BYTES;
  const take = (listed: ListedFile, chunk: number): void => {
    const candidate = chunkOf(listed, chunk);
    if (candidate.bytes > left || sampled.some(({ file, chunk: taken }) => file === listed.file && taken === chunk)) return;
    left -= candidate.bytes;
    sampled.push(candidate);
  };
  for (const listed of files) take(listed, chunksOf(listed.expected) - 1);
  for (const listed of files) {
    const number = createHash('sha256').update(`${hash} ${listed.file}`).digest().readUInt32LE();
    take(listed, number % chunksOf(listed.expected));
  }
  return sampled;
}

/** Bytes that checkFiles reads. */
export function bytesToRead(files: readonly ListedFile[], verify: Verify, hash: string): number {
  const bytes =
    verify === 'full' ? files.map(({ expected }) => checkedBytes(expected)) : sampleChunks(files, hash).map((chunk) => chunk.bytes);
  return bytes.reduce((sum, each) => sum + each, 0);
}

/** Holds files against their entries in model.json: lengths, then all checksums, or those of a sample. */
export async function checkFiles(
  files: readonly ListedFile[],
  verify: Verify,
  hash: string,
  onBytes: (bytes: number) => void = () => undefined,
): Promise<void> {
  for (const { path, file, expected } of files) await checkLength(path, file, expected);
  if (verify === 'full') {
    for (const { path, file, expected } of files) await checkContent(path, file, expected, onBytes);
    return;
  }
  for (const { file, expected } of files) refuseChunkCount(file, expected, chunksOf(expected));
  for (const { path, file, chunk, from, bytes, expected } of sampleChunks(files, hash))
    compareChunk(path, file, chunk, await checksumExtent(path, { from, bytes }, onBytes), expected);
}
