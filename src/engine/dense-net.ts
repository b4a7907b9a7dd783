import { oneOf, TerabagError } from '../errors.js';
import type { ResolvedModel } from '../model/graph.js';
import { layerWorkOf } from '../model/layer-work.js';
import type { DensePart, Waiting } from './dense-part.js';
import type { JobTimes } from './job-times.js';
import { type NativeDenseNet, type NativeWorkspace, native, PRECISIONS, type Precision } from './native.js';
import { runError } from './native-errors.js';
import { SYNC_BUDGET_NS } from './sync-budget.js';

/** Reading a weight from the L3 cache, once a run, and multiplying it, once an item. */
const NS_PER_WEIGHT = 0.027;
const NS_PER_MAC = 0.0186;

/** From here on a number becomes infinite when it is rounded to bf16: halfway from the largest one to 2^128. */
const BF16_OVERFLOW = (2 - 2 ** -8) * 2 ** 127;

/** The dense layers of a model, weights packed once. Stage 0 needs no embeddings; the last one, 1 or more, gives the scores. */
export class DenseNet implements DensePart {
  readonly sharesInputs = false;
  readonly #net: NativeDenseNet;
  /** By stage. */
  readonly #macsPerItem: number[] = [];
  readonly #sequences: SequenceWork | null = null;
  /** 1, or the last that a layer is in. */
  readonly lastStage: number;

  /** weights: tensors of dense.safetensors by name, float32, row-major; copied. */
  constructor(model: ResolvedModel, weights: ReadonlyMap<string, { readonly data: Float32Array }>, precision: Precision = 'fp32') {
    oneOf('precision', precision, PRECISIONS);
    const precisions = native.precisions();
    if (!precisions.includes(precision))
      throw new TerabagError(
        'invalid_argument',
        `precision ${precision} needs instructions that the ${native.isa} kernels do not have on this CPU; it has ${precisions.join(', ')}`,
        { field: 'precision', precision },
      );
    const inputDims = [...model.dense.map((feature) => feature.dim), ...model.bags.map((bag) => bag.dim)];
    const inputPositions = [...model.dense.map(() => 0), ...model.bags.map(({ maxLength }) => maxLength ?? 0)];
    const tensor = (name: string | null): Float32Array | null => {
      if (name === null) return null;
      const found = weights.get(name);
      if (found === undefined) throw new TerabagError('bad_model', `no such tensor in dense.safetensors: ${name}`, { tensor: name });
      return found.data;
    };
    const layers = model.layers.map((layer) => ({ ...layer, tensors: layer.tensors.map(tensor) }));
    if (precision === 'bf16') {
      for (const [at, { op, tensors }] of layers.entries())
        if (op === 'fc') refuseOverflow(String(model.layers[at]?.tensors[0]), tensors[0] ?? null);
    }
    const workOf = layerWorkOf(model);
    for (const layer of model.layers) {
      const { kind, macs } = workOf(layer);
      // Those of pairs take about twice as long.
      this.#macsPerItem[layer.stage] = (this.#macsPerItem[layer.stage] ?? 0) + macs * (kind === 'pairs' ? 2 : 1);
    }
    if (inputPositions.some((positions) => positions > 0)) this.#sequences = new SequenceWork(model, inputPositions);
    this.lastStage = Math.max(1, ...layers.map(({ stage }) => stage));
    try {
      this.#net = new native.DenseNet(inputDims, model.dense.length, layers, model.output, precision, inputPositions);
    } catch (error) {
      throw TerabagError.from(error, 'bad_model');
    }
  }

  /** Buffers of one request at a time; reuse it for the next. */
  createWorkspace(): NativeWorkspace {
    return this.#net.createWorkspace();
  }

