import { type FileHandle, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KeysByRow } from '../../../engine/key-index.js';
import { verifyBundleAndIndexes } from '../../../engine/verify-indexes.js';
import { TerabagError } from '../../../errors.js';
import { type Bundle, denseFile, holdsDense, type OpenKeyIndex, type OpenTable, openBundle } from '../../../model/bundle.js';
import { pathInside } from '../../../model/bundle-files.js';
import type { NamedRows } from '../../../model/id-rules.js';
import { BLOCK_BYTES, openToRead, readBlocks, readFully, rowsInBlock } from '../../../tables/blocks.js';
import { fileError } from '../../../tables/file-error.js';
import { partsOfKeys } from '../../../tables/key-index.js';
import { gatherChosen, gatherRows, type Rows } from '../../../tables/rows.js';
import { namedRowsOf, namedRuns } from './named-rows.js';
import { JOURNAL_FILE } from './shard-directory.js';

type OnProgress = (doneBytes: number, totalBytes: number) => void;

/** The bundles in a directory: itself, or those of the shards that were published to it; also what is none, but holds table files. */
export async function bundlesIn(dir: string): Promise<string[]> {
  const unreadable = (error: NodeJS.ErrnoException): [] => {
    // Who opens it says so.
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return [];
    throw fileError(error, 'directory cannot be read', dir, 'bad_model');
  };
  const entries = await readdir(dir, { withFileTypes: true }).catch(unreadable);
  if (entries.some(({ name }) => name === 'model.json')) return [dir];
  const found: string[] = [];
  for (const entry of entries) {
    const inside = entry.isDirectory() ? await readdir(join(dir, entry.name), { recursive: true }).catch(unreadable) : [];
    if (inside.some((file) => file === 'model.json' || file === JOURNAL_FILE || file.endsWith('.safetensors')))
      found.push(join(dir, entry.name));
  }
  return found.length > 0 ? found.sort() : [dir];
}

/**
 * Holds published bundles against the bundle that they were made of: their own checksums, then every row and the dense weights byte by byte.
 * Returns what is wrong, of each bundle at most its first difference. All of a directory together also have to hold every row once,
 * and the dense weights.
 */
export async function verifyPublished(dir: string, sourceDir: string, onProgress: OnProgress = () => undefined): Promise<string[]> {
  const dirs = await bundlesIn(dir);
  const source = await openBundle(sourceDir, { verify: 'later', dense: false });
  if (source.spec.published !== undefined)
    throw new TerabagError(
      'invalid_argument',
      `the source has to be a whole bundle, this is that of shard ${source.spec.published.shard}: ${sourceDir}`,
    );
  const problems = new Set<string>();
  const compared: Bundle[] = [];
  // Bytes differ from bundle to bundle, and are known once each is opened: progress counts bundles as if they were of one size.
  const size = Object.values(source.spec.files).reduce((sum, { bytes }) => sum + bytes, 0);
  const halves = (half: number) => (done: number, total: number) => onProgress((half + done / total) * size, 2 * dirs.length * size);
  for (const [n, each] of dirs.entries()) {
    try {
      for (const problem of await verifyBundleAndIndexes(each, halves(2 * n))) problems.add(problem);
      const bundle = await openBundle(each, { verify: 'later', dense: false });
      compared.push(bundle);
      await compareBundle(bundle, source, halves(2 * n + 1));
    } catch (error) {
      problems.add(TerabagError.from(error).message);
    }
  }
  // Bundles of another model have other tables.
  if (dirs[0] !== dir && compared.every(({ hash }) => hash === source.hash)) {
    for (const problem of missingParts(compared, source, dir)) problems.add(problem);
    if (!compared.some(({ spec }) => holdsDense(spec))) problems.add(`the bundles do not hold the dense weights, those of main: ${dir}`);
  }
  return [...problems];
}

function missingParts(bundles: readonly Bundle[], { spec }: Bundle, dir: string): string[] {
  return spec.tables.flatMap(({ name }, at) => {
    const held = bundles.flatMap(({ tables }) => tables[at] ?? []);
    const parts = held[0]?.parts ?? 1;
    const missing = Array.from({ length: parts }, (_, part) => part).filter(
      (part) => held.filter((table) => table.part === part && table.parts === parts).length !== 1,
    );
    return missing.length === 0 && held.length === parts
      ? []
      : [
          `the bundles do not hold a table once: ${name}, ${held.map((table) => `part ${table.part} of ${table.parts}`).join(', ') || 'nowhere'}: ${dir}`,
        ];
  });
}

