import { crc32 } from 'node:zlib';
import type { Extent } from '../tables/blocks.js';
import { decodeExactly } from '../tables/json.js';
import { type KnownExtent, type Refuse, refuser } from './checkpoint.js';
import type { CheckpointFiles } from './open-files.js';

/** The ZIP format, with its 64-bit records: APPNOTE.TXT of PKWARE, version 6.3. Stored entries alone are read, which is what torch and numpy write. */
const END = { signature: 0x06054b50, bytes: 22 };
const END_64 = { signature: 0x06064b50, bytes: 56 };
const LOCATOR_64 = { signature: 0x07064b50, bytes: 20 };
const DIRECTORY_ENTRY = { signature: 0x02014b50, bytes: 46 };
const LOCAL_HEADER = { signature: 0x04034b50, bytes: 30 };
const LONGEST_COMMENT = 0xffff;
const ZIP_64_FIELD = 1;
const STORED = 0;
const ENCRYPTED = 1;
/** A checkpoint has an entry for each tensor, of some 100 bytes in the directory. */
const MOST_DIRECTORY_BYTES = 256 * 2 ** 20;

export interface ZipEntry {
  readonly name: string;
  readonly bytes: number;
  readonly crc32: number;
  readonly method: number;
  readonly headerOffset: number;
  /** Where the next entry, or the directory, starts: it has to end before. */
  readonly limit: number;
}

export interface Zip {
  readonly path: string;
  readonly entries: ReadonlyMap<string, ZipEntry>;
  /** The directory and what follows it: names, sizes and checksums of all entries. */
  readonly directory: Extent;
}

/**
 * Reads the directory of a zip that takes all of an extent of a file. Refused (bad_checkpoint) are those of several disks, with a second record at
 * odds with the first, names that are absolute, lead upwards or stand twice, and entries that overlap or lie outside.
 */
export async function readZip(files: CheckpointFiles, path: string, extent: Extent): Promise<Zip> {
  const refuse: Refuse = (what) => refuser(path)(`not a sound zip: ${what}`);
  const end = extent.from + extent.bytes;
  const { entries: count, offset, bytes, start } = await readEnd(files, path, extent, refuse);
  const from = extent.from + offset;
  if (bytes > MOST_DIRECTORY_BYTES) throw refuse(`directory of ${bytes} bytes, the limit is ${MOST_DIRECTORY_BYTES}`);
  if (from + bytes !== start) throw refuse(`directory from byte ${from} of ${bytes} bytes, its end is at ${start}`);
  if (count * DIRECTORY_ENTRY.bytes > bytes) throw refuse(`${count} entries in a directory of ${bytes} bytes`);
  const entries = readDirectory(await files.read(path, from, bytes), count, extent.from, refuse);
  const inOrder = [...entries.values()].sort((a, b) => a.headerOffset - b.headerOffset);
  const limited = new Map<string, ZipEntry>();
  for (const [at, entry] of inOrder.entries()) {
    const limit = inOrder[at + 1]?.headerOffset ?? from;
    if (entry.headerOffset + LOCAL_HEADER.bytes + entry.stored > limit)
      throw refuse(`entry overlaps what follows it: ${entry.name}, from byte ${entry.headerOffset}, ${entry.stored} bytes, limit ${limit}`);
    limited.set(entry.name, { ...entry, limit });
  }
  const named = new Map([...entries.keys()].map((name) => [name, limited.get(name) as ZipEntry]));
  return { path, entries: named, directory: { from, bytes: end - from } };
}

interface End {
  readonly entries: number;
  /** From the start of the zip. */
  readonly offset: number;
  readonly bytes: number;
  /** Where the records that end a zip start. */
  readonly start: number;
}

