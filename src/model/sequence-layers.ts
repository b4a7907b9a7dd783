import { z } from 'zod';
import { epsilon, isFloat32, type LayerContext, layerType, name, type Step, tensor, type Value } from './layer-type.js';
import { ACTIVATIONS, FEATURES, SEQUENCE_POOLINGS } from './ops.js';

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

/** Layers over the positions of a sequence. */
export const SEQUENCE_LAYERS = [
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
