import { z } from 'zod';
import type { TerabagError } from '../errors.js';
import { POOLING_NAMES } from './pooling.js';
import { idFields } from './unseen.js';

/**
 * The one table of layers. An operation is what the dense net runs (OPS); a layer is what model.json names (LAYERS): one operation, or a few.
 * native/engine/layer.h has the same operations and activations, with what to do to add one; an addon that has others is refused when it is
 * loaded.
 */
export const name = z.string().min(1).max(256);
const tensor = z.string().min(1);
/** 0, or a normal number of float32: none that would become 0 or infinite there. */
const isFloat32 = (value: number): boolean => value === 0 || (value >= 2 ** -126 && Number.isFinite(Math.fround(value)));

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

/** A value that a layer reads. */
export interface Value {
  readonly number: number;
  /** Of a position, when it is a sequence. */
  readonly dim: number;
  readonly stage: number;
  /** At most, of a sequence; 0: a vector. */
  readonly positions: number;
  /** How many of these were appended to what the request gives. */
  readonly appended: number;
}

/** An operation of a layer. Its inputs are values, or numbers: 1 is the operation before it, 2 the one before that. */
export interface Step extends Partial<OpAttributes> {
  /** The last step has the layer's name. */
  readonly name: string;
  readonly op: Op;
  readonly dim: number;
  readonly inputs: readonly (Value | number)[];
}

/** The layer's surroundings, for its checks. All but refuse throw what it gives: bad_model with the place of the layer and, if given, the key in it. */
export interface LayerContext {
  readonly inputs: readonly Value[];
  /** Dim of the first input. */
  readonly dim: number;
  /** Positions of the first input; 0: a vector. */
  readonly positions: number;
  refuse(what: string, key?: string): TerabagError;
  /** The inputs have to be of one dim. */
  sameDims(): void;
  /** A tensor has to be [rows, columns], with any rows when none are given; returns them. */
  matrix(key: string, tensor: string, columns: number, rows?: number): number;
  /** A tensor has to be [length], of any of these; null is none. */
  vector(key: string, tensor: string | null, ...lengths: readonly number[]): void;
}

type LayerSchema<Type extends string, Fields extends z.ZodRawShape> = z.ZodObject<
  { type: z.ZodLiteral<Type>; name: typeof name } & Fields,
  z.core.$strict
>;

/**
 * What a layer reads. rows: vectors, or sequences of one length (it is applied position by position then); vectors or sequences: these only;
 * sequence: a sequence, and behind it vectors.
 */
export type Reads = 'rows' | 'vectors' | 'sequences' | 'sequence';

interface LayerType<Schema extends z.ZodType> {
  readonly schema: Schema;
  readonly reads: Reads;
  /** Names of the values that it reads, in order. */
  readonly inputs: (layer: z.output<Schema>) => readonly string[];
  /** The layer as the dense net runs it, checked; the last step gives the layer's value. */
  readonly steps: (layer: z.output<Schema>, context: LayerContext) => readonly Step[];
}

function layerType<Type extends string, Fields extends z.ZodRawShape>(
  type: Type,
  fields: Fields,
  rest: Omit<LayerType<LayerSchema<Type, Fields>>, 'schema' | 'reads'> & { readonly reads?: Reads },
): LayerType<LayerSchema<Type, Fields>> {
  const schema = z.strictObject({ type: z.literal(type), name, ...fields }) as unknown as LayerSchema<Type, Fields>;
  return { schema, reads: 'rows', ...rest };
}

/** Layers of one elementwise operation over inputs of one dim. */
const elementwise = <Type extends Op>(op: Type) =>
  layerType(
    op,
    { inputs: z.array(name).min(1) },
    {
      inputs: ({ inputs }) => inputs as readonly string[],
      steps: (layer, { inputs, dim, sameDims }) => {
        sameDims();
        return [{ name: layer.name as string, op, dim, inputs }];
      },
    },
  );

/** What is added to a variance. */
const epsilon = z.number().min(0).refine(isFloat32, 'has to be 0, or a number that float32 can hold: from 1.2e-38 to 3.4e38').default(1e-5);

