import type { ItemValue } from '../reference/sequence-net.js';
import type { NetJob, randomFrom } from './jobs.js';

type Random = ReturnType<typeof randomFrom>;
type Run = NetJob['runs'][number];
/** The length of row after row of an input that is a sequence. */
export type LengthOf = (input: number, positions: number) => number;

export const below = (random: Random, count: number): number => Math.floor(random() * count);
export const floatsOf = (random: Random, length: number, scale = 1): Float32Array =>
  Float32Array.from({ length }, () => (random() * 2 - 1) * scale);

/** Inputs of a run, item by item, as the net gets them and as the reference does. */
export function runOf(random: Random, net: NetJob, items: number, perItem: readonly boolean[], lengthOf: LengthOf): Run {
  const { inputDims, numDense, inputPositions = inputDims.map(() => 0) } = net;
  const blocks = inputDims.map((dim, input) => {
    const positions = inputPositions[input]!;
    const rows = perItem[input] ? items : 1;
    const lengths = positions === 0 ? [] : Array.from({ length: rows }, () => lengthOf(input, positions));
    const values = positions === 0 ? floatsOf(random, rows * dim) : new Float32Array(rows * positions * dim);
    lengths.forEach((length, r) => values.set(floatsOf(random, length * dim), r * positions * dim));
    return { values, lengths };
  });
  const joined = (from: number, to?: number): Float32Array => {
    const parts = blocks.slice(from, to).map(({ values }) => Buffer.from(values.buffer));
    return new Float32Array(Uint8Array.from(Buffer.concat(parts)).buffer);
  };
  return {
    items,
    perItem: Uint8Array.from(perItem, Number),
    dense: joined(0, numDense),
    pooled: joined(numDense),
    lengths: Uint32Array.from(blocks.flatMap(({ lengths }) => lengths)),
    outLength: items * net.layers.at(-1)!.dim,
  };
}

/** The inputs of one item of a run. */
export function itemOf({ inputDims, numDense, inputPositions = inputDims.map(() => 0) }: NetJob, run: Run, item: number): ItemValue[] {
  let [at, length] = [0, 0];
  return inputDims.map((dim, input) => {
    if (input === numDense) at = 0;
    const block = input < numDense ? run.dense : run.pooled;
    const positions = inputPositions[input]!;
    const [rows, row] = run.perItem[input] === 1 ? [run.items, item] : [1, 0];
    const floats = dim * Math.max(1, positions);
    const start = at + row * floats;
    at += rows * floats;
    if (positions === 0) return { vector: [...block.slice(start, start + dim)] };
    const own = run.lengths![length + row]!;
    length += rows;
    return { positions: Array.from({ length: own }, (_, p) => [...block.slice(start + p * dim, start + (p + 1) * dim)]) };
  });
}

/** The run of one item alone. */
export function alone(net: NetJob, run: Run, item: number): Run {
  const inputs = itemOf(net, run, item);
  const values = inputs.map((value, input) => {
    if ('vector' in value) return value.vector;
    const flat = value.positions.flat();
    return [...flat, ...Array<number>(net.inputPositions![input]! * net.inputDims[input]! - flat.length).fill(0)];
  });
  return {
    items: 1,
    perItem: run.perItem,
    dense: Float32Array.from(values.slice(0, net.numDense).flat()),
    pooled: Float32Array.from(values.slice(net.numDense).flat()),
    lengths: Uint32Array.from(inputs.flatMap((value) => ('positions' in value ? [value.positions.length] : []))),
    outLength: run.outLength / run.items,
  };
}

/**
 * Runs of one net, whose inputs have a row for all items or one per item likewise, as one of groups: a row for all becomes one for each group. Of the
 * inputs that are `alike` the first run's row is for all groups.
 */
export function merged(net: NetJob, runs: readonly Run[], alike: readonly boolean[] = []): Run {
  const { inputDims, numDense, inputPositions = inputDims.map(() => 0) } = net;
  const perItem = runs[0]!.perItem.map((own, input) => (own === 1 ? 1 : alike[input] ? 0 : 2));
  const blocks = inputDims.map((): number[] => []);
  const lengths = inputDims.map((): number[] => []);
  runs.forEach((run, r) => {
    let [at, length] = [0, 0];
    inputDims.forEach((dim, input) => {
      if (input === numDense) at = 0;
      const positions = inputPositions[input]!;
      const rows = run.perItem[input] === 1 ? run.items : 1;
      const end = at + rows * dim * Math.max(1, positions);
      const ends = length + (positions > 0 ? rows : 0);
      if (perItem[input] !== 0 || r === 0) {
        blocks[input]!.push(...(input < numDense ? run.dense : run.pooled).subarray(at, end));
        lengths[input]!.push(...(run.lengths ?? new Uint32Array()).subarray(length, ends));
      }
      [at, length] = [end, ends];
    });
  });
  return {
    items: runs.reduce((sum, { items }) => sum + items, 0),
    perItem,
    groups: Uint32Array.from(runs, ({ items }) => items),
    dense: Float32Array.from(blocks.slice(0, numDense).flat()),
    pooled: Float32Array.from(blocks.slice(numDense).flat()),
    lengths: Uint32Array.from(lengths.flat()),
    outLength: runs.reduce((sum, { outLength }) => sum + outLength, 0),
    ...(runs[0]!.stages && { stages: runs[0]!.stages }),
  };
}

/** Items of every length that matters, of two sequences with the same lengths. */
export function lengths(random: Random): LengthOf {
  const drawn: number[] = [];
  let [input, row] = [-1, 0];
  return (of, positions) => {
    if (of !== input) [input, row] = [of, 0];
    drawn[row] ??= [0, 1, positions, below(random, positions + 1), below(random, Math.min(positions, 4) + 1)][below(random, 5)]!;
    return drawn[row++]!;
  };
}
