import type { FileSpec } from '../model/spec.js';
import type { Extent } from '../tables/blocks.js';
import { CHUNK_BYTES, checksumExtent, crc32Digits } from '../tables/checksum.js';
import type { KnownExtent } from './checkpoint.js';

/** Rows that are served in place, and what is known of the bytes around them. */
export interface PlacedBytes {
  readonly extent: Extent;
  readonly known: KnownExtent | null;
}

export interface ExtentsOptions {
  readonly rows: readonly PlacedBytes[];
  /** What tells the file from others; its checksums are worked out. */
  readonly marks: readonly Extent[];
  readonly onBytes: (bytes: number) => void;
  /** Told how many bytes will be read. */
  readonly onTotal: (bytes: number) => void;
}

/**
 * What model.json says of a file of another program: checksums of the extents that the model is in. Those that the file tells of itself are taken
 * from it, as the entries of a zip are, so that a file of any size is not read; others are worked out.
 */
export async function checksumExtents(path: string, bytes: number, { rows, marks, onBytes, onTotal }: ExtentsOptions): Promise<FileSpec> {
  const known = rows.flatMap(({ known }) => known ?? []);
  const byStart = new Map(known.map((extent) => [extent.from, extent]));
  const unknown = rows.flatMap((row) => (row.known === null ? [row.extent] : []));
  const toRead = chunks(apart([...unknown, ...marks]));
  onTotal(toRead.reduce((sum, extent) => sum + extent.bytes, 0));
  const found = new Map(
    [...byStart.values()].map(({ from, bytes: length, crc32 }) => [from, { extent: { from, bytes: length }, digits: crc32Digits(crc32) }]),
  );
  for (const extent of toRead) found.set(extent.from, { extent, digits: await checksumExtent(path, extent, onBytes) });
  const inOrder = [...found.values()].sort((a, b) => a.extent.from - b.extent.from);
  return { bytes, crc32: inOrder.map(({ digits }) => digits), extents: inOrder.map(({ extent }) => extent) };
}

/** Tables may share rows: what overlaps or touches becomes one. */
function apart(extents: readonly Extent[]): Extent[] {
  const merged: { from: number; bytes: number }[] = [];
  for (const { from, bytes } of [...extents].sort((a, b) => a.from - b.from)) {
    const last = merged.at(-1);
    if (last !== undefined && from <= last.from + last.bytes) last.bytes = Math.max(last.bytes, from + bytes - last.from);
    else merged.push({ from, bytes });
  }
  return merged;
}

const chunks = (extents: readonly Extent[]): Extent[] =>
  extents.flatMap(({ from, bytes }) =>
    Array.from({ length: Math.ceil(bytes / CHUNK_BYTES) }, (_, n) => ({
      from: from + n * CHUNK_BYTES,
      bytes: Math.min(CHUNK_BYTES, bytes - n * CHUNK_BYTES),
    })),
  );
