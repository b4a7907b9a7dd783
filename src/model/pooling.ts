/** How the parts of a table that is split by rows give a bag's vector: what each part does with its own rows, and what becomes of the vectors. */
interface PartsPooling {
  readonly pooling: string;
  /** add: they are added up. */
  readonly combine: 'add';
  /** Whether the combined vector is divided by the bag's number of ids. */
  readonly divide: boolean;
}

interface PoolingInfo {
  /** What it adds to the flags of a segment; see NativeSparseEngine. */
  readonly flag: number;
  readonly parts: PartsPooling;
}

/**
 * The one table of poolings: what becomes of the rows of a bag. native/kernels/embedding_bag.h has the same names and flags, with the
 * contract; an addon whose table differs is refused when it is loaded.
 */
export const POOLINGS = {
  sum: { flag: 0, parts: { pooling: 'sum', combine: 'add', divide: false } },
  mean: { flag: 1, parts: { pooling: 'sum', combine: 'add', divide: true } },
} as const satisfies Record<string, PoolingInfo>;

export type Pooling = keyof typeof POOLINGS;
export type Combine = PartsPooling['combine'];
export const POOLING_NAMES = Object.keys(POOLINGS) as [Pooling, ...Pooling[]];