/** Fields of what scores the positions of a sequence for a query. */
const scoring = {
  layers: z
    .array(
      z.strictObject({
        /** [out, in], [1, in] of the last; in is as many dims of the sequence as there are features in the first. */
        weight: tensor,
        bias: tensor.nullable().default(null),
        activation: z.enum([...ACTIVATIONS, 'prelu', 'dice']).default('none'),
        /** prelu: [1] or [out]. */
        slope: tensor.optional(),
        /** dice: [out] each. */
        alpha: tensor.optional(),
        mean: tensor.optional(),
        variance: tensor.optional(),
        epsilon: epsilon.optional(),
      }),
    )
    .min(1),
  features: z
    .array(z.enum(FEATURES))
    .min(1)
    .default([...FEATURES]),
  normalize: z.enum(['softmax', 'none']),
};
type Scoring = { readonly name: string } & z.output<z.ZodObject<typeof scoring>>;

function scoreSteps({ name, layers, features, normalize }: Scoring, context: LayerContext): readonly Step[] {
  const { inputs, positions } = context;
  context.sameDims();
  if (new Set(features).size !== features.length) throw context.refuse(`have to differ: ${features.join(', ')}`, 'features');
  let dim = context.dim * features.length;
  const steps = layers.flatMap((layer, at): Step[] => {
    const { weight, bias, activation } = layer;
    dim = context.matrix(`layers[${at}].weight`, weight, dim, at === layers.length - 1 ? 1 : undefined);
    context.vector(`layers[${at}].bias`, bias, dim);
    const step = { name: `${name}\0${at}`, dim, positions, tensors: [weight, bias] };
    const first: Step = at === 0 ? { ...step, op: 'query_key', inputs, features } : { ...step, op: 'fc', inputs: [1] };
    if (activation !== 'prelu' && activation !== 'dice') return [{ ...first, activation }];
    return [
      first,
      { ...learnedActivation(layer, `layers[${at}]`, context, dim), name: `${name}\0${at} ${activation}`, dim, inputs: [1], positions },
    ];
  });
  if (normalize === 'softmax') return [...steps, { name, op: 'sequence_softmax', dim: 1, inputs: [1], positions }];
  return [...steps.slice(0, -1), { ...(steps.at(-1) as Step), name }];
}

/** An activation with tensors, of a layer of a target_attention. */
function learnedActivation(
  { activation, slope, alpha, mean, variance, epsilon = 1e-5 }: Scoring['layers'][number],
  key: string,
  { refuse, vector }: LayerContext,
  dim: number,
): Pick<Step, 'op' | 'tensors' | 'epsilon'> {
  if (activation === 'prelu') {
    if (slope === undefined) throw refuse('is needed by prelu', `${key}.slope`);
    vector(`${key}.slope`, slope, 1, dim);
    return { op: 'prelu', tensors: [slope] };
  }
  const tensors = Object.entries({ alpha, mean, variance }).map(([field, tensor]) => {
    if (tensor === undefined) throw refuse('is needed by dice', `${key}.${field}`);
    vector(`${key}.${field}`, tensor, dim);
    return tensor;
  });
  return { op: 'dice', tensors, epsilon };
}

/** Fields of recurrent layers. */
const gates = {
  weightInput: tensor,
  weightHidden: tensor,
  biasInput: tensor.nullable().default(null),
  biasHidden: tensor.nullable().default(null),
};
type Gates = { readonly name: string } & z.output<z.ZodObject<typeof gates>>;

const gruSteps =
  (op: 'gru' | 'augru') =>
  ({ name, weightInput, weightHidden, biasInput, biasHidden }: Gates, context: LayerContext): readonly Step[] => {
    const { positions } = context;
    const [input, ...scores] = context.inputs as [Value, ...Value[]];
    const rows = context.matrix('weightInput', weightInput, context.dim);
    if (rows % 3 !== 0) throw context.refuse(`${weightInput} has to have three rows for each value of the state: ${rows}`, 'weightInput');
    const dim = rows / 3;
    context.matrix('weightHidden', weightHidden, dim, rows);
    context.vector('biasInput', biasInput, rows);
    context.vector('biasHidden', biasHidden, rows);
    return [
      { name: `${name}\0input`, op: 'fc', dim: rows, inputs: [input], positions, tensors: [weightInput, biasInput] },
      { name, op, dim, inputs: [1, ...scores], positions, tensors: [weightHidden, biasHidden] },
    ];
  };

