import type { FileHandle } from 'node:fs/promises';
import { TerabagError } from '../../../errors.js';
import { compareChecksums } from '../../../model/bundle-files.js';
import type { NamedRows } from '../../../model/id-rules.js';
import type { FileSpec } from '../../../model/spec.js';
import { BLOCK_BYTES, type Block, openToRead, readBlocks, readFully, rowsInBlock } from '../../../tables/blocks.js';
import { ChunkedCrc32, type FileChecksum } from '../../../tables/checksum.js';
import { gatherChosen, gatheredBytes, gatherRows, type RowPart, type Rows } from '../../../tables/rows.js';
import { PAGE_BYTES, type SafetensorsHeader, SafetensorsWriter, type TensorInfo, type TensorShape } from '../../../tables/safetensors.js';
import { namedRuns } from './named-rows.js';

/** A file to write, with a part of the rows of some tensors of the source. */
export interface FileOfRows extends RowPart {
  readonly path: string;
  readonly tensors: readonly TensorShape[];
  readonly metadata: Readonly<Record<string, string>>;
}

export interface SplitOptions {
  /** The source's checksums, when they are to be checked: before any file appears. */
  readonly expected: FileSpec | null;
  readonly signal?: AbortSignal | undefined;
  /** Bytes of rows that were written. */
  readonly onBytes?: (bytes: number) => void;
  /** Of the one tensor of a keyed table, whose rows belong to the parts of their keys. It is read even when no file takes rows. */
  readonly keyed?: KeyedRows;
}

export interface KeyedRows {
  readonly tensor: string;
  /** The part of each of the next rows, as many as there is room for. */
  readonly partsOfRows: (parts: Uint32Array) => Promise<void>;
  /** They follow the rows of each part. */
  readonly named: NamedRows;
}

interface Output {
  readonly target: FileOfRows;
  readonly writer: SafetensorsWriter;
  readonly tensors: ReadonlySet<string>;
}

/**
 * Reads a table file once, from its start to its end, and writes each row to the files that hold its part. Memory: three blocks, and one per
 * file. The files appear, with data that starts on a page, when all are whole; returns their checksums.
 */
export async function splitFile(header: SafetensorsHeader, targets: readonly FileOfRows[], options: SplitOptions): Promise<FileChecksum[]> {
  const outputs: Output[] = [];
  const file = await openToRead(header.path);
  try {
    for (const target of targets) {
      const writer = await SafetensorsWriter.create(target.path, target.tensors, { metadata: target.metadata, align: PAGE_BYTES });
      outputs.push({ target, writer, tensors: new Set(target.tensors.map(({ name }) => name)) });
    }
    await copyRows(file, header, outputs, options);
    const checksums: FileChecksum[] = [];
    for (const { writer } of outputs) checksums.push(await writer.commit());
    return checksums;
  } catch (error) {
    for (const { writer } of outputs) await writer.discard();
    throw error;
  } finally {
    await file.close();
  }
}

async function copyRows(file: FileHandle, header: SafetensorsHeader, outputs: readonly Output[], options: SplitOptions): Promise<void> {
  const { expected, signal, onBytes = () => undefined, keyed } = options;
  const sum = expected === null ? null : new ChunkedCrc32();
  const { path } = header;
  const check = ({ memory, bytes }: Block): void => {
    stopIf(signal);
    sum?.update(memory.subarray(0, bytes));
  };
  if (sum !== null) for await (const block of readBlocks(file, path, { from: 0, bytes: header.dataStart }, BLOCK_BYTES)) check(block);
  for (const [name, tensor] of [...header.tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset)) {
    const takers = outputs.filter(({ tensors }) => tensors.has(name));
    if (takers.length === 0 && sum === null && name !== keyed?.tensor) continue;
    const { extent, rowBytes, blockBytes } = rowBlocks(tensor);
    let firstRow = 0;
    for await (const block of readBlocks(file, path, extent, blockBytes)) {
      check(block);
      const rows = { rowBytes, firstRow, count: block.bytes / rowBytes };
      let choose = byNumber;
      if (keyed !== undefined && name === keyed.tensor) {
        const parts = new Uint32Array(rows.count);
        await keyed.partsOfRows(parts);
        choose = byPart(parts);
      }
      onBytes(await deal(block, rows, takers, choose));
      firstRow += rows.count;
    }
    if (keyed !== undefined && name === keyed.tensor)
      await putNamedRows(file, path, tensor, keyed.named, async (bytes) => {
        stopIf(signal);
        await allWritten(takers.map(({ writer }) => writer.put(bytes)));
        onBytes(bytes.length * takers.length);
      });
  }
  if (sum !== null && expected !== null) compareChecksums(path, path, sum.digest(), expected);
}

