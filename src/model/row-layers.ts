import { z } from 'zod';
import { epsilon, layerType, name, type Step, tensor, type Value } from './layer-type.js';
import { ACTIVATIONS, type Op } from './ops.js';

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

/** Layers of one row, or of one position of a sequence. */
export const ROW_LAYERS = [
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
] as const;