const LAYERS = [
  layerType(
    'fc',
    {
      input: name,
      /** Tensor [out, in] F32 of dense.safetensors; bias [out] or null. */
      weight: tensor,
      bias: tensor.nullable().default(null),
      activation: z.enum(ACTIVATIONS).default('none'),
    },
    {
      inputs: ({ input }) => [input],
      steps: ({ name, weight, bias, activation }, context) => {
        const dim = context.matrix('weight', weight, context.dim);
        context.vector('bias', bias, dim);
        return [{ name, op: 'fc', dim, inputs: context.inputs, tensors: [weight, bias], activation }];
      },
    },
  ),
  /** Concat of the first input with the dot products of all pairs, row-major lower triangle; diagonal adds the pairs (i, i). */
  layerType(
    'dot_interaction',
    { inputs: z.array(name).min(2), diagonal: z.boolean().default(false) },
    {
      reads: 'vectors',
      inputs: ({ inputs }) => inputs,
      steps: ({ name, diagonal }, { inputs, dim, sameDims }) => {
        sameDims();
        const pairs = (inputs.length * (inputs.length + (diagonal ? 1 : -1))) / 2;
        return [{ name, op: 'dot_interaction', dim: dim + pairs, inputs, diagonal }];
      },
    },
  ),
  layerType(
    'concat',
    { inputs: z.array(name).min(1) },
    {
      inputs: ({ inputs }) => inputs,
      steps: ({ name }, { inputs }) => [{ name, op: 'concat', dim: inputs.reduce((sum, { dim }) => sum + dim, 0), inputs }],
    },
  ),
  elementwise('sum'),
  elementwise('product'),
  /**
   * A cross layer of DCNv2 (Wang et al., 2021) over [x0, x]: x0 * (W x + bias) + x with weight [dim, dim], or of low rank with
   * W = weightU weightV, tensors [dim, rank] and [rank, dim].
   */
  layerType(
    'cross',
    {
      inputs: z.tuple([name, name]),
      weight: tensor.nullable().default(null),
      weightU: tensor.nullable().default(null),
      weightV: tensor.nullable().default(null),
      bias: tensor.nullable().default(null),
    },
    {
      inputs: ({ inputs }) => inputs,
      steps: ({ name, weight, weightU, weightV, bias }, context) => {
        context.sameDims();
        const { dim } = context;
        const [x0, x] = context.inputs as [Value, Value];
        context.vector('bias', bias, dim);
        const last: Step = { name, op: 'multiply_add', dim, inputs: [x0, 1, x] };
        if (weight !== null && weightU === null && weightV === null) {
          context.matrix('weight', weight, dim, dim);
          return [{ name, op: 'fc', dim, inputs: [x], tensors: [weight, bias] }, last];
        }
        if (weight !== null || weightU === null || weightV === null) throw context.refuse('needs either weight, or weightU and weightV');
        const rank = context.matrix('weightV', weightV, dim);
        context.matrix('weightU', weightU, rank, dim);
        return [
          { name: `${name}\0v`, op: 'fc', dim: rank, inputs: [x], tensors: [weightV, null] },
          { name, op: 'fc', dim, inputs: [1], tensors: [weightU, bias] },
          last,
        ];
      },
    },
  ),
  /** As torch.nn.LayerNorm over the last dim; weight and bias are [dim]. */
  layerType(
    'layer_norm',
    {
      input: name,
      weight: tensor,
      bias: tensor,
      epsilon,
    },
    {
      inputs: ({ input }) => [input],
      steps: ({ name, weight, bias, epsilon }, { inputs, dim, vector }) => {
        vector('weight', weight, dim);
        vector('bias', bias, dim);
        return [{ name, op: 'layer_norm', dim, inputs, tensors: [weight, bias], epsilon }];
      },
    },
  ),
  /** A function of each value. */
  layerType(
    'activation',
    { input: name, activation: z.enum(ACTIVATIONS).exclude(['none']) },
    {
      inputs: ({ input }) => [input],
      steps: ({ name, activation }, { inputs, dim }) => [{ name, op: 'activation', dim, inputs, activation }],
    },
  ),
  /** As torch.nn.PReLU: x, below 0 times weight, [1] or [dim]. */
  layerType(
    'prelu',
    { input: name, weight: tensor },
    {
      inputs: ({ input }) => [input],
      steps: ({ name, weight }, { inputs, dim, vector }) => {
        vector('weight', weight, 1, dim);
        return [{ name, op: 'prelu', dim, inputs, tensors: [weight] }];
      },
    },
  ),
  /**
   * Zhou et al., 2018: p x + (1 - p) alpha x with p = sigmoid((x - mean) / sqrt(variance + epsilon)); alpha, mean and variance are [dim], the
   * latter two what training found.
   */
  layerType(
    'dice',
    { input: name, alpha: tensor, mean: tensor, variance: tensor, epsilon },
    {
      inputs: ({ input }) => [input],
      steps: ({ name, alpha, mean, variance, epsilon }, { inputs, dim, vector }) => {
        vector('alpha', alpha, dim);
        vector('mean', mean, dim);
        vector('variance', variance, dim);
        return [{ name, op: 'dice', dim, inputs, tensors: [alpha, mean, variance], epsilon }];
      },
    },
  ),
  /** scale x + shift, each [dim], the latter may be null: what batch normalization is once its statistics are fixed. */
  layerType(
    'scale_shift',
    { input: name, scale: tensor, shift: tensor.nullable().default(null) },
    {
      inputs: ({ input }) => [input],
      steps: ({ name, scale, shift }, { inputs, dim, vector }) => {
        vector('scale', scale, dim);
        vector('shift', shift, dim);
        return [{ name, op: 'scale_shift', dim, inputs, tensors: [scale, shift] }];
      },
    },
  ),
  /** e^x of each value, divided by their sum. */
  layerType(
    'softmax',
    { input: name },
    { inputs: ({ input }) => [input], steps: ({ name }, { inputs, dim }) => [{ name, op: 'softmax', dim, inputs }] },
  ),
  /** Ma et al., 2018: the inputs (experts), each times its value of the gate, added up. */
  layerType(
    'mixture',
    { gate: name, inputs: z.array(name).min(1) },
    {
      inputs: ({ gate, inputs }) => [gate, ...inputs],
      steps: ({ name }, { inputs, refuse }) => {
        const [gate, ...experts] = inputs as [Value, Value, ...Value[]];
        const { dim } = experts[0];
        if (experts.some((expert) => expert.dim !== dim))
          throw refuse(`have to be of one dim: ${experts.map((expert) => expert.dim).join(', ')}`, 'inputs');
        if (gate.dim !== experts.length)
          throw refuse(`has to have a value for each of the inputs: dim ${gate.dim}, inputs ${experts.length}`, 'gate');
        return [{ name, op: 'mixture', dim, inputs }];
      },
    },
  ),
  /** Rendle, 2010: the products of all pairs of inputs added up, [dim]; with reduce their sum, [1]. */
  layerType(
    'fm',
    { inputs: z.array(name).min(2), reduce: z.boolean().default(false) },
    {
      inputs: ({ inputs }) => inputs,
      steps: ({ name, reduce }, { inputs, dim, sameDims }) => {
        sameDims();
        return [{ name, op: 'fm', dim: reduce ? 1 : dim, inputs }];
      },
    },
  ),
  /** A sequence's positions pooled; one without positions gives zeros. */
  layerType(
    'sequence_pool',
    { input: name, pooling: z.enum(SEQUENCE_POOLINGS).default('sum') },
    {
      reads: 'sequence',
      inputs: ({ input }) => [input],
      steps: ({ name, pooling }, { inputs, dim }) => [{ name, op: 'sequence_pool', dim, inputs, pooling }],
    },
  ),
  /** The positions one after the other, [positions * dim], with zeros behind the last of a shorter sequence. */
  layerType(
    'flatten',
    { input: name },
    {
      reads: 'sequence',
      inputs: ({ input }) => [input],
      steps: ({ name }, { inputs, dim, positions }) => [{ name, op: 'flatten', dim: positions * dim, inputs }],
    },
  ),
  /** The sequence with a vector, such as the item's, as one more position behind its last. */
  layerType(
    'append',
    { input: name, vector: name },
    {
      reads: 'sequence',
      inputs: ({ input, vector }) => [input, vector],
      steps: ({ name }, { inputs, dim, positions, sameDims }) => {
        sameDims();
        return [{ name, op: 'append', dim, inputs, positions: positions + 1 }];
      },
    },
  ),
  /** Learned position embeddings: weight [positions, dim], of which row p is added to position p. */
  layerType(
    'positions',
    { input: name, weight: tensor },
    {
      reads: 'sequence',
      inputs: ({ input }) => [input],
      steps: ({ name, weight }, { inputs, dim, positions, matrix }) => {
        matrix('weight', weight, dim, positions);
        return [{ name, op: 'positions', dim, inputs, positions, tensors: [weight] }];
      },
    },
  ),
  /**
   * DIN's local activation unit (Zhou et al., 2018): layers, of which the last has one output, score each position of the sequence by what it
   * and the query are seen by (features, in the order of the first weight's columns); the value is the sum of the positions by their scores.
   */
  layerType(
    'target_attention',
    { query: name, sequence: name, ...scoring },
    {
      reads: 'sequence',
      inputs: ({ query, sequence }) => [sequence, query],
      steps: (layer, context) => {
        const [sequence] = context.inputs as [Value, Value];
        return [...scoreSteps(layer, context), { name: layer.name, op: 'weighted_pool', dim: context.dim, inputs: [sequence, 1] }];
      },
    },
  ),
  /** The same without the sum: a sequence of the scores, of dim 1. */
  layerType(
    'target_scores',
    { query: name, sequence: name, ...scoring },
    { reads: 'sequence', inputs: ({ query, sequence }) => [sequence, query], steps: scoreSteps },
  ),
  /** As torch.nn.GRU from a state of zeros: the sequence of its states. weightInput [3h, dim], weightHidden [3h, h] and biases [3h]: reset, update, new. */
  layerType('gru', { input: name, ...gates }, { reads: 'sequences', inputs: ({ input }) => [input], steps: gruSteps('gru') }),
  /** DIEN's GRU with attentional update gate (Zhou et al., 2019): h + score * update * (new - h), with the gates of gru. */
  layerType(
    'augru',
    { input: name, scores: name, ...gates },
    {
      reads: 'sequences',
      inputs: ({ input, scores }) => [input, scores],
      steps: (layer, context) => {
        const scores = context.inputs[1]?.dim ?? 0;
        if (scores !== 1) throw context.refuse(`has to be a sequence of dim 1: dim ${scores}`, 'scores');
        return gruSteps('augru')(layer, context);
      },
    },
  ),
  /** As torch.nn.MultiheadAttention of a sequence with itself: weightQkv [3 dim, dim] (in_proj), weightOut [dim, dim] (out_proj). */
  layerType(
    'self_attention',
    {
      input: name,
      heads: z.number().int().min(1),
      weightQkv: tensor,
      biasQkv: tensor.nullable().default(null),
      weightOut: tensor,
      biasOut: tensor.nullable().default(null),
      /** Whether a position sees only those up to its own. */
      causal: z.boolean().default(false),
    },
    {
      reads: 'sequence',
      inputs: ({ input }) => [input],
      steps: ({ name, heads, weightQkv, biasQkv, weightOut, biasOut, causal }, { inputs, dim, positions, refuse, matrix, vector }) => {
        if (dim % heads !== 0) throw refuse(`have to divide the dim of the sequence: heads ${heads}, dim ${dim}`, 'heads');
        matrix('weightQkv', weightQkv, dim, 3 * dim);
        vector('biasQkv', biasQkv, 3 * dim);
        matrix('weightOut', weightOut, dim, dim);
        vector('biasOut', biasOut, dim);
        return [
          { name: `${name}\0qkv`, op: 'fc', dim: 3 * dim, inputs, positions, tensors: [weightQkv, biasQkv] },
          { name: `${name}\0heads`, op: 'attention', dim, inputs: [1], positions, heads, causal },
          { name, op: 'fc', dim, inputs: [1], positions, tensors: [weightOut, biasOut] },
        ];
      },
    },
  ),
  /**
   * A layer of HSTU (Zhai et al., 2024) with biases of distances, over x [dim]. With h heads: U, V, Q, K = split(SiLU(f1(norm(x)))), of which U and V
   * have linearDim and Q and K attentionDim values a head; A = SiLU(Q K^T + positionBias) / normalizer, of positions up to its own; and
   * f2(norm(A V) * U) + x. norm has no weights.
   */
  layerType(
    'hstu',
    {
      input: name,
      heads: z.number().int().min(1),
      linearDim: z.number().int().min(1),
      attentionDim: z.number().int().min(1),
      /** f1: [2 heads (linearDim + attentionDim), dim], in the order U, V, Q, K. */
      weightUvqk: tensor,
      biasUvqk: tensor.nullable().default(null),
      /** Tensor [2 positions - 1], which has at positions - 1 + j - i what a key at j has for a query at i. */
      positionBias: tensor.nullable().default(null),
      /** f2: [dim, heads linearDim]. */
      weightOut: tensor,
      biasOut: tensor.nullable().default(null),
      /** N; without it the positions that the sequence has at most. */
      normalizer: z.number().min(1).refine(isFloat32, 'has to be a number that float32 can hold: up to 3.4e38').optional(),
      epsilon: epsilon.default(1e-6),
    },
    {
      reads: 'sequence',
      inputs: ({ input }) => [input],
      steps: (layer, { inputs, dim, positions, matrix, vector }) => {
        const { name, heads, linearDim, attentionDim, weightUvqk, biasUvqk, positionBias, weightOut, biasOut, epsilon } = layer;
        const [width, rows] = [heads * linearDim, 2 * heads * (linearDim + attentionDim)];
        matrix('weightUvqk', weightUvqk, dim, rows);
        vector('biasUvqk', biasUvqk, rows);
        vector('positionBias', positionBias, 2 * positions - 1);
        matrix('weightOut', weightOut, width, dim);
        vector('biasOut', biasOut, dim);
        const { normalizer = positions } = layer;
        const heart = { heads, causal: true, normalizer, epsilon, tensors: [positionBias] };
        return [
          { name: `${name}\0norm`, op: 'layer_norm', dim, inputs, positions, epsilon, tensors: [null, null] },
          { name: `${name}\0f1`, op: 'fc', dim: rows, inputs: [1], positions, activation: 'silu', tensors: [weightUvqk, biasUvqk] },
          { name: `${name}\0heads`, op: 'hstu_attention', dim: width, inputs: [1], positions, ...heart },
          { name: `${name}\0f2`, op: 'fc', dim, inputs: [1], positions, tensors: [weightOut, biasOut] },
          { name, op: 'sum', dim, inputs: [1, ...inputs], positions },
        ];
      },
    },
  ),
] as const;

