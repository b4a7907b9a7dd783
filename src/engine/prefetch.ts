import { TerabagError } from '../errors.js';

/** How far ahead of the row in work rows are fetched. */
export interface Prefetch {
  /** Distance in cache lines of rows, 0 to 65536. */
  readonly lines: number;
  /** Into L2, for which cores wait for more lines at a time, or into L1. */
  readonly toL2: boolean;
}

/** What was measured to suit rows of a length. */
export interface TunedPrefetch extends Prefetch {
  readonly rowBytes: number;
  /** Time of a lookup of a random row, with this distance. */
  readonly nsPerLookup: number;
}

const MAX_LINES = 65_536;

/**
 * TERABAG_PREFETCH: auto (also when unset) measures when tables are opened, default takes the addon's own distance, and LINES or LINES:l1 or LINES:l2
 * sets it for all rows.
 */
export function prefetchSetting(text: string | undefined): 'auto' | 'default' | Prefetch {
  if (text === undefined || text === '' || text === 'auto') return 'auto';
  if (text === 'default') return 'default';
  const [, lines = '', level = 'l2'] = /^(\d{1,6})(?::(l1|l2))?$/.exec(text) ?? [];
  if (lines === '' || Number(lines) > MAX_LINES) {
    throw new TerabagError(
      'invalid_argument',
      `TERABAG_PREFETCH has to be auto, default, or 0 to ${MAX_LINES} cache lines with :l1 or :l2 behind: ${text}`,
      { field: 'TERABAG_PREFETCH' },
    );
  }
  return { lines: Number(lines), toL2: level === 'l2' };
}
