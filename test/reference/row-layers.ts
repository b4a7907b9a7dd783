import type { NativeLayer } from '../../src/engine/native.js';

/** erf by its Taylor series, which below 3 loses four digits of float64 at most; from 6 on it is 1 there. */
export function erf(x: number): number {
  if (Math.abs(x) >= 6) return Math.sign(x);
  if (Math.abs(x) >= 3) return Math.sign(x) * (1 - tail(Math.abs(x)));
  let [term, sum] = [x, x];
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= -(x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** erfc for x of 3 or more: Laplace's continued fraction. */
function tail(x: number): number {
  let fraction = x;
  for (let n = 60; n > 0; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / (fraction * Math.sqrt(Math.PI));
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

export const activations: Record<NativeLayer['activation'], (x: number) => number> = {
  none: (x) => x,
  relu: (x) => Math.max(0, x),
  sigmoid,
  tanh: Math.tanh,
  gelu: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2,
  gelu_tanh: (x) => (x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))) / 2,
  silu: (x) => x * sigmoid(x),
};

type RowOp = 'activation' | 'prelu' | 'dice' | 'scale_shift' | 'softmax' | 'mixture' | 'fm';

/** A layer by its definition, in float64, of one row of each input. */
export function rowLayer({ op, dim, activation, tensors, epsilon }: NativeLayer & { op: RowOp }, given: readonly number[][]): number[] {
  const [x = []] = given;
  const tensor = (number: number, d: number): number => {
    const data = tensors[number];
    return data?.[data.length === 1 ? 0 : d] ?? 0;
  };
  switch (op) {
    case 'activation':
      return x.map(activations[activation]);
    case 'prelu':
      return x.map((value, d) => Math.max(0, value) + tensor(0, d) * Math.min(0, value));
    case 'dice':
      return x.map((value, d) => {
        const p = sigmoid((value - tensor(1, d)) / Math.sqrt(tensor(2, d) + epsilon));
        return p * value + (1 - p) * tensor(0, d) * value;
      });
    case 'scale_shift':
      return x.map((value, d) => value * tensor(0, d) + tensor(1, d));
    case 'softmax': {
      const powers = x.map((value) => Math.exp(value - Math.max(...x)));
      const sum = powers.reduce((total, power) => total + power, 0);
      return powers.map((power) => power / sum);
    }
    case 'mixture':
      return Array.from({ length: dim }, (_, d) => x.reduce((sum, gate, e) => sum + gate * (given[e + 1]?.[d] as number), 0));
    case 'fm': {
      // Pair by pair, not by the identity that makes it fast.
      const pairs = x.map((_, d) =>
        given.reduce((sum, one, i) => sum + given.slice(0, i).reduce((of, other) => of + (one[d] as number) * (other[d] as number), 0), 0),
      );
      return dim === pairs.length ? pairs : [pairs.reduce((sum, pair) => sum + pair, 0)];
    }
  }
}