/** Reads ids of the request from one table; no layer of the dense net. */
export const embeddingBagSchema = z.strictObject({
  type: z.literal('embedding_bag'),
  name,
  table: name,
  pooling: z.enum(POOLING_NAMES).default('sum'),
  weighted: z.boolean().default(false),
  ...idFields,
  // What requests are like, for plans that are made without a sample of them. No defaults: the hash of a model without them stays.
  /** Mean number of ids per bag; a request has at most 2^32 - 1 in all. */
  poolingFactor: z
    .number()
    .min(0)
    .max(2 ** 32 - 1)
    .optional(),
  /** user: given once per request; item: once per item. */
  side: z.enum(['user', 'item']).optional(),
});

/** Reads ids of the request like a bag, without pooling their rows; no layer of the dense net either. */
export const embeddingSequenceSchema = z.strictObject({
  type: z.literal('embedding_sequence'),
  name,
  table: name,
  maxLength: z.number().int().min(1).max(65_535),
  /** Which ids are kept of a bag that has more. */
  truncate: z.enum(['last', 'first']).optional(),
  ...idFields,
  poolingFactor: embeddingBagSchema.shape.poolingFactor,
  side: embeddingBagSchema.shape.side,
});

type DenseSchema = (typeof LAYERS)[number]['schema'];
export type EmbeddingBagSpec = z.output<typeof embeddingBagSchema>;
export type EmbeddingSequenceSpec = z.output<typeof embeddingSequenceSchema>;
/** A layer of the dense net. */
export type DenseLayerSpec = z.output<DenseSchema>;

export const layerSchema = z.discriminatedUnion('type', [
  embeddingBagSchema,
  embeddingSequenceSchema,
  ...(LAYERS.map(({ schema }) => schema) as [DenseSchema, ...DenseSchema[]]),
]);

const BY_TYPE = new Map<string, LayerType<DenseSchema>>(
  LAYERS.map((layer) => [layer.schema.shape.type.value, layer as unknown as LayerType<DenseSchema>]),
);

export const layerTypeOf = (layer: DenseLayerSpec): LayerType<DenseSchema> => BY_TYPE.get(layer.type) as LayerType<DenseSchema>;
