/**
 * The one table of operations, which the dense net runs: layers are made of them. native/engine/layer.h has the same operations and activations,
 * with what to do to add one; an addon that has others is refused when it is loaded.
 */

/** What an operation reads and gives, of one row. */
export interface OpShape {
  /** Sum of the inputs' dims. */
  readonly inputDim: number;
  readonly numInputs: number;
  readonly dim: number;
  readonly diagonal: boolean;
  /** Of the first input, at most; 1 of a vector. */
  readonly positions: number;
  readonly causal: boolean;
}

/** What an operation costs, for the planner. */
export interface OpWork {
  /** matrix: multiply-adds of as many weights; pairs: of a dot interaction, which take longer; values: one for each value that is read. */
  readonly kind: 'matrix' | 'pairs' | 'values';
  /** For one row; a matrix: in proportion to inputDim. Of what reads whole sequences: for all of its positions. */
  readonly macs: (shape: OpShape) => number;
  /** Its multiply-adds are those of a whole sequence, not of a position. */
  readonly wholeSequence?: true;
  /** Weights that it reads; absent: of a matrix as many as its multiply-adds, else none. */
  readonly weights?: (shape: OpShape) => number;
}

/** What a query and a key are seen by, q, k, q - k and q * k; native/engine/layer.h has the same names. */
export const FEATURES = ['query', 'key', 'difference', 'product'] as const;
export type Feature = (typeof FEATURES)[number];

/** What becomes of the positions of a sequence; native/engine/layer.h has the same names. */
export const SEQUENCE_POOLINGS = ['sum', 'mean', 'max', 'last'] as const;
export type SequencePooling = (typeof SEQUENCE_POOLINGS)[number];

/** A function of a value takes as long as this many multiply-adds of a matrix: 0.35 ns of 0.0186 (AVX-512, sigmoid). */
const FUNCTION_MACS = 20;
const FUNCTIONS: OpWork = { kind: 'values', macs: ({ inputDim }) => FUNCTION_MACS * inputDim };
const VALUES: OpWork = { kind: 'values', macs: ({ inputDim }) => inputDim };
const OF_SEQUENCE: OpWork = { kind: 'values', wholeSequence: true, macs: ({ inputDim, positions }) => inputDim * positions };
const STEPS: OpWork = {
  kind: 'matrix',
  wholeSequence: true,
  macs: ({ dim, positions }) => 3 * dim * (dim + FUNCTION_MACS) * positions,
  weights: ({ dim }) => 3 * dim * dim,
};
/** Multiply-adds of a pair of positions, and a function of it, by the number of pairs. */
const pairsOfPositions =
  (macs: (shape: OpShape) => number) =>
  (shape: OpShape): number =>
    ((macs(shape) + FUNCTION_MACS) * shape.positions ** 2) / (shape.causal ? 2 : 1);

export const OPS = {
  fc: { kind: 'matrix', macs: ({ inputDim, dim }) => inputDim * dim },
  dot_interaction: { kind: 'pairs', macs: ({ inputDim, numInputs, diagonal }) => (inputDim * (numInputs + (diagonal ? 1 : -1))) / 2 },
  concat: VALUES,
  sum: VALUES,
  /** All inputs multiplied, elementwise. */
  product: VALUES,
  /** The first input times the second, plus the third, elementwise. */
  multiply_add: VALUES,
  layer_norm: VALUES,
  /** The attribute of that name, of each value. */
  activation: FUNCTIONS,
  prelu: VALUES,
  dice: FUNCTIONS,
  scale_shift: VALUES,
  softmax: FUNCTIONS,
  /** The first input is the gate: as many values as there are other inputs, their factors in the sum. */
  mixture: VALUES,
  /** Second order of a factorization machine; of dim 1: its sum. */
  fm: VALUES,
  sequence_pool: OF_SEQUENCE,
  flatten: OF_SEQUENCE,
  append: OF_SEQUENCE,
  /** A weight is added to each position. */
  positions: OF_SEQUENCE,
  /** The first layer of target_attention: of a sequence and a query. Of the weights for the query, the keys and their products, two are used once an item. */
  query_key: {
    kind: 'matrix',
    wholeSequence: true,
    macs: ({ inputDim, dim, positions }) => (inputDim / 2) * dim * (positions + 2),
    weights: ({ inputDim, dim }) => (inputDim / 2) * dim * 3,
  },
  /** Over the positions of a sequence of dim 1. */
  sequence_softmax: { kind: 'values', wholeSequence: true, macs: ({ positions }) => FUNCTION_MACS * positions },
  /** A sequence and its scores. */
  weighted_pool: OF_SEQUENCE,
  /** Queries, keys and values side by side: the products of all pairs of positions, their softmax, and the sums. */
  attention: { kind: 'values', wholeSequence: true, macs: pairsOfPositions(({ dim }) => 2 * dim) },
  /** U, V, Q and K side by side. */
  hstu_attention: { kind: 'values', wholeSequence: true, macs: pairsOfPositions(({ inputDim }) => inputDim / 2) },
  /** The steps: inputs were multiplied before, [3 dim] for each position. */
  gru: STEPS,
  augru: STEPS,
} satisfies Record<string, OpWork>;
export type Op = keyof typeof OPS;

export const ACTIVATIONS = ['none', 'relu', 'sigmoid', 'tanh', 'gelu', 'gelu_tanh', 'silu'] as const;
export type Activation = (typeof ACTIVATIONS)[number];

/** What an operation has beside its inputs. */
export interface OpAttributes {
  /** Of its value: how many positions a sequence has at most; 0: it is a vector. */
  readonly positions: number;
  readonly activation: Activation;
  /** dot_interaction: whether pairs (i, i) are part of the output. */
  readonly diagonal: boolean;
  /** layer_norm and dice: what is added to the variance; else 0. */
  readonly epsilon: number;
  /** sequence_pool's. */
  readonly pooling: SequencePooling;
  /** query_key's: those that it has weights for, in this order. */
  readonly features: readonly Feature[];
  /** attention and hstu_attention; else 0. */
  readonly heads: number;
  /** Likewise: whether a position sees only those up to its own. */
  readonly causal: boolean;
  /** hstu_attention: what its weights are divided by; else 0. */
  readonly normalizer: number;
  /** Tensors of dense.safetensors. fc: weight [dim, input dim], bias [dim] or null; layer_norm: weight and bias, [dim] both or null both; prelu: weight, [1] or [dim];
   * dice: alpha, mean and variance, [dim] each; scale_shift: scale [dim], shift [dim] or null; positions: [positions, dim];
   * query_key: weight [dim, features * input dim], bias [dim] or null; hstu_attention: biases of distances [2 positions - 1] or null; gru and augru: weight
   * [3 dim, dim], bias [3 dim] or null. */
  readonly tensors: readonly (string | null)[];
}
export const NO_ATTRIBUTES = {
  positions: 0,
  activation: 'none',
  diagonal: false,
  epsilon: 0,
  pooling: 'sum',
  features: [],
  heads: 0,
  causal: false,
  normalizer: 0,
  tensors: [],
} satisfies OpAttributes;