/** Throws the first difference. */
async function compareBundle(bundle: Bundle, source: Bundle, onProgress: OnProgress): Promise<void> {
  const { published } = bundle.spec;
  if (published === undefined) throw new TerabagError('invalid_argument', `bundle was not published: ${bundle.dir}`);
  if (bundle.hash !== source.hash)
    throw new TerabagError(
      'model_mismatch',
      `bundle of shard ${published.shard} was made of another model: ${bundle.hash.slice(0, 12)}, the source is ${source.hash.slice(0, 12)}: ${bundle.dir}`,
    );
  const held = bundle.tables.filter((table) => table !== null);
  // The source's rows are read, all of them, whatever part is compared.
  const total = held.reduce((sum, { bytes, parts }) => sum + bytes * parts, 0);
  let done = 0;
  for (const [t, table] of bundle.tables.entries()) {
    if (table === null) continue;
    await compareTable(table, source.tables[t] as OpenTable, bundle, (bytes) => {
      done += bytes;
      onProgress(Math.min(done, total), total);
    });
  }
  if (holdsDense(bundle.spec)) await compareDense(bundle, source);
}

/** Of one whose rows are those of its keys, with the index that they have. */
async function compareTable(table: OpenTable, source: OpenTable, bundle: Bundle, onBytes: (bytes: number) => void): Promise<void> {
  if (table.index === null || source.index === null) return compareRows(table, source, bundle, null, onBytes);
  if (table.parts === 1) await compareIndexes(table, source);
  const scratch = tmpdir();
  const keys = table.parts === 1 ? null : await KeysByRow.read(source.index, scratch);
  try {
    const own = keys === null ? null : await KeysByRow.read(table.index, scratch);
    try {
      await compareRows(table, source, bundle, keys === null || own === null ? null : { keys, own }, onBytes);
    } finally {
      own?.close();
    }
  } finally {
    keys?.close();
  }
}

/** Of a table that is not split, the bytes. */
async function compareIndexes({ index, spec }: OpenTable, { index: source }: OpenTable): Promise<void> {
  const [expected, found] = [source as OpenKeyIndex, index as OpenKeyIndex];
  await withFiles(expected.path, found.path, async (from, to) => {
    let at = found.byteOffset;
    const extent = { from: expected.byteOffset, bytes: expected.bytes };
    for await (const { memory, bytes } of readBlocks(from, expected.path, extent, BLOCK_BYTES)) {
      const here = new Uint8Array(bytes);
      await readFully(to, found.path, at, here);
      if (firstDifference(memory.subarray(0, bytes), here) >= 0) throw indexDiffers(spec.name, found.path);
      at += bytes;
    }
  });
}

const indexDiffers = (table: string, path: string): TerabagError =>
  new TerabagError('bad_table', `key index differs from the source: table ${table}: ${path}`, { table });

/** The keys of the source in the order of its rows, and those of the part. */
interface BothKeys {
  readonly keys: KeysByRow;
  readonly own: KeysByRow;
}

/** Where the rows of a block that belong to a part are, behind them; throws when their keys are others than those of the part. */
async function expectedRows(memory: Uint8Array, rows: Rows, table: OpenTable, both: BothKeys | null): Promise<Uint8Array> {
  const end = rows.count * rows.rowBytes;
  if (both === null) return memory.subarray(end, gatherRows(memory, rows, table, end));
  const keys = new BigInt64Array(rows.count);
  await both.keys.next(keys);
  const parts = new Uint32Array(rows.count);
  partsOfKeys(keys, table.parts, parts);
  const wanted = keys.filter((_, row) => parts[row] === table.part);
  const own = new BigInt64Array(wanted.length);
  // The last part of the rows may have none.
  if (own.length > 0) await both.own.next(own);
  if (wanted.some((key, at) => key !== own[at])) throw indexDiffers(table.spec.name, (table.index as OpenKeyIndex).path);
  return memory.subarray(end, gatherChosen(memory, rows, parts, table.part, end));
}

