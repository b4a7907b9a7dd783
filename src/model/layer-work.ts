import type { ResolvedLayer, ResolvedModel } from './graph.js';
import { OPS, type OpWork } from './ops.js';

/** What one item's part of a layer costs, with sequences as long as they can be. */
export interface LayerWork {
  readonly kind: OpWork['kind'];
  readonly macs: number;
  readonly weights: number;
}

type WorkingLayer = Pick<ResolvedLayer, 'op' | 'inputs' | 'dim' | 'diagonal' | 'causal' | 'positions'>;
type WorkingModel = Pick<ResolvedModel, 'dense' | 'bags'> & { readonly layers: readonly WorkingLayer[] };

/** The work of a model's layers; inputDim: of a layer of which a part of the inputs is meant. */
export function layerWorkOf(model: WorkingModel): (layer: WorkingLayer, inputDim?: number) => LayerWork {
  const values = [
    ...model.dense.map(({ dim }) => ({ dim, positions: 0 })),
    ...model.bags.map(({ dim, maxLength = 0 }) => ({ dim, positions: maxLength })),
    ...model.layers,
  ];
  const sumOfDims = (inputs: readonly number[]): number => inputs.reduce((sum, input) => sum + (values[input]?.dim ?? 0), 0);
  return ({ op, inputs, dim, diagonal, causal, positions }, inputDim = sumOfDims(inputs)) => {
    const { kind, macs, wholeSequence, weights }: OpWork = OPS[op];
    const shape = {
      inputDim,
      numInputs: inputs.length,
      dim,
      diagonal,
      causal,
      positions: Math.max(1, values[inputs[0] ?? -1]?.positions ?? 0),
    };
    const once = macs(shape);
    return {
      kind,
      macs: wholeSequence ? once : once * Math.max(1, positions),
      weights: weights?.(shape) ?? (kind === 'matrix' ? once : 0),
    };
  };
}