async function readEnd(files: CheckpointFiles, path: string, { from, bytes }: Extent, refuse: Refuse): Promise<End> {
  const tailBytes = Math.min(bytes, LOCATOR_64.bytes + END.bytes + LONGEST_COMMENT);
  const tail = await files.read(path, from + bytes - tailBytes, tailBytes);
  let at = tail.length - END.bytes;
  while (at >= 0 && !(tail.readUInt32LE(at) === END.signature && at + END.bytes + tail.readUInt16LE(at + 20) === tail.length)) at--;
  if (at < 0) throw refuse('it has no end of a directory (truncated?)');
  const start = from + bytes - tailBytes + at;
  const disks = [tail.readUInt16LE(at + 4), tail.readUInt16LE(at + 6)];
  const narrow = { entries: tail.readUInt16LE(at + 10), offset: tail.readUInt32LE(at + 16), bytes: tail.readUInt32LE(at + 12), start };
  const hasLocator = at >= LOCATOR_64.bytes && tail.readUInt32LE(at - LOCATOR_64.bytes) === LOCATOR_64.signature;
  if (!hasLocator) {
    if (disks.some((disk) => disk !== 0) || tail.readUInt16LE(at + 8) !== narrow.entries) throw refuse('it is one of several disks');
    return narrow;
  }
  const start64 = from + safe(tail.readBigUInt64LE(at - LOCATOR_64.bytes + 8), refuse);
  if (start64 + END_64.bytes > start - LOCATOR_64.bytes || start64 < from) throw refuse(`its 64-bit end is at byte ${start64}`);
  const wide = await files.read(path, start64, END_64.bytes);
  if (wide.readUInt32LE(0) !== END_64.signature || start64 + 12 + safe(wide.readBigUInt64LE(4), refuse) !== start - LOCATOR_64.bytes)
    throw refuse(`no 64-bit end at byte ${start64}`);
  if (wide.readUInt32LE(16) !== 0 || wide.readUInt32LE(20) !== 0) throw refuse('it is one of several disks');
  const found = {
    entries: safe(wide.readBigUInt64LE(32), refuse),
    offset: safe(wide.readBigUInt64LE(48), refuse),
    bytes: safe(wide.readBigUInt64LE(40), refuse),
    start: start64,
  };
  const agrees = (short: number, long: number, most: number): boolean => short === most || short === long;
  if (
    !agrees(narrow.entries, found.entries, 0xffff) ||
    !agrees(narrow.offset, found.offset, 0xffffffff) ||
    !agrees(narrow.bytes, found.bytes, 0xffffffff)
  )
    throw refuse('its two ends differ');
  return found;
}

function safe(value: bigint, refuse: Refuse): number {
  if (value > Number.MAX_SAFE_INTEGER) throw refuse(`a size or an offset of ${value} bytes`);
  return Number(value);
}

type DirectoryEntry = Omit<ZipEntry, 'limit'> & { /** Bytes in the file. */ readonly stored: number };

function readDirectory(directory: Buffer, count: number, base: number, refuse: Refuse): Map<string, DirectoryEntry> {
  const entries = new Map<string, DirectoryEntry>();
  let at = 0;
  for (let n = 0; n < count; n++) {
    if (at + DIRECTORY_ENTRY.bytes > directory.length || directory.readUInt32LE(at) !== DIRECTORY_ENTRY.signature)
      throw refuse(`no entry ${n} of ${count} at byte ${at} of the directory`);
    const nameEnd = at + DIRECTORY_ENTRY.bytes + directory.readUInt16LE(at + 28);
    const extraEnd = nameEnd + directory.readUInt16LE(at + 30);
    const next = extraEnd + directory.readUInt16LE(at + 32);
    if (next > directory.length) throw refuse(`entry ${n} of ${count} does not lie in the directory`);
    const name = decodeExactly(directory.subarray(at + DIRECTORY_ENTRY.bytes, nameEnd));
    if (name === null) throw refuse(`name of entry ${n} is not UTF-8`);
    refuseName(name, refuse);
    if (entries.has(name)) throw refuse(`two entries of one name: ${name}`);
    const fields = [directory.readUInt32LE(at + 24), directory.readUInt32LE(at + 20), directory.readUInt32LE(at + 42)];
    const [bytes = 0, stored = 0, offset = 0] = wideFields(fields, directory.subarray(nameEnd, extraEnd), refuse);
    const method = directory.readUInt16LE(at + 10);
    if ((directory.readUInt16LE(at + 8) & ENCRYPTED) !== 0) throw refuse(`entry is encrypted: ${name}`);
    if (method === STORED && bytes !== stored) throw refuse(`entry is stored, with two lengths: ${name}, ${stored} and ${bytes} bytes`);
    entries.set(name, { name, bytes, stored, crc32: directory.readUInt32LE(at + 16), method, headerOffset: base + offset });
    at = next;
  }
  if (at !== directory.length) throw refuse(`${directory.length - at} bytes follow the entries of the directory`);
  return entries;
}

