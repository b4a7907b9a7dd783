import { relative } from 'node:path';
import type { FileResidency } from '../engine/residency.js';
import { bytes, figure, printTable, text } from './table.js';

const percent = (part: number, whole: number): string => String(whole === 0 ? 0 : Math.floor((100 * part) / whole));

/** A row per file of a bundle. */
export function printResidency(dir: string, files: readonly FileResidency[]): void {
  printTable(files, [
    text('file', ({ path }) => relative(dir, path)),
    bytes('size', (file) => file.bytes),
    figure('in memory, %', ({ known, residentBytes, bytes: all }) => (known ? percent(residentBytes, all) : 'not told')),
    figure('on huge pages, %', ({ known, hugePageBytes, bytes: all }) => (known ? percent(hugePageBytes, all) : 'not told')),
  ]);
}
