import { describe, expect, it } from 'vitest';
import { availableKernels, bytesOf, layer, type NetJob, randomFrom, runJobs } from './jobs.js';

const random = randomFrom(11);
const floats = (length: number): Float32Array => Float32Array.from({ length }, () => random() * 2 - 1);

/** The net by definition, in float64, for one item. */
function score({ inputDims, layers, output }: NetJob, inputs: ArrayLike<number>[]): number[] {
  const values: number[][] = inputs.map((input) => Array.from(input));
  expect(values.map((value) => value.length)).toEqual(inputDims);
  for (const { op, inputs: from, dim, activation, diagonal, tensors, epsilon } of layers) {
    const [weight, bias] = tensors;
    const given = from.map((input) => values[input]!);
    if (op === 'concat') values.push(given.flat());
    else if (op === 'sum') values.push(given[0]!.map((_, d) => given.reduce((sum, value) => sum + value[d]!, 0)));
    else if (op === 'product') values.push(given[0]!.map((_, d) => given.reduce((product, value) => product * value[d]!, 1)));
    else if (op === 'multiply_add') values.push(given[0]!.map((x, d) => x * given[1]![d]! + given[2]![d]!));
    else if (op === 'layer_norm') {
      const mean = given[0]!.reduce((sum, x) => sum + x, 0) / dim;
      const variance = given[0]!.reduce((sum, x) => sum + (x - mean) ** 2, 0) / dim;
      values.push(given[0]!.map((x, d) => ((x - mean) / Math.sqrt(variance + (epsilon ?? 0))) * weight![d]! + bias![d]!));
    } else if (op === 'dot_interaction') {
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
    layer('fc', [4], width, 0, { tensors: [floats(width * 10), floats(width)], activation: 'relu' }),
    layer('dot_interaction', [5, 2, 3], interaction, 1, { diagonal }),
    layer('sum', [2, 3, 5], width, 1),
    layer('product', [2, 7, 3], width, 1),
    layer('multiply_add', [5, 8, 7], width, 1),
    layer('layer_norm', [9], width, 1, { tensors: [floats(width), floats(width)], epsilon: 1e-3 }),
    layer('concat', [6, 10], interaction + width, 1),
    layer('fc', [11], wide, 1, { tensors: [floats(wide * (interaction + width)).map((w) => w / 8), null], activation: 'relu' }),
    layer('fc', [12], 2, 1, { tensors: [floats(2 * wide).map((w) => w / 8), floats(2)], activation }),
  ];
  const runs = [1, 2, 3, 5, 8, 13, 33, ...(width < 64 ? [112, 113, 230] : [])].map((items, n) => {
    const perItem = Uint8Array.from([n & 1, (n >> 1) & 1, (n >> 2) & 1, n % 3 === 0 ? 1 : 0]);
    const length = (from: number, to: number): number =>
      inputDims.slice(from, to).reduce((sum, dim, i) => sum + dim * (perItem[from + i] === 1 ? items : 1), 0);
    return { items, perItem, dense: floats(length(0, 2)), pooled: floats(length(2, 4)), outLength: items * 2 };
  });
  return { inputDims, numDense: 2, layers, output: 13, runs };
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

function expectNear(got: ArrayLike<number>, want: number[], tolerance: (value: number) => number): void {
  want.forEach((value, d) => {
    if (!(Math.abs(got[d]! - value) <= tolerance(value))) expect.fail(`at ${d}: ${got[d]}, want ${value}`);
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
          expectNear(answer.nets[n]!.outs![r]!.subarray(item * 2), want, (value) => 1e-4 * (1 + Math.abs(value)));
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

  it('give every item of every batch size the bits that it has alone, whatever the width', () => {
    const widths = [1, 3, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 95, 96, 97, 128, 129, 161, 200];
    const numItems = 40;
    const nets = widths.map((dim, n): NetJob => {
      const inputDim = [1, 3, 16, 37, 100, 1024][n % 6]!;
      const x = floats(numItems * inputDim);
      const run = (from: number, items: number): NetJob['runs'][number] => ({
        items,
        perItem: Uint8Array.of(1),
        dense: floats(0),
        pooled: x.slice(from * inputDim, (from + items) * inputDim),
        outLength: items * dim,
      });
      return {
        inputDims: [inputDim],
        numDense: 0,
        layers: [layer('fc', [0], dim, 1, { tensors: [floats(dim * inputDim), floats(dim)], activation: n % 2 === 0 ? 'relu' : 'none' })],
        output: 1,
        runs: [
          ...Array.from({ length: numItems }, (_, item) => run(item, 1)),
          ...Array.from({ length: numItems }, (_, i) => run(0, i + 1)),
        ],
      };
    });
    const answer = runJobs(isa, { tables: [], nets });
    nets.forEach((net, n) => {
      const outs = answer.nets[n]!.outs ?? expect.fail(answer.nets[n]!.error!.message);
      const alone = outs.slice(0, numItems).map((out) => Buffer.from(bytesOf(out)));
      for (let items = 1; items <= numItems; ++items) {
        expect(Buffer.compare(bytesOf(outs[numItems + items - 1]!), Buffer.concat(alone.slice(0, items)))).toBe(0);
      }
      outs.slice(0, 3).forEach((out, item) => {
        const want = score(net, inputsOf(net, item, 0));
        expectNear(out, want, () => 1e-6 * (net.inputDims[0]! + 8));
      });
    });
  });

  it('give every pair of an interaction the bits that it has alone, for 1 to 40 inputs with and without the diagonal', () => {
    const nets = Array.from({ length: 80 }, (_, n): NetJob => {
      const count = 1 + (n >> 1);
      const diagonal = n % 2 === 0;
      const dim = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 85, 128][n % 16]!;
      const all = layer('dot_interaction', [...Array(count).keys()], dim + (count * (diagonal ? count + 1 : count - 1)) / 2, 1, {
        diagonal,
      });
      // The last, the first and a middle vector with one other each.
      const pairs = [count - 1, 0, count >> 1].map((i, p) => layer('dot_interaction', [(i * 7 + p) % count, i], dim + 1, 1));
      const layers = [
        all,
        ...pairs,
        layer(
          'concat',
          [0, 1, 2, 3].map((l) => count + l),
          all.dim + 3 * (dim + 1),
          1,
        ),
      ];
      const perItem = Uint8Array.from({ length: count }, (_, i) => (i % 3 === 1 ? 0 : 1));
      const pooled = floats(perItem.reduce((sum, many) => sum + dim * (many === 1 ? 3 : 1), 0));
      const runs = [{ items: 3, perItem, dense: floats(0), pooled, outLength: 3 * layers[4]!.dim }];
      return { inputDims: Array(count).fill(dim), numDense: 0, layers, output: count + 4, runs };
    });
    const answer = runJobs(isa, { tables: [], nets });
    nets.forEach((net, n) => {
      const [out] = answer.nets[n]!.outs ?? expect.fail(answer.nets[n]!.error!.message);
      const [all, ...rest] = net.layers;
      const pairs = rest.slice(0, 3);
      const width = net.layers[4]!.dim;
      const dim = net.inputDims[0]!;
      for (let item = 0; item < 3; ++item) {
        const got = out!.subarray(item * width, (item + 1) * width);
        expectNear(got, score(net, inputsOf(net, 0, item)), () => 1e-6 * (dim + 8));
        pairs.forEach(({ inputs }, p) => {
          const [i, j] = [Math.max(...inputs), Math.min(...inputs)];
          if (i === j && !all!.diagonal) return;
          const at = dim + (all!.diagonal ? (i * (i + 1)) / 2 : (i * (i - 1)) / 2) + j;
          expect(got[at]).toBe(got[all!.dim + (p + 1) * (dim + 1) - 1]);
        });
      }
    });
  });

  it('carry NaN and infinity through layers and ReLU', () => {
    const inputDims = [2];
    const weight = Float32Array.from([1, 0, 0, 1, 1, 1, -1, -1]);
    const inputs = [
      [NaN, 1],
      [Infinity, 1],
      [-Infinity, 1],
      [Infinity, -Infinity],
      [3e38, 3e38],
    ];
    const want = [
      [NaN, NaN, NaN, NaN],
      [Infinity, NaN, Infinity, 0],
      [0, NaN, 0, Infinity],
      [NaN, NaN, NaN, NaN],
      [Math.fround(3e38), Math.fround(3e38), Infinity, 0],
    ];
    const run = {
      items: 5,
      perItem: Uint8Array.of(1),
      dense: floats(0),
      pooled: Float32Array.from(inputs.flat()),
      outLength: 20,
    };
    const layers = [layer('fc', [0], 4, 1, { tensors: [weight, null], activation: 'relu' })];
    const [out] = runJobs(isa, { tables: [], nets: [{ inputDims, numDense: 0, layers, output: 1, runs: [run] }] }).nets[0]!.outs!;
    expect(Array.from(out!)).toEqual(want.flat());
  });

  it('refuse every number that is not an integer in its range', () => {
    const good = makeNet(5, 6, true, 'none');
    const run = good.runs[3]!;
    expect(runJobs(isa, { tables: [], nets: [good] }).nets[0]!.error).toBeUndefined();
    const wrong = [1.5, NaN, Infinity, -1, 2 ** 32, 2 ** 32 + 1, '1', null, undefined, true, 1n] as unknown as number[];
    const cases = wrong.flatMap((value): [string, NetJob][] => [
      ['inputDims', { ...good, inputDims: [value, ...good.inputDims.slice(1)] }],
      ['numDense', { ...good, numDense: value }],
      ['output', { ...good, output: value }],
      ['inputs', { ...good, layers: good.layers.map((l, n) => (n === 0 ? { ...l, inputs: [0, value] } : l)) }],
      ['dim', { ...good, layers: good.layers.map((l, n) => (n === 0 ? { ...l, dim: value } : l)) }],
      ['stage', { ...good, layers: good.layers.map((l, n) => (n === 0 ? { ...l, stage: value } : l)) }],
      ['items', { ...good, runs: [{ ...run, items: value }] }],
      ['stage', { ...good, runs: [{ ...run, stages: [0, value] }] }],
    ]);
    cases.push(['inputDims', { ...good, inputDims: [0, ...good.inputDims.slice(1)] }]);
    const answer = runJobs(isa, { tables: [], nets: cases.map(([, net]) => net) });
    cases.forEach(([name], n) => {
      // A whole number in range, such as the input 2^32, may be refused for what it names.
      expect(answer.nets[n]?.error?.message, `${name}, case ${n}`).toMatch(new RegExp(`${name} has to be an integer`));
    });
  });

  it('refuse nets and batches that do not fit', () => {
    const good = makeNet(5, 6, true, 'none');
    const run = good.runs[3]!;
    const bad: NetJob[] = [
      { ...good, output: 14 },
      { ...good, output: -1 },
      { ...good, numDense: 5 },
      { ...good, numDense: 1 },
      { ...good, layers: good.layers.map((l, n) => (n === 2 ? { ...l, inputs: [5, 2, 9] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 2 ? { ...l, dim: l.dim + 1 } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 8 ? { ...l, tensors: [floats(3), null] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 8 ? { ...l, tensors: [null, null] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 5 ? { ...l, inputs: [5, 8] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 8 ? { ...l, tensors: l.tensors.slice(0, 1) } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 8 ? { ...l, tensors: [...l.tensors, null] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 8 ? { ...l, tensors: null as unknown as [] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 8 ? { ...l, tensors: ['w' as unknown as null, null] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 6 ? { ...l, tensors: [l.tensors[0] ?? null, null] } : l)) },
      { ...good, layers: good.layers.map((l, n) => (n === 6 ? { ...l, epsilon: -1 } : l)) },
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

  it('run whole nets in bf16 and int8 within the error of the format, with the same bits in every batch', () => {
    const { precisions } = runJobs(isa, { tables: [] });
    expect(precisions).toContain('fp32');
    if (isa === 'scalar') expect(precisions).toEqual(['fp32', 'bf16', 'int8']);
    for (const precision of ['bf16', 'int8'] as const) {
      const dims = [1, 2, 3, 5, 16, 31, 33, 64, 130, 300];
      const nets = dims.map((inputs, n): NetJob => {
        const outputs = dims[(n * 3 + 1) % dims.length]!;
        const layers = [
          layer('fc', [0], outputs, 0, {
            tensors: [floats(outputs * inputs), floats(outputs)],
            activation: n % 2 === 0 ? 'relu' : 'none',
          }),
        ];
        const dense = floats(37 * inputs);
        const of = (items: number, from: number) => ({
          ...{ items, perItem: Uint8Array.of(1), dense: dense.slice(from * inputs, (from + items) * inputs) },
          ...{ pooled: floats(0), outLength: items * outputs },
        });
        return { inputDims: [inputs], numDense: 1, layers, output: 1, precision, runs: [of(37, 0), of(1, 5), of(3, 7), of(15, 20)] };
      });
      const answers = runJobs(isa, { tables: [], nets }).nets;
      nets.forEach((net, n) => {
        const { outs, error } = answers[n]!;
        if (!precisions.includes(precision)) {
          expect(error?.message).toContain('precision has to be one of');
          return;
        }
        const [inputs, outputs] = [net.inputDims[0]!, net.layers[0]!.dim];
        const [together, first, few, many] = outs!;
        expect(bytesOf(first!)).toEqual(bytesOf(together!.slice(5 * outputs, 6 * outputs)));
        expect(bytesOf(few!)).toEqual(bytesOf(together!.slice(7 * outputs, 10 * outputs)));
        expect(bytesOf(many!)).toEqual(bytesOf(together!.slice(20 * outputs, 35 * outputs)));
        for (let item = 0; item < 37; item++) {
          const x = net.runs[0]!.dense.subarray(item * inputs, (item + 1) * inputs);
          const exact = score(net, [x]);
          for (let o = 0; o < outputs; o++) {
            const weight = net.layers[0]!.tensors[0]!.subarray(o * inputs, (o + 1) * inputs);
            // bf16 keeps 8 bits of each operand; int8 is off by half a step of the row and of the weights.
            const [xs, ws] = [Math.max(0, ...x) - Math.min(0, ...x), Math.max(...weight.map(Math.abs))];
            const terms = x.reduce((sum, value, k) => sum + Math.abs(value * weight[k]!), 0);
            const bound =
              precision === 'bf16'
                ? terms * 2 ** -7
                : x.reduce((sum, value, k) => sum + (Math.abs(value) * ws) / 254 + ((Math.abs(weight[k]!) + ws / 254) * xs) / 254, 0) *
                  1.01;
            expect(Math.abs(together![item * outputs + o]! - exact[o]!)).toBeLessThanOrEqual(bound + 1e-5);
          }
        }
        // The formats are coarse: results that equal fp32's would be none of theirs.
        if (inputs >= 64)
          expect(
            Math.max(
              ...together!.map((value, i) =>
                Math.abs(
                  value -
                    score(net, [net.runs[0]!.dense.subarray(Math.floor(i / outputs) * inputs, (Math.floor(i / outputs) + 1) * inputs)])[
                      i % outputs
                    ]!,
                ),
              ),
            ),
          ).toBeGreaterThan(1e-5);
      });
    }
  });

  it('add up 65536 inputs in int8, and refuse more, which int32 may not hold', () => {
    if (!runJobs(isa, { tables: [] }).precisions.includes('int8')) return;
    const ones = (length: number): Float32Array => new Float32Array(length).fill(1);
    const net = (inputs: number): NetJob => ({
      ...{ inputDims: [1, inputs - 1], numDense: 2, output: 3, precision: 'int8' },
      layers: [layer('concat', [0, 1], inputs, 1), layer('fc', [2], 1, 1, { tensors: [ones(inputs), null] })],
      runs: [{ items: 1, perItem: Uint8Array.of(1, 1), dense: ones(inputs), pooled: ones(0), outLength: 1, stages: [1] }],
    });
    const { nets } = runJobs(isa, { tables: [], nets: [net(65_536), net(65_537)] });
    expect(nets[0]?.outs?.[0]?.[0]).toBeCloseTo(65_536, 0);
    expect(nets[1]?.error?.message).toBe('layer 1 has more inputs than int8 can add up: 65537, at most 65536');
  });

  it('pass NaN and infinity on in bf16 and int8', () => {
    const { precisions } = runJobs(isa, { tables: [] });
    for (const precision of ['bf16', 'int8'] as const) {
      if (!precisions.includes(precision)) continue;
      const dense = floats(4 * 20);
      dense[20 + 3] = Number.NaN;
      dense[40 + 5] = Number.POSITIVE_INFINITY;
      const layers = [layer('fc', [0], 9, 0, { tensors: [floats(180).map((w) => Math.abs(w) + 0.1), floats(9)], activation: 'relu' })];
      const run = { items: 4, perItem: Uint8Array.of(1), dense, pooled: floats(0), outLength: 36 };
      const [out] = runJobs(isa, { tables: [], nets: [{ inputDims: [20], numDense: 1, layers, output: 1, precision, runs: [run] }] })
        .nets[0]!.outs!;
      const rows = [0, 1, 2, 3].map((row) => [...out!.slice(row * 9, row * 9 + 9)]);
      expect(rows[0]!.concat(rows[3]!).every(Number.isFinite)).toBe(true);
      expect(rows[1]!.every(Number.isNaN)).toBe(true);
      expect(rows[2]!.some(Number.isFinite)).toBe(false);
    }
  });

  it('give the same bits on one thread and on several, batch after batch', () => {
    const nets = [makeNet(33, 40, true, 'sigmoid'), makeNet(12, 90, false, 'none')];
    const [one, several] = [1, 4].map((threads) => runJobs(isa, { tables: [], nets }, threads).nets);
    one!.forEach(({ outs }, n) => expect(several![n]!.outs!.map(bytesOf)).toEqual(outs!.map(bytesOf)));
  });
});