/** Reads rows of a table that rules name, in their order. */
async function putNamedRows(
  file: FileHandle,
  path: string,
  tensor: TensorInfo,
  named: NamedRows,
  put: (rows: Uint8Array) => Promise<void>,
): Promise<void> {
  const { extent, rowBytes } = rowBlocks(tensor);
  for (const { firstRow, count } of namedRuns(named, rowBytes)) {
    const rows = new Uint8Array(count * rowBytes);
    await readFully(file, path, extent.from + firstRow * rowBytes, rows);
    await put(rows);
  }
}

/** How a tensor is read in blocks of whole rows; what is no table is one row of bytes after another. */
function rowBlocks({ byteOffset, bytes, shape }: TensorInfo): {
  extent: { from: number; bytes: number };
  rowBytes: number;
  blockBytes: number;
} {
  const [rows = 0] = shape;
  // Values of a few bits may share a byte between two rows; such a tensor is no table.
  const rowBytes = shape.length === 2 && bytes > 0 && bytes % rows === 0 ? bytes / rows : 1;
  return { extent: { from: byteOffset, bytes }, rowBytes, blockBytes: rowsInBlock(rowBytes) * rowBytes };
}

/** Which rows of a block belong to a part. */
interface ChooseRows {
  /** Bytes of those rows. */
  readonly bytes: (rows: Rows, part: RowPart) => number;
  /** Copies them as gatherRows does. */
  readonly gather: (memory: Uint8Array, rows: Rows, part: RowPart, to: number) => number;
}

const byNumber: ChooseRows = { bytes: gatheredBytes, gather: gatherRows };

const byPart = (parts: Uint32Array): ChooseRows => ({
  bytes: ({ rowBytes }, { part }) => parts.reduce((count, of) => count + (of === part ? 1 : 0), 0) * rowBytes,
  gather: (memory, rows, { part }, to) => gatherChosen(memory, rows, parts, part, to),
});

/** Gives each file its rows of a block; the files are written side by side. Returns the bytes that were given. */
async function deal({ memory, bytes }: Block, rows: Rows, takers: readonly Output[], choose: ChooseRows): Promise<number> {
  let [end, given] = [bytes, 0];
  let writing: Promise<void>[] = [];
  for (const { target, writer } of takers) {
    const whole = target.parts === 1;
    const length = whole ? bytes : choose.bytes(rows, target);
    if (!whole && end + length > memory.length) {
      // Tables that share a tensor may be split twice: more rows than the room behind the block holds.
      await allWritten(writing);
      [writing, end] = [[], bytes];
    }
    const from = whole ? 0 : end;
    if (!whole) end = choose.gather(memory, rows, target, from);
    writing.push(writer.put(memory.subarray(from, from + length)));
    given += length;
  }
  await allWritten(writing);
  return given;
}

/** Settles when nothing reads the memory any more. */
async function allWritten(writing: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(writing)) if (result.status === 'rejected') throw result.reason;
}

export function stopIf(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new TerabagError('aborted', 'publishing was interrupted; the same command goes on where it stopped');
}
