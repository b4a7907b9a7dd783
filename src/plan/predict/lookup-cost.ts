import { type RowFormat, rowBytes } from '../../model/formats.js';
import { HOT_ROWS } from '../profile/profile.js';
import type { Costs } from './costs.js';

type Measured = Costs['lookups'][number];

export interface LookupCost {
  readonly ns: number;
  readonly inCacheNs: number;
}

/** ns of a looked-up row, from memory and from the caches: linear in its bytes between measured dims, in proportion to them beyond. */
export function lookupCost({ lookups }: Costs, format: RowFormat, dim: number): LookupCost {
  const bytes = rowBytes(format, dim);
  const own = lookups.filter((measured) => measured.format === format);
  // A format that was not measured costs what rows of as many bytes cost.
  const known = (own.length > 0 ? own : lookups)
    .map((measured) => ({ ...measured, bytes: rowBytes(measured.format, measured.dim) }))
    .sort((a, b) => a.bytes - b.bytes);
  const above = known.find((measured) => measured.bytes >= bytes) ?? (known.at(-1) as Measured & { bytes: number });
  const below = known.findLast((measured) => measured.bytes <= bytes) ?? (known[0] as Measured & { bytes: number });
  const share = above.bytes > below.bytes ? (bytes - below.bytes) / (above.bytes - below.bytes) : 0;
  // Rows below the shortest one measured wait for memory as long as it; longer ones take as many times as long as they have bytes.
  const beyond = above.bytes < bytes ? bytes / above.bytes : 1;
  const at = (key: 'ns' | 'inCacheNs'): number => (below[key] + share * (above[key] - below[key])) * beyond;
  return { ns: at('ns'), inCacheNs: at('inCacheNs') };
}

/** The same, worked out once for each format and dim. */
export function lookupCosts(costs: Costs): (format: RowFormat, dim: number) => LookupCost {
  const known = new Map<string, LookupCost>();
  return (format, dim) => {
    const key = `${format} ${dim}`;
    const cost = known.get(key) ?? lookupCost(costs, format, dim);
    known.set(key, cost);
    return cost;
  };
}

/**
 * Share of a table's lookups that find their row in a cache which has room for so many of its bytes. The hottest 1 % of the rows take hotShare
 * of the lookups, all rows take all; the concentration curve is taken as straight between these points.
 */
export function cachedShare(bytes: number, roomBytes: number, hotShare: number): number {
  const held = bytes > 0 ? Math.min(1, roomBytes / bytes) : 1;
  const hot = Math.max(HOT_ROWS, hotShare);
  return held <= HOT_ROWS ? (held / HOT_ROWS) * hot : hot + ((held - HOT_ROWS) / (1 - HOT_ROWS)) * (1 - hot);
}
