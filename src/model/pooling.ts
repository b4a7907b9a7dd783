/**
 * How the parts of a table that is split by rows give a bag's vector: what each part does with its own rows, and what becomes of the vectors.
 * Where a part answers a divisor too, it is the number of rows that it pooled, or the sum of their weights (weighted_mean).
 */
export interface PartsPooling {
  readonly pooling: string;
  /** Whether each part answers a divisor behind the vector of a bag, see SEGMENT_DIVISOR. */
  readonly divisor: boolean;
  /** add: they are added up; max: the largest value at each place. A part that answers a divisor of 0 has no row of a max. */
  readonly combine: 'add' | 'max';
  /** What the combined vector is divided by: nothing, the number of ids that main sent, or the sum of the divisors. */
  readonly divide: 'no' | 'ids' | 'divisors';
}

interface PoolingInfo {
  /** What it adds to the flags of a segment; see NativeSparseEngine. */
  readonly flag: number;
  readonly parts: PartsPooling;
  /** parts, where they may leave ids out, so that main cannot know how many are pooled. */
  readonly countedParts: PartsPooling;
}

const SUMS = { pooling: 'sum', divisor: false, combine: 'add', divide: 'no' } as const;
const MAXIMA = { pooling: 'max', divisor: true, combine: 'max', divide: 'no' } as const;
const MEANS = { pooling: 'mean', divisor: true, combine: 'add', divide: 'divisors' } as const;
const WEIGHTED_MEANS = { ...MEANS, pooling: 'weighted_mean' } as const;

/**
 * The one table of poolings: what becomes of the rows of a bag. native/kernels/embedding_bag.h has the same names and flags, with the
 * contract; an addon whose table differs is refused when it is loaded.
 */
export const POOLINGS = {
  sum: { flag: 0, parts: SUMS, countedParts: SUMS },
  mean: { flag: 1, parts: { ...SUMS, divide: 'ids' }, countedParts: MEANS },
  max: { flag: 4, parts: { ...MAXIMA, divisor: false }, countedParts: MAXIMA },
  weighted_mean: { flag: 8, parts: WEIGHTED_MEANS, countedParts: WEIGHTED_MEANS },
} as const satisfies Record<string, PoolingInfo>;

export type Pooling = keyof typeof POOLINGS;

/** What is said of a bag layer; see ResolvedBag. */
interface Pooled {
  readonly pooling: Pooling;
  readonly leavesOut: boolean;
  readonly maxLength?: number;
}

/** Whether each vector has to come with the number of its rows: of a sequence, whose positions ids that are left out do not have. */
const isCounted = ({ leavesOut, maxLength }: Pooled): boolean => leavesOut && maxLength !== undefined;

/** How a table that is not split is asked. */
export const wholePooling = (bag: Pooled): { readonly pooling: Pooling; readonly divisor: boolean } => ({
  pooling: bag.pooling,
  divisor: isCounted(bag),
});

/** How the parts of a table that is split are asked, and what becomes of their answers. */
export function partsPooling(bag: Pooled): PartsPooling & { readonly pooling: Pooling } {
  if (isCounted(bag)) return { ...SUMS, divisor: true };
  return POOLINGS[bag.pooling][bag.leavesOut ? 'countedParts' : 'parts'];
}

export const POOLING_NAMES = Object.keys(POOLINGS) as [Pooling, ...Pooling[]];
