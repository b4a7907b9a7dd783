import { describe, expect, it } from 'vitest';
import { availableKernels, bytesOf, layer, type NetJob, randomFrom, runJobs } from './jobs.js';
import { merged } from './sequence-jobs.js';

const random = randomFrom(23);
const below = (count: number): number => Math.floor(random() * count);
const floats = (length: number): Float32Array => Float32Array.from({ length }, () => random() * 2 - 1);
type Run = NetJob['runs'][number];

const PRECISIONS = ['fp32', 'bf16', 'int8'] as const;
const NUM_DENSE = 2;
const NETS = 3;

/**
 * Three nets of random widths, each a concat under a fully connected layer. A net reads the bags of its own and what the one before gives; the
 * layers of net n are in stage n + 1, those that read dense features only in stage 0. Which inputs the items share is up to the run.
 */
function makeNet(precision: NetJob['precision']): NetJob {
  const inputDims = Array.from({ length: NUM_DENSE + 2 * NETS }, () => 1 + below(below(2) === 0 ? 8 : 90));
  const dims = [...inputDims];
  const layers: NetJob['layers'] = [];
  const add = (
    op: 'concat' | 'fc',
    inputs: number[],
    dim: number,
    stage: number,
    activation: 'none' | 'relu' | 'sigmoid' = 'none',
  ): number => {
    const given = dims[inputs[0] as number] as number;
    const parameters = op === 'fc' ? { tensors: [floats(dim * given).map((w) => w / 4), floats(dim)], activation } : {};
    layers.push(layer(op, inputs, dim, stage, parameters));
    return dims.push(dim) - 1;
  };
  const concat = (inputs: number[], stage: number): number =>
    add(
      'concat',
      inputs,
      inputs.reduce((sum, input) => sum + (dims[input] as number), 0),
      stage,
    );
  let before = add('fc', [concat([0, 1], 0)], 1 + below(70), 0, 'relu');
  for (let net = 0; net < NETS; net++) {
    const [first, second] = [NUM_DENSE + 2 * net, NUM_DENSE + 2 * net + 1];
    // A layer that may be all shared, in front of others that are not; and a dense feature, which every stage may read.
    const alone = add('fc', [first], 1 + below(40), net + 1, 'relu');
    const inputs = [
      [alone, second, before],
      [before, alone, 0, second],
      [second, alone, first, before],
    ][net] as number[];
    before = add('fc', [concat(inputs, net + 1)], 1 + below(140), net + 1, net === 0 ? 'relu' : 'sigmoid');
  }
  return { inputDims, numDense: NUM_DENSE, layers, output: before, ...(precision && { precision }), runs: [] };
}

const outDim = ({ layers }: NetJob): number => (layers.at(-1) as NetJob['layers'][number]).dim;

/** A run with the same values for all items where the input is shared: given once, and given per item. */
function runsOf(net: NetJob, items: number, shared: readonly boolean[], stages: number[]): { once: Run; repeated: Run } {
  const values = net.inputDims.map((dim, input) => {
    const one = floats(dim * (shared[input] ? 1 : items));
    return { one, all: shared[input] ? Float32Array.from({ length: items * dim }, (_, at) => one[at % dim] as number) : one };
  });
  const block = (which: 'one' | 'all', from: number, to: number): Float32Array =>
    Float32Array.from(values.slice(from, to).flatMap((value) => [...value[which]]));
  const run = (which: 'one' | 'all'): Run => ({
    items,
    perItem: Uint8Array.from(shared, (once) => (once && which === 'one' ? 0 : 1)),
    dense: block(which, 0, NUM_DENSE),
    pooled: block(which, NUM_DENSE, net.inputDims.length),
    outLength: items * outDim(net),
    stages,
  });
  return { once: run('one'), repeated: run('all') };
}

const inOneStage = (net: NetJob): NetJob => ({
  ...net,
  layers: net.layers.map((given) => ({ ...given, stage: 1 })),
  runs: net.runs.map((run) => ({ ...run, stages: [1] })),
});

