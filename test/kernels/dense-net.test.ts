import { describe, expect, it } from 'vitest';
import type { NativeLayer } from '../../src/engine/native.js';
import { availableKernels, bytesOf, type NetJob, randomFrom, runJobs } from './jobs.js';

const random = randomFrom(11);
const floats = (length: number): Float32Array => Float32Array.from({ length }, () => random() * 2 - 1);
const layer = (op: NativeLayer['op'], inputs: number[], dim: number, stage: number, more: Partial<NativeLayer> = {}): NativeLayer => ({
  op,
  inputs,
  dim,
  stage,
  activation: 'none',
  diagonal: false,
  weight: null,
  bias: null,
  ...more,
});

/** The net by definition, in float64, for one item. */
function score({ inputDims, layers, output }: NetJob, inputs: ArrayLike<number>[]): number[] {
  const values: number[][] = inputs.map((input) => Array.from(input));
  expect(values.map((value) => value.length)).toEqual(inputDims);
  for (const { op, inputs: from, dim, activation, diagonal, weight, bias } of layers) {
    const given = from.map((input) => values[input]!);
    if (op === 'concat') values.push(given.flat());
    else if (op === 'sum') values.push(given[0]!.map((_, d) => given.reduce((sum, value) => sum + value[d]!, 0)));
    else if (op === 'dot_interaction') {
      const pairs = given.flatMap((a, i) =>
        given.slice(0, diagonal ? i + 1 : i).map((b) => a.reduce((sum, value, d) => sum + value * b[d]!, 0)),
      );
      values.push([...given[0]!, ...pairs]);
    } else {
      values.push(
        Array.from({ length: dim }, (_, n) => {
          const sum = given[0]!.reduce((total, value, k) => total + value * weight![n * given[0]!.length + k]!, bias?.[n] ?? 0);
          return activation === 'relu' ? Math.max(0, sum) : activation === 'sigmoid' ? 1 / (1 + Math.exp(-sum)) : sum;
        }),
      );
    }
  }
  return values[output]!;
}

/** Two dense features and two bags through every layer; width and items vary. */
function makeNet(width: number, wide: number, diagonal: boolean, activation: 'sigmoid' | 'none'): NetJob {
  const inputDims = [7, 3, width, width];
  const interaction = width + (diagonal ? 6 : 3);
  const layers = [
    layer('concat', [0, 1], 10, 0),
    layer('fc', [4], width, 0, { weight: floats(width * 10), bias: floats(width), activation: 'relu' }),
    layer('dot_interaction', [5, 2, 3], interaction, 1, { diagonal }),
    layer('sum', [2, 3, 5], width, 1),
    layer('concat', [6, 7], interaction + width, 1),
    layer('fc', [8], wide, 1, { weight: floats(wide * (interaction + width)).map((w) => w / 8), bias: null, activation: 'relu' }),
    layer('fc', [9], 2, 1, { weight: floats(2 * wide).map((w) => w / 8), bias: floats(2), activation }),
  ];
  const runs = [1, 2, 3, 5, 8, 13, 33].map((items, n) => {
    const perItem = Uint8Array.from([n & 1, (n >> 1) & 1, (n >> 2) & 1, n % 3 === 0 ? 1 : 0]);
    const length = (from: number, to: number): number =>
      inputDims.slice(from, to).reduce((sum, dim, i) => sum + dim * (perItem[from + i] === 1 ? items : 1), 0);
    return { items, perItem, dense: floats(length(0, 2)), pooled: floats(length(2, 4)), outLength: items * 2 };
  });
  return { inputDims, numDense: 2, layers, output: 10, runs };
}

function inputsOf({ inputDims, numDense, runs }: NetJob, run: number, item: number): Float32Array[] {
  const { items, perItem, dense, pooled } = runs[run]!;
  let at = 0;
  return inputDims.map((dim, input) => {
    if (input === numDense) at = 0;
    const block = input < numDense ? dense : pooled;
    const start = at + (perItem[input] === 1 ? item * dim : 0);
    at += dim * (perItem[input] === 1 ? items : 1);
    return block.slice(start, start + dim);
  });
}

describe.each(availableKernels)('dense nets with %s kernels', (isa) => {
  it('equal the float64 reference for random widths, batches and values of one row', () => {
    const nets = [
      [1, 1],
      [5, 16],
      [8, 17],
      [16, 64],
      [31, 33],
      [64, 130],
      [129, 257],
    ].map(([width, wide], n) => makeNet(width!, wide!, n % 2 === 0, n % 3 === 0 ? 'none' : 'sigmoid'));
    const answer = runJobs(isa, { tables: [], nets });
    nets.forEach((net, n) => {
      expect(answer.nets[n]?.error).toBeUndefined();
      net.runs.forEach(({ items }, r) => {
        for (let item = 0; item < items; ++item) {
          const want = score(net, inputsOf(net, r, item));
          want.forEach((value, d) =>
            expect(Math.abs(answer.nets[n]!.outs![r]![item * 2 + d]! - value)).toBeLessThan(1e-4 * (1 + Math.abs(value))),
          );
        }
      });
    });
  });

  it('give an item the same bits alone and in a batch', () => {
    const net = makeNet(24, 70, false, 'sigmoid');
    const together = { ...net.runs[6]!, perItem: Uint8Array.from([1, 1, 1, 1]), dense: floats(33 * 10), pooled: floats(33 * 48) };
    const batch = { ...net, runs: [together] };
    const alone = Array.from({ length: 33 }, (_, item) => {
      const [a, b, c, d] = inputsOf(batch, 0, item) as [Float32Array, Float32Array, Float32Array, Float32Array];
      return {
        items: 1,
        perItem: together.perItem,
        dense: Float32Array.from([...a, ...b]),
        pooled: Float32Array.from([...c, ...d]),
        outLength: 2,
      };
    });
    const outs = runJobs(isa, { tables: [], nets: [{ ...net, runs: [together, ...alone] }] }).nets[0]!.outs!;
    alone.forEach((_, item) => expect(Buffer.compare(bytesOf(outs[item + 1]!), bytesOf(outs[0]!.slice(item * 2, item * 2 + 2)))).toBe(0));
  });

  it('refuse nets and batches that do not fit', () => {
    const good = makeNet(5, 6, true, 'none');
    const run = good.runs[3]!;
    const bad: NetJob[] = [
      { ...good, output: 11 },
      { ...good, output: -1 },
      { ...good, numDense: 5 },
      { ...good, numDense: 1 },
      { ...good, layers: good.layers.map((l, n) => (n === 2 ? { ...l, inputs: [5, 2, 9] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 2 ? { ...l, dim: l.dim + 1 } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 5 ? { ...l, weight: floats(3) } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 5 ? { ...l, weight: null } : l)) },
      { ...good, runs: [{ ...run, items: 0 }] },
      { ...good, runs: [{ ...run, items: 2 ** 24 + 1 }] },
      { ...good, runs: [{ ...run, items: 6 }] },
      { ...good, runs: [{ ...run, perItem: run.perItem.subarray(1) }] },
      { ...good, runs: [{ ...run, dense: floats(1) }] },
      { ...good, runs: [{ ...run, pooled: floats(0) }] },
      { ...good, runs: [{ ...run, outLength: 9 }] },
    ];
    runJobs(isa, { tables: [], nets: bad }).nets.forEach(({ error }, n) => expect(error, `case ${n}`).toBeDefined());
  });
});
