import { POOLINGS, type Pooling } from '../model/pooling.js';

/** A batch of bags in the layout that the addon pools and that travels on the wire; see NativeSparseEngine for the checks. */
export interface SparseBatch {
  /** SEGMENT_FIELDS uint32 per segment: table, part, parts, bags, flags (segmentFlags). */
  readonly segments: Uint8Array;
  readonly indexBytes: 4 | 8;
  readonly indices: Uint8Array;
  readonly offsets: Uint8Array;
  readonly weights: Uint8Array | null;
}

export const SEGMENT_FIELDS = 5;
export const SEGMENT_WEIGHTED = 2;

export const segmentFlags = (pooling: Pooling, weighted: boolean): number => POOLINGS[pooling].flag | (weighted ? SEGMENT_WEIGHTED : 0);
