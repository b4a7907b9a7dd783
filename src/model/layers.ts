import { z } from 'zod';
import type { TerabagError } from '../errors.js';
import { POOLING_NAMES } from './pooling.js';

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
}

/** What an operation costs, for the planner. */
interface OpWork {
  /** matrix: multiply-adds of as many weights; pairs: of a dot interaction, which take longer; values: one for each value that is read. */
  readonly kind: 'matrix' | 'pairs' | 'values';
  /** For one row; a matrix: in proportion to inputDim. */
  readonly macs: (shape: OpShape) => number;
}

/** A function of a value takes as long as this many multiply-adds of a matrix: 0.35 ns of 0.0186 (AVX-512, sigmoid). */
const FUNCTION_MACS = 20;
const FUNCTIONS: OpWork = { kind: 'values', macs: ({ inputDim }) => FUNCTION_MACS * inputDim };
const VALUES: OpWork = { kind: 'values', macs: ({ inputDim }) => inputDim };

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
} satisfies Record<string, OpWork>;
export type Op = keyof typeof OPS;

export const ACTIVATIONS = ['none', 'relu', 'sigmoid', 'tanh', 'gelu', 'gelu_tanh', 'silu'] as const;
export type Activation = (typeof ACTIVATIONS)[number];

/** What an operation has beside its inputs. */
export interface OpAttributes {
  readonly activation: Activation;
  /** dot_interaction: whether pairs (i, i) are part of the output. */
  readonly diagonal: boolean;
  /** layer_norm and dice: what is added to the variance; else 0. */
  readonly epsilon: number;
  /** Tensors of dense.safetensors. fc: weight [dim, input dim], bias [dim] or null; layer_norm: weight and bias, [dim] both; prelu: weight, [1] or
   * [dim]; dice: alpha, mean and variance, [dim] each; scale_shift: scale [dim], shift [dim] or null. */
  readonly tensors: readonly (string | null)[];
}
export const NO_ATTRIBUTES = { activation: 'none', diagonal: false, epsilon: 0, tensors: [] } satisfies OpAttributes;

/** A value that a layer reads. */
export interface Value {
  readonly number: number;
  readonly dim: number;
  readonly stage: number;
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

interface LayerType<Schema extends z.ZodType> {
  readonly schema: Schema;
  /** Names of the values that it reads, in order. */
  readonly inputs: (layer: z.output<Schema>) => readonly string[];
  /** The layer as the dense net runs it, checked; the last step gives the layer's value. */
  readonly steps: (layer: z.output<Schema>, context: LayerContext) => readonly Step[];
}

function layerType<Type extends string, Fields extends z.ZodRawShape>(
  type: Type,
  fields: Fields,
  rest: Omit<LayerType<LayerSchema<Type, Fields>>, 'schema'>,
): LayerType<LayerSchema<Type, Fields>> {
  const schema = z.strictObject({ type: z.literal(type), name, ...fields }) as unknown as LayerSchema<Type, Fields>;
  return { schema, ...rest };
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
] as const;

/** Reads ids of the request from one table; no layer of the dense net. */
export const embeddingBagSchema = z.strictObject({
  type: z.literal('embedding_bag'),
  name,
  table: name,
  pooling: z.enum(POOLING_NAMES).default('sum'),
  weighted: z.boolean().default(false),
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

type DenseSchema = (typeof LAYERS)[number]['schema'];
export type EmbeddingBagSpec = z.output<typeof embeddingBagSchema>;
/** A layer of the dense net. */
export type DenseLayerSpec = z.output<DenseSchema>;

export const layerSchema = z.discriminatedUnion('type', [
  embeddingBagSchema,
  ...(LAYERS.map(({ schema }) => schema) as [DenseSchema, ...DenseSchema[]]),
]);

const BY_TYPE = new Map<string, LayerType<DenseSchema>>(
  LAYERS.map((layer) => [layer.schema.shape.type.value, layer as unknown as LayerType<DenseSchema>]),
);

export const layerTypeOf = (layer: DenseLayerSpec): LayerType<DenseSchema> => BY_TYPE.get(layer.type) as LayerType<DenseSchema>;
