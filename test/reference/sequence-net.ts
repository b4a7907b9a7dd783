import type { NativeLayer } from '../../src/engine/native.js';

/** A value of one item: a vector, or a list of positions, as long as the item's sequence. */
export type Vector = readonly number[];
export type Positions = readonly Vector[];
export type ItemValue = { readonly vector: Vector } | { readonly positions: Positions };

const vector = (value: ItemValue): Vector => ('vector' in value ? value.vector : fail());
const positions = (value: ItemValue): Positions => ('positions' in value ? value.positions : fail());
const fail = (): never => {
  throw new Error('the net of the test has a vector where a sequence belongs, or the reverse');
};

export function dot(a: Vector, b: ArrayLike<number>, at = 0): number {
  let sum = 0;
  for (let k = 0; k < a.length; ++k) sum += a[k]! * b[at + k]!;
  return sum;
}
export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const plus = (a: Vector, b: Vector): Vector => a.map((x, d) => x + b[d]!);

const ACTIVATIONS: Record<string, (x: number) => number> = {
  none: (x) => x,
  relu: (x) => Math.max(x, 0),
  sigmoid,
  tanh: Math.tanh,
  silu: (x) => x * sigmoid(x),
};

/** weight [dim, inputs] row-major. */
export const linear = (x: Vector, weight: ArrayLike<number>, bias: ArrayLike<number> | null, dim: number): Vector =>
  Array.from({ length: dim }, (_, n) => dot(x, weight, n * x.length) + (bias?.[n] ?? 0));

/** Layers of one row after the other. */
function row({ op, dim, activation, tensors, epsilon }: NativeLayer, given: readonly Vector[]): Vector {
  const [weight, bias] = tensors;
  const [first] = given as [Vector];
  if (op === 'concat') return given.flat();
  if (op === 'sum') return given.reduce(plus);
  if (op === 'product') return given.reduce((a, b) => a.map((x, d) => x * b[d]!));
  if (op === 'multiply_add') return first.map((x, d) => x * given[1]![d]! + given[2]![d]!);
  if (op === 'layer_norm') {
    const mean = first.reduce((sum, x) => sum + x, 0) / dim;
    const variance = first.reduce((sum, x) => sum + (x - mean) ** 2, 0) / dim;
    return first.map((x, d) => ((x - mean) / Math.sqrt(variance + epsilon)) * (weight?.[d] ?? 1) + (bias?.[d] ?? 0));
  }
  if (op === 'prelu') return first.map((x, d) => (x < 0 ? x * weight![weight!.length === 1 ? 0 : d]! : x));
  if (op === 'dice') {
    const [alpha, mean, variance] = tensors as [Float32Array, Float32Array, Float32Array];
    return first.map((x, d) => {
      const p = sigmoid((x - mean[d]!) / Math.sqrt(variance[d]! + epsilon));
      return p * x + (1 - p) * alpha[d]! * x;
    });
  }
  if (op === 'fc') return linear(first, weight!, bias!, dim).map(ACTIVATIONS[activation]!);
  throw new Error(`the reference has no ${op}`);
}

const POOLINGS: Record<NativeLayer['pooling'], (sequence: Positions) => Vector> = {
  sum: (sequence) => sequence.reduce(plus),
  mean: (sequence) => sequence.reduce(plus).map((x) => x / sequence.length),
  max: (sequence) => sequence.reduce((a, b) => a.map((x, d) => Math.max(x, b[d]!))),
  last: (sequence) => sequence.at(-1)!,
};

/** Layers that read whole sequences; null: it is not one of them. */
function ofSequence(layer: NativeLayer, given: readonly ItemValue[]): ItemValue | null {
  const {
    op,
    dim,
    pooling,
    tensors: [weight],
  } = layer;
  switch (op) {
    case 'sequence_pool': {
      const sequence = positions(given[0]!);
      return { vector: sequence.length === 0 ? Array<number>(dim).fill(0) : POOLINGS[pooling](sequence) };
    }
    case 'flatten': {
      const flat = positions(given[0]!).flat();
      return { vector: [...flat, ...Array<number>(dim - flat.length).fill(0)] };
    }
    case 'append':
      return { positions: [...positions(given[0]!), vector(given[1]!)] };
    case 'positions':
      return { positions: positions(given[0]!).map((x, p) => x.map((value, d) => value + weight![p * dim + d]!)) };
    case 'query_key': {
      const [keys, query] = [positions(given[0]!), vector(given[1]!)];
      const [first, bias] = layer.tensors;
      return { positions: keys.map((key) => linear(seenBy(layer, query, key), first!, bias!, dim).map(ACTIVATIONS[layer.activation]!)) };
    }
    case 'sequence_softmax':
      return { positions: softmax(positions(given[0]!).map(([score]) => score!)).map((score) => [score]) };
    case 'weighted_pool': {
      const scores = positions(given[1]!);
      const sums: Positions = positions(given[0]!).map((x, p) => x.map((value) => value * scores[p]![0]!));
      return { vector: sums.reduce<Vector>(plus, Array<number>(dim).fill(0)) };
    }
    case 'attention':
      return { positions: attention(layer, positions(given[0]!)) };
    case 'hstu_attention':
      return { positions: hstuAttention(layer, positions(given[0]!)) };
    case 'gru':
    case 'augru':
      return { positions: states(layer, positions(given[0]!), op === 'gru' ? null : positions(given[1]!)) };
    default:
      return null;
  }
}