async function compareRows(
  table: OpenTable,
  source: OpenTable,
  bundle: Bundle,
  both: BothKeys | null,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { rowBytes, part, parts } = table;
  const blockBytes = rowsInBlock(rowBytes) * rowBytes;
  await withFiles(source.path, table.path, async (from, to) => {
    let [firstRow, at] = [0, table.byteOffset];
    const here = new Uint8Array(Math.min(blockBytes, table.bytes));
    for await (const { memory, bytes } of readBlocks(from, source.path, { from: source.byteOffset, bytes: source.bytes }, blockBytes)) {
      const rows = { rowBytes, firstRow, count: bytes / rowBytes };
      const expected = await expectedRows(memory, rows, table, both);
      const { length } = expected;
      const found = here.subarray(0, length);
      await readFully(to, table.path, at, found);
      const byte = firstDifference(expected, found);
      if (byte >= 0) {
        const localRow = (at - table.byteOffset) / rowBytes + Math.floor(byte / rowBytes);
        const row = part + localRow * parts;
        const { name } = table.spec;
        const shard = bundle.spec.published?.shard ?? '';
        throw new TerabagError(
          'bad_table',
          `row differs from the source: table ${name}, ${both === null ? `row ${row}, ` : ''}local row ${localRow} of ${shard}: ${table.path}`,
          {
            ...{ table: name, shard, localRow },
            ...(both === null && { row }),
          },
        );
      }
      at += length;
      firstRow += rows.count;
      onBytes(bytes);
    }
    if (table.fallbackRows > 0) await compareNamedRows(from, to, table, source, namedRowsOf(bundle.spec, bundle.tables.indexOf(table)));
  });
}

/** The copies behind the rows of a part of those that rules name. */
async function compareNamedRows(
  from: FileHandle,
  to: FileHandle,
  { rows, rowBytes, byteOffset, path, spec }: OpenTable,
  source: OpenTable,
  named: NamedRows,
): Promise<void> {
  let localRow = rows;
  for (const { firstRow, count } of namedRuns(named, rowBytes)) {
    const [expected, found] = [new Uint8Array(count * rowBytes), new Uint8Array(count * rowBytes)];
    await readFully(from, source.path, source.byteOffset + firstRow * rowBytes, expected);
    await readFully(to, path, byteOffset + localRow * rowBytes, found);
    const byte = firstDifference(expected, found);
    if (byte >= 0) {
      const at = Math.floor(byte / rowBytes);
      const details = { table: spec.name, row: firstRow + at, localRow: localRow + at };
      throw new TerabagError(
        'bad_table',
        `row for ids without one differs from the source: table ${spec.name}, row ${details.row}, local row ${details.localRow}: ${path}`,
        details,
      );
    }
    localRow += count;
  }
}

async function compareDense(bundle: Bundle, source: Bundle): Promise<void> {
  const file = denseFile(source.spec);
  const [expected, found] = [pathInside(source.dir, file), pathInside(bundle.dir, file)];
  const bytes = source.spec.files[file]?.bytes ?? 0;
  await withFiles(expected, found, async (from, to) => {
    let at = 0;
    for await (const block of readBlocks(from, expected, { from: 0, bytes }, BLOCK_BYTES)) {
      const here = new Uint8Array(block.bytes);
      await readFully(to, found, at, here);
      const byte = firstDifference(block.memory.subarray(0, block.bytes), here);
      if (byte >= 0) throw new TerabagError('bad_table', `dense weights differ from the source: byte ${at + byte}: ${found}`);
      at += block.bytes;
    }
  });
}

async function withFiles(source: string, published: string, compare: (from: FileHandle, to: FileHandle) => Promise<void>): Promise<void> {
  const from = await openToRead(source);
  try {
    const to = await openToRead(published);
    try {
      await compare(from, to);
    } finally {
      await to.close();
    }
  } finally {
    await from.close();
  }
}

/** -1 when the bytes are the same. */
function firstDifference(expected: Uint8Array, found: Uint8Array): number {
  return Buffer.compare(expected, found) === 0 ? -1 : expected.findIndex((value, at) => value !== found[at]);
}
