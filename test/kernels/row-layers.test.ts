import { describe, expect, it } from 'vitest';
import { ACTIVATIONS } from '../../src/model/ops.js';
import { activations, rowLayer } from '../reference/row-layers.js';
import { availableKernels, bytesOf, layer, type NetJob, randomFrom, runJobs } from './jobs.js';

const random = randomFrom(23);
const floats = (length: number, most = 1): Float32Array => Float32Array.from({ length }, () => (random() * 2 - 1) * most);
const positive = (length: number): Float32Array => floats(length).map((value) => Math.abs(value) + 0.01);

const DIMS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100];
const ITEMS = 5;

/** One layer over inputs of these dims, of which those of odd number are the same for all items. */
function netOf(op: Parameters<typeof layer>[0], inputDims: number[], dim: number, more: Parameters<typeof layer>[4], most = 4): NetJob {
  const perItem = Uint8Array.from(inputDims, (_, input) => (input % 2 === 1 ? 0 : 1));
  const pooled = floats(
    inputDims.reduce((sum, inputDim, input) => sum + inputDim * (perItem[input] === 1 ? ITEMS : 1), 0),
    most,
  );
  return {
    inputDims,
    numDense: 0,
    layers: [layer(op, [...inputDims.keys()], dim, 1, more)],
    output: inputDims.length,
    runs: [{ items: ITEMS, perItem, dense: floats(0), pooled, outLength: ITEMS * dim }],
  };
}

function rowsOf({ inputDims, runs }: NetJob, item: number): number[][] {
  const { perItem, pooled } = runs[0]!;
  let at = 0;
  return inputDims.map((dim, input) => {
    const start = at + (perItem[input] === 1 ? item * dim : 0);
    at += dim * (perItem[input] === 1 ? ITEMS : 1);
    return [...pooled.slice(start, start + dim)];
  });
}

const NETS: NetJob[] = DIMS.flatMap((dim) => [
  ...ACTIVATIONS.filter((activation) => activation !== 'none').map((activation) => netOf('activation', [dim], dim, { activation })),
  netOf('prelu', [dim], dim, { tensors: [floats(dim)] }),
  netOf('prelu', [dim], dim, { tensors: [floats(1)] }),
  netOf('dice', [dim], dim, { tensors: [floats(dim), floats(dim), positive(dim)], epsilon: 1e-3 }),
  netOf('scale_shift', [dim], dim, { tensors: [floats(dim), floats(dim)] }),
  netOf('scale_shift', [dim], dim, { tensors: [floats(dim), null] }),
  netOf('softmax', [dim], dim, {}),
  netOf('softmax', [dim], dim, {}, 300),
  netOf('mixture', [1, dim], dim, {}),
  netOf('mixture', [4, dim, dim, dim, dim], dim, {}),
  netOf('fm', [dim, dim], dim, {}),
  netOf('fm', Array(9).fill(dim), dim, {}),
  netOf('fm', Array(6).fill(dim), 1, {}),
]);

