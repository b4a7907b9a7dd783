import { oneOf, TerabagError } from '../errors.js';
import type { ResolvedModel } from '../model/graph.js';
import { OPS } from '../model/layers.js';
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
export class DenseNet {
  readonly #net: NativeDenseNet;
  /** By stage. */
  readonly #macsPerItem: number[] = [];
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
    const dims = [...inputDims, ...model.layers.map((layer) => layer.dim)];
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
    for (const { op, inputs, dim, diagonal, stage } of layers) {
      const inputDim = inputs.reduce((sum, input) => sum + (dims[input] ?? 0), 0);
      const macs = OPS[op].macs({ inputDim, numInputs: inputs.length, dim, diagonal });
      // Those of pairs take about twice as long.
      this.#macsPerItem[stage] = (this.#macsPerItem[stage] ?? 0) + macs * (OPS[op].kind === 'pairs' ? 2 : 1);
    }
    this.lastStage = Math.max(1, ...layers.map(({ stage }) => stage));
    try {
      this.#net = new native.DenseNet(inputDims, model.dense.length, layers, model.output, precision);
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
    output: Float32Array | null,
    job: JobTimes | null = null,
  ): Promise<void> | undefined {
    const hops = (this.#macsPerItem[stage] ?? 0) * (NS_PER_WEIGHT + NS_PER_MAC * items) > SYNC_BUDGET_NS;
    if (job !== null) job.onThread = hops;
    try {
      if (hops) return this.#net.run(workspace, stage, items, perItem, dense, pooled, output, job?.times, job?.timesAt);
      this.#net.runSync(workspace, stage, items, perItem, dense, pooled, output, job?.times, job?.timesAt);
      return undefined;
    } catch (error) {
      throw runError(error);
    }
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