  /**
   * Runs a stage: done on return when small (undefined), else on the addon's threads; the buffers are the net's until it settles. Measures
   * itself when there is a job.
   */
  run(
    workspace: NativeWorkspace,
    stage: number,
    items: number,
    perItem: Uint8Array,
    dense: Float32Array,
    pooled: Float32Array | null,
    lengths: Uint32Array | null,
    output: Float32Array | null,
    job: JobTimes | null = null,
    _request: Waiting | null = null,
    groups: Uint32Array | null = null,
  ): Promise<void> | undefined {
    const hops = this.#expectedNs(stage, items, perItem, lengths, groups?.length ?? 1) > SYNC_BUDGET_NS;
    if (job !== null) job.onThread = hops;
    try {
      if (groups !== null) {
        const [times, timesAt] = [job?.times, job?.timesAt];
        if (hops) return this.#net.run(workspace, stage, items, perItem, dense, pooled, lengths, output, times, timesAt, groups);
        this.#net.runSync(workspace, stage, items, perItem, dense, pooled, lengths, output, times, timesAt, groups);
        return undefined;
      }
      if (hops) return this.#net.run(workspace, stage, items, perItem, dense, pooled, lengths, output, job?.times, job?.timesAt);
      this.#net.runSync(workspace, stage, items, perItem, dense, pooled, lengths, output, job?.times, job?.timesAt);
      return undefined;
    } catch (error) {
      throw runError(error);
    }
  }

  /** Nothing is held that the garbage collector does not find. */
  close(): Promise<void> {
    return Promise.resolve();
  }

  #expectedNs(stage: number, items: number, perItem: Uint8Array, lengths: Uint32Array | null, groups: number): number {
    if (this.#sequences !== null && lengths !== null) return NS_PER_MAC * this.#sequences.macs(stage, [1, items, groups], perItem, lengths);
    return (this.#macsPerItem[stage] ?? 0) * (NS_PER_WEIGHT + NS_PER_MAC * items);
  }
}

/** Multiply-adds of a model with sequences. A user's sequence is worked on once a request, and all are mostly shorter than they can be. */
class SequenceWork {
  /** By stage: those of a layer for one item, and the inputs of the net that its value comes from. */
  readonly #layers: { readonly macs: number; readonly inputs: readonly number[] }[][] = [];

  constructor(
    model: ResolvedModel,
    private readonly inputPositions: readonly number[],
  ) {
    const workOf = layerWorkOf(model);
    const sources = inputPositions.map((_, input) => [input]);
    for (const layer of model.layers) {
      const inputs = [...new Set(layer.inputs.flatMap((input) => sources[input] ?? []))];
      sources.push(inputs);
      this.#layers[layer.stage] = [...(this.#layers[layer.stage] ?? []), { macs: workOf(layer).macs, inputs }];
    }
  }

  /** lengths: as DenseNet.run gets them. Layers without sequences are few multiply-adds beside those that have them, and counted likewise. */
  macs(stage: number, rows: readonly [one: number, items: number, groups: number], perItem: Uint8Array, lengths: Uint32Array): number {
    let [most, sum] = [0, 0];
    const rowsOf = (input: number): number => rows[perItem[input] as 0 | 1 | 2];
    for (const [input, positions] of this.inputPositions.entries()) most += positions * rowsOf(input);
    for (const length of lengths) sum += length;
    let macs = 0;
    for (const layer of this.#layers[stage] ?? [])
      macs += layer.macs * layer.inputs.reduce((most, input) => Math.max(most, rowsOf(input)), 1);
    return macs * (sum / Math.max(1, most));
  }
}

function refuseOverflow(tensor: string, weights: Float32Array | null): void {
  const position = weights?.findIndex((weight) => Math.abs(weight) >= BF16_OVERFLOW) ?? -1;
  if (position < 0) return;
  throw new TerabagError(
    'invalid_argument',
    `a weight is too large for precision bf16, use fp32: ${tensor}, position ${position}, ${weights?.[position]}`,
    { field: 'precision', tensor, position },
  );
}