/** Those of 32 bits that say 0xffffffff stand in the extra field with 64, in their order. */
function wideFields(fields: readonly number[], extra: Buffer, refuse: Refuse): number[] {
  if (!fields.includes(0xffffffff)) return [...fields];
  for (let at = 0; at + 4 <= extra.length; ) {
    const from = at + 4;
    const end = from + extra.readUInt16LE(at + 2);
    if (end > extra.length) break;
    if (extra.readUInt16LE(at) === ZIP_64_FIELD) {
      let next = from;
      return fields.map((field) => {
        if (field !== 0xffffffff) return field;
        if (next + 8 > end) throw refuse('a 64-bit field is too short');
        next += 8;
        return safe(extra.readBigUInt64LE(next - 8), refuse);
      });
    }
    at = end;
  }
  throw refuse('a 64-bit field is missing');
}

/** Nothing is unpacked by its name; a name that leads elsewhere says that the file was made to do harm. */
function refuseName(name: string, refuse: Refuse): void {
  const parts = name.split(/[/\\]/);
  if (name === '' || name.includes('\0') || parts[0] === '' || /^[A-Za-z]:/.test(name) || parts.includes('..'))
    throw refuse(`name of an entry leads out of the file: ${JSON.stringify(name.slice(0, 100))}`);
}

/** Where the bytes of a stored entry lie. Reads its header in the file, which has to agree with the directory. */
export async function entryExtent(files: CheckpointFiles, zip: Zip, entry: ZipEntry): Promise<KnownExtent> {
  const refuse: Refuse = (what) => refuser(zip.path)(`not a sound zip: ${what}`);
  if (entry.method !== STORED)
    throw refuse(
      `entry is compressed (method ${entry.method}), which cannot be served or read in bounded memory: ${entry.name}; save it without compression`,
    );
  const header = await files.read(zip.path, entry.headerOffset, LOCAL_HEADER.bytes);
  if (header.readUInt32LE(0) !== LOCAL_HEADER.signature) throw refuse(`no entry at byte ${entry.headerOffset}: ${entry.name}`);
  if (header.readUInt16LE(8) !== STORED || (header.readUInt16LE(6) & ENCRYPTED) !== 0)
    throw refuse(`entry differs from the directory: ${entry.name}`);
  const nameBytes = header.readUInt16LE(26);
  const name = await files.read(zip.path, entry.headerOffset + LOCAL_HEADER.bytes, Math.min(nameBytes, entry.limit - entry.headerOffset));
  if (!name.equals(Buffer.from(entry.name))) throw refuse(`entry has another name than in the directory: ${entry.name}`);
  const from = entry.headerOffset + LOCAL_HEADER.bytes + nameBytes + header.readUInt16LE(28);
  if (from + entry.bytes > entry.limit)
    throw refuse(`entry overlaps what follows it: ${entry.name}, bytes ${from} to ${from + entry.bytes}, limit ${entry.limit}`);
  return { from, bytes: entry.bytes, crc32: entry.crc32 };
}

/** The content of a small entry; `known` tells whether its checksum is in the zip, which torch can leave out. */
export async function readEntry(
  files: CheckpointFiles,
  zip: Zip,
  entry: ZipEntry,
  mostBytes: number,
): Promise<{ data: Buffer; known: boolean }> {
  const extent = await entryExtent(files, zip, entry);
  if (entry.bytes > mostBytes) throw refuser(zip.path)(`entry of ${entry.bytes} bytes, the limit is ${mostBytes}: ${entry.name}`);
  const data = await files.read(zip.path, extent.from, extent.bytes);
  const found = crc32(data);
  if (found !== entry.crc32 && entry.crc32 !== 0)
    throw refuser(zip.path)(`entry is damaged: ${entry.name}, crc32 ${found.toString(16)}, expected ${entry.crc32.toString(16)}`);
  return { data, known: found === entry.crc32 };
}