const seenBy = ({ features }: NativeLayer, query: Vector, key: Vector): Vector =>
  features.flatMap((feature) => {
    if (feature === 'query') return query;
    if (feature === 'key') return key;
    return query.map((q, d) => (feature === 'difference' ? q - key[d]! : q * key[d]!));
  });

function softmax(scores: Vector): Vector {
  const most = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** The sum of what positions weigh. */
const weighted = (weights: Vector, values: Positions): Vector =>
  weights.map((weight, p): Vector => values[p]!.map((value) => value * weight)).reduce(plus);

function attention({ dim, heads, causal }: NativeLayer, qkv: Positions): Positions {
  const width = dim / heads;
  const part = (which: number, head: number): Positions =>
    qkv.map((x) => x.slice(which * dim + head * width, which * dim + (head + 1) * width));
  return qkv.map((_, i) =>
    Array.from({ length: heads }, (__, head) => {
      const seen = causal ? i + 1 : qkv.length;
      const keys = part(1, head).slice(0, seen);
      const weights = softmax(keys.map((key) => dot(part(0, head)[i]!, key) / Math.sqrt(width)));
      return weighted(weights, part(2, head));
    }).flat(),
  );
}

/** Zhai et al., 2024, over U, V, Q and K. */
function hstuAttention({ dim, heads, causal, normalizer, epsilon, tensors: [biases] }: NativeLayer, uvqk: Positions): Positions {
  const linear = dim / heads;
  const attend = (uvqk[0]?.length ?? 0) / (2 * heads) - linear;
  const part = (x: Vector, at: number, width: number, head: number): Vector => x.slice(at + head * width, at + (head + 1) * width);
  return uvqk.map((x, i) => {
    const sums = Array.from({ length: heads }, (_, head) => {
      const seen = uvqk.slice(0, causal ? i + 1 : uvqk.length);
      const scores = seen.map((key, j) => {
        const product = dot(part(x, 2 * dim, attend, head), part(key, 2 * dim + heads * attend, attend, head));
        return ACTIVATIONS['silu']!(product + (biases?.[(biases.length - 1) / 2 + j - i] ?? 0)) / normalizer;
      });
      return weighted(
        scores,
        seen.map((value) => part(value, dim, linear, head)),
      );
    }).flat();
    const mean = sums.reduce((total, value) => total + value, 0) / dim;
    const variance = sums.reduce((total, value) => total + (value - mean) ** 2, 0) / dim;
    return sums.map((value, d) => ((value - mean) / Math.sqrt(variance + epsilon)) * x[d]!);
  });
}

/** Of a GRU (PyTorch's) or, with scores, an AUGRU (Zhou et al., 2019). */
function states({ dim, tensors: [weight, bias] }: NativeLayer, inputs: Positions, scores: Positions | null): Positions {
  let state: Vector = Array<number>(dim).fill(0);
  return inputs.map((x, t) => {
    const g = linear(state, weight!, bias!, 3 * dim);
    const reset = state.map((_, k) => sigmoid(x[k]! + g[k]!));
    const update = state.map((_, k) => sigmoid(x[dim + k]! + g[dim + k]!));
    const next = state.map((_, k) => Math.tanh(x[2 * dim + k]! + reset[k]! * g[2 * dim + k]!));
    const kept = update.map((z) => (scores === null ? z : 1 - scores[t]![0]! * z));
    state = state.map((h, k) => kept[k]! * h + (1 - kept[k]!) * next[k]!);
    return state;
  });
}

/** A net by the definitions of its layers, in float64, for one item. */
export function itemScores(layers: readonly NativeLayer[], output: number, inputs: readonly ItemValue[]): Vector {
  const values = [...inputs];
  for (const layer of layers) {
    const given = layer.inputs.map((input) => values[input]!);
    const whole = ofSequence(layer, given);
    if (whole !== null) values.push(whole);
    else if ('vector' in given[0]!) values.push({ vector: row(layer, given.map(vector)) });
    else
      values.push({
        positions: positions(given[0]!).map((_, p) =>
          row(
            layer,
            given.map((value) => positions(value)[p]!),
          ),
        ),
      });
  }
  return vector(values[output]!);
}