describe.each(availableKernels)('layers of one row with %s kernels', (isa) => {
  it('give what their definitions give in float64, for rows of every length', () => {
    const { nets } = runJobs(isa, { tables: [], nets: NETS });
    NETS.forEach((net, n) => {
      const [of] = net.layers as [Parameters<typeof rowLayer>[0]];
      const [out] = nets[n]!.outs ?? expect.fail(`${of.op}: ${nets[n]!.error!.message}`);
      for (let item = 0; item < ITEMS; item++) {
        const rows = rowsOf(net, item);
        // What is added up, for the rounding of sums that cancel.
        const terms = of.op === 'fm' || of.op === 'mixture' ? rows.flat().reduce((sum, x) => sum + x * x, 1) : 4;
        rowLayer(of, rows).forEach((want, d) => {
          const got = out![item * of.dim + d]!;
          if (!(Math.abs(got - want) <= 3e-7 * (Math.abs(want) + terms)))
            expect.fail(`${of.op} of ${of.dim}, at ${d}: ${got}, want ${want}`);
        });
      }
    });
  });

  it('give the same rows alone, with the other functions of fully connected layers too', () => {
    const nets = ACTIVATIONS.map((activation): NetJob => {
      const run = (from: number, items: number) => ({
        ...{ items, perItem: Uint8Array.of(1), dense: floats(0), pooled: x.slice(from * 9, (from + items) * 9), outLength: items * 37 },
      });
      const x = floats(150 * 9);
      const layers = [layer('fc', [0], 37, 1, { tensors: [floats(37 * 9), floats(37)], activation })];
      return { inputDims: [9], numDense: 0, layers, output: 1, runs: [run(0, 150), run(149, 1), run(20, 7)] };
    });
    const answers = runJobs(isa, { tables: [], nets }).nets;
    nets.forEach(({ layers, runs }, n) => {
      const [all, last, few] = answers[n]!.outs ?? expect.fail(answers[n]!.error!.message);
      expect(bytesOf(last!)).toEqual(bytesOf(all!.slice(149 * 37)));
      expect(bytesOf(few!)).toEqual(bytesOf(all!.slice(20 * 37, 27 * 37)));
      const { activation, tensors } = layers[0]!;
      const x = runs[1]!.pooled;
      last!.forEach((got, o) => {
        const sum = x.reduce((total, value, k) => total + value * tensors[0]![o * 9 + k]!, tensors[1]![o]!);
        expect(Math.abs(got - activations[activation](sum)), `${activation} of ${sum}`).toBeLessThan(3e-6);
      });
    });
  });

  it('follow fully connected layers in bf16 and int8 too', () => {
    const { precisions } = runJobs(isa, { tables: [] });
    for (const precision of ['bf16', 'int8'] as const) {
      if (!precisions.includes(precision)) continue;
      const [tensors, pooled] = [[floats(21 * 30), floats(21)], floats(3 * 30)];
      const nets = ACTIVATIONS.map((activation): NetJob => {
        const run = { items: 3, perItem: Uint8Array.of(1), dense: floats(0), pooled, outLength: 3 * 21 };
        const layers = [layer('fc', [0], 21, 1, { tensors, activation })];
        return { inputDims: [30], numDense: 0, layers, output: 1, precision, runs: [run] };
      });
      const answers = runJobs(isa, { tables: [], nets }).nets.map(({ outs }) => outs![0]!);
      ACTIVATIONS.forEach((activation, n) => {
        answers[n]!.forEach((got, at) => {
          expect(Math.abs(got - activations[activation](answers[0]![at]!)), activation).toBeLessThan(3e-6);
        });
      });
    }
  });

  it('carry NaN through, and infinity to what the function tends to', () => {
    const special = Float32Array.of(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0);
    const run = { items: 1, perItem: Uint8Array.of(1), dense: floats(0), pooled: special, outLength: 4 };
    const of = (op: Parameters<typeof layer>[0], more: Parameters<typeof layer>[4]): NetJob => ({
      ...{ inputDims: [4], numDense: 0, layers: [layer(op, [0], 4, 1, more)], output: 1, runs: [run] },
    });
    const quarter = (length: number): Float32Array => new Float32Array(length).fill(0.25);
    const cases: [NetJob, number[]][] = [
      [of('activation', { activation: 'relu' }), [Number.NaN, Number.POSITIVE_INFINITY, 0, -0]],
      [of('activation', { activation: 'sigmoid' }), [Number.NaN, 1, 0, 0.5]],
      [of('activation', { activation: 'tanh' }), [Number.NaN, 1, -1, -0]],
      [of('activation', { activation: 'gelu' }), [Number.NaN, Number.POSITIVE_INFINITY, -0, -0]],
      [of('activation', { activation: 'gelu_tanh' }), [Number.NaN, Number.POSITIVE_INFINITY, -0, -0]],
      [of('activation', { activation: 'silu' }), [Number.NaN, Number.POSITIVE_INFINITY, -0, -0]],
      [of('prelu', { tensors: [quarter(1)] }), [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0]],
      [of('dice', { tensors: [quarter(4), quarter(4), quarter(4)] }), [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0]],
      [of('softmax', {}), Array(4).fill(Number.NaN)],
    ];
    const answers = runJobs(isa, { tables: [], nets: cases.map(([net]) => net) }).nets;
    cases.forEach(([net, want], n) => {
      expect(Array.from(answers[n]!.outs![0]!), `${net.layers[0]!.op} ${net.layers[0]!.activation}`).toEqual(want);
    });
  });

  it('are refused with inputs or tensors of other lengths', () => {
    const bad: NetJob[] = [
      netOf('activation', [4, 4], 4, { activation: 'tanh' }),
      netOf('activation', [4], 3, { activation: 'tanh' }),
      netOf('prelu', [4], 4, { tensors: [floats(2)] }),
      netOf('prelu', [4], 4, { tensors: [] }),
      netOf('dice', [4], 4, { tensors: [floats(4), floats(4), floats(3)] }),
      netOf('dice', [4], 4, { tensors: [floats(4), floats(4), new Float32Array(4).fill(-1)] }),
      netOf('dice', [4], 4, { tensors: [floats(4), floats(4), new Float32Array(4)] }),
      netOf('dice', [4], 4, { tensors: [floats(4), floats(4), positive(4)], epsilon: -1 }),
      netOf('scale_shift', [4], 4, { tensors: [null, floats(4)] }),
      netOf('scale_shift', [4], 4, { tensors: [floats(4), floats(3)] }),
      netOf('softmax', [4], 5, {}),
      netOf('mixture', [2, 4], 4, {}),
      netOf('mixture', [3, 4, 4], 4, {}),
      netOf('mixture', [2, 4, 5], 4, {}),
      netOf('fm', [4, 5], 4, {}),
      netOf('fm', [4, 4], 2, {}),
    ];
    runJobs(isa, { tables: [], nets: bad }).nets.forEach(({ error }, n) => expect(error?.message, `case ${n}`).toMatch(/^layer 0 /));
  });
});
