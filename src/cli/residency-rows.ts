import { relative } from 'node:path';
import type { FileResidency } from '../engine/residency.js';
import { formatBytes } from '../lab/report/numbers.js';

const percent = (part: number, whole: number): string => `${whole === 0 ? 0 : Math.floor((100 * part) / whole)} %`;

/** A line per file of a bundle, for people. */
export function residencyRow(dir: string, { path, bytes, residentBytes, hugePageBytes, known }: FileResidency): Record<string, string> {
  return {
    file: relative(dir, path),
    bytes: formatBytes(bytes),
    'in memory': known ? percent(residentBytes, bytes) : 'not told',
    'on huge pages': known ? percent(hugePageBytes, bytes) : 'not told',
  };
}
