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
/** Each bag's values are followed by what its mean is divided by: the number of rows that were pooled, of weighted_mean the sum of their weights. */
export const SEGMENT_DIVISOR = 16;

/** Where the number of the rule of a segment's ids starts in its flags: it is one of those that its table's readers have in the model. */
export const SEGMENT_RULE_SHIFT = 16;

export interface SegmentKind {
  readonly weighted: boolean;
  readonly divisor: boolean;
  readonly rule: number;
}

export const segmentFlags = (pooling: Pooling, { weighted, divisor, rule }: SegmentKind): number =>
  (POOLINGS[pooling].flag | (weighted ? SEGMENT_WEIGHTED : 0) | (divisor ? SEGMENT_DIVISOR : 0) | (rule << SEGMENT_RULE_SHIFT)) >>> 0;

/** Floats of a bag in an answer. */
export const floatsPerBag = (dim: number, flags: number): number => dim + ((flags & SEGMENT_DIVISOR) === 0 ? 0 : 1);

/** As it travels, but for what the message adds. */
export const batchBytes = ({ segments, indices, offsets, weights }: SparseBatch): number =>
  segments.byteLength + indices.byteLength + offsets.byteLength + (weights?.byteLength ?? 0);