describe.each(availableKernels)('dense nets with %s kernels', (isa) => {
  const { precisions } = runJobs(isa, { tables: [] });

  it.each(PRECISIONS.filter((precision) => precisions.includes(precision)))(
    'give in %s the same bits for inputs given once and repeated, in many stages and in one, on one thread and on several',
    (precision) => {
      const nets = Array.from({ length: 25 }, () => {
        const net = makeNet(precision);
        const pairs = [1, 2, 5, 14, 33, 120].map((items) =>
          runsOf(
            net,
            items,
            net.inputDims.map(() => below(3) > 0),
            [0, 1, 2, 3],
          ),
        );
        // One workspace for all: it must not remember what an earlier run shared.
        return { ...net, runs: pairs.flatMap(({ once, repeated }) => [once, repeated]) };
      });
      const [staged, whole] = [nets, nets.map(inOneStage)].map((jobs) => runJobs(isa, { tables: [], nets: jobs }).nets);
      const threads = runJobs(isa, { tables: [], nets }, 4).nets;
      nets.forEach(({ runs }, n) => {
        const outs = staged?.[n]?.outs ?? expect.fail(staged?.[n]?.error?.message);
        for (let run = 0; run < runs.length; run += 2) {
          const [once, repeated] = [outs[run] as Float32Array, outs[run + 1] as Float32Array];
          expect(Buffer.compare(bytesOf(once), bytesOf(repeated))).toBe(0);
          // Not all zeros, as it would be when nothing was computed.
          expect(once.some((value) => value !== 0)).toBe(true);
        }
        const bytes = Buffer.concat(outs.map(bytesOf));
        for (const others of [whole, threads]) expect(Buffer.compare(Buffer.concat((others?.[n]?.outs ?? []).map(bytesOf)), bytes)).toBe(0);
      });
    },
  );

  it.each(PRECISIONS.filter((precision) => precisions.includes(precision)))(
    'give in %s the items of a group the bits that they have in a run of their own, in many stages and in one, on one thread and on several',
    (precision) => {
      const nets = Array.from({ length: 40 }, () => {
        const net = makeNet(precision);
        const shared = net.inputDims.map(() => below(3) > 0);
        const sizes = Array.from({ length: 2 + below(12) }, () => [1, 2, 3, 8, 33, 120][below(6)] as number);
        const runs = sizes.map((items) => runsOf(net, items, shared, [0, 1, 2, 3]).once);
        return { ...net, runs: [merged(net, runs), ...runs] };
      });
      const whole = runJobs(isa, { tables: [], nets: nets.map(inOneStage) }).nets;
      const staged = runJobs(isa, { tables: [], nets }).nets;
      const threads = runJobs(isa, { tables: [], nets }, 4).nets;
      for (const answers of [staged, whole, threads]) {
        for (const { outs, error } of answers) {
          const [together, ...alone] = outs ?? expect.fail(error?.message);
          expect(together!.some((value) => value !== 0)).toBe(true);
          expect(Buffer.compare(bytesOf(together!), Buffer.concat(alone.map(bytesOf)))).toBe(0);
        }
      }
    },
  );

  it('refuse groups that are not all items, that are empty, or that are missing, and rows of another kind', () => {
    const net = makeNet('fp32');
    const run = runsOf(
      net,
      3,
      net.inputDims.map(() => true),
      [0],
    ).once;
    const { perItem, groups, ...rest } = merged(net, [run, run]);
    const broken: Partial<Run>[] = [
      { perItem, groups: Uint32Array.of(3, 2) },
      { perItem, groups: Uint32Array.of(3, 3, 0) },
      { perItem, groups: Uint32Array.of(4294967295, 7) },
      { perItem },
      { perItem: perItem.map(() => 3), groups: groups! },
    ];
    const jobs = broken.map((each): NetJob => ({ ...net, runs: [{ ...rest, perItem, ...each }] }));
    for (const { error } of runJobs(isa, { tables: [], nets: jobs }).nets) expect(error?.message).toMatch(/groups|rows/);
    expect(runJobs(isa, { tables: [], nets: [{ ...net, runs: [{ ...rest, perItem, groups: groups! }] }] }).nets[0]?.error).toBeUndefined();
  });

  it('refuse a stage whose earlier ones did not run before it, or ran for other items or features', () => {
    const net = makeNet('fp32');
    const given = (items: number, flip: number, stages: number[]): Run =>
      runsOf(
        net,
        items,
        net.inputDims.map((_, input) => input !== flip),
        stages,
      ).once;
    const [all, one] = [given(4, 3, [0, 1, 2, 3]), given(4, 3, [1])];
    const refused: Run[][] = [
      [one],
      [given(4, 3, [0, 2])],
      [given(4, 3, [0, 1, 3])],
      [given(4, 3, [1, 2, 3])],
      [given(4, 3, [0, 1, 0, 2])],
      [all, given(5, 3, [1])],
      [all, given(5, 3, [3])],
      [all, given(5, 3, [0, 2])],
      // A bag that only another stage reads was given per item, and is now given once.
      [all, given(4, 5, [3])],
      // So was a dense feature.
      [all, given(4, 1, [1])],
    ];
    const accepted: Run[][] = [[all], [all, one], [all, given(4, 3, [3])], [all, given(4, 5, [1, 2, 3])], [all, given(4, 5, [0, 1, 2, 3])]];
    const jobs = [...refused, ...accepted].map((runs) => ({ ...net, runs }));
    runJobs(isa, { tables: [], nets: jobs }).nets.forEach(({ error }, n) => {
      if (n < refused.length) expect(error?.message, `case ${n}`).toMatch(/a stage needs those before it/);
      else expect(error, `case ${n - refused.length}`).toBeUndefined();
    });
  });

  it('refuse a layer that reads a value of a later stage', () => {
    const net = makeNet('fp32');
    const early = net.layers.map((given, n) => (n === net.layers.length - 1 ? { ...given, stage: 2 } : given));
    const [answer] = runJobs(isa, { tables: [], nets: [{ ...net, layers: early }] }).nets;
    expect(answer?.error?.message).toMatch(/reads a value of a later stage/);
  });
});
