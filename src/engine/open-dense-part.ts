import { TerabagError } from '../errors.js';
import type { Bundle } from '../model/bundle.js';
import { inStages, type ResolvedModel } from '../model/graph.js';
import { DenseNet } from './dense-net.js';
import type { DensePart } from './dense-part.js';
import type { Precision } from './native.js';
import { OnnxNet, type OnnxOptions } from './onnx/onnx-net.js';

export interface DensePartOptions {
  /** What the dense layers compute in; default fp32. */
  readonly precision?: Precision;
  readonly onnx?: OnnxOptions;
}

/** Opens what gives a bundle's scores, in one stage (when nothing is waited for), in two (what needs no embeddings, then the rest), or in one a net. */
export async function openDensePart(bundle: Bundle, stages: 1 | 2 | 'nets', options: DensePartOptions): Promise<DensePart> {
  const model = bundle.model as ResolvedModel;
  const { precision = 'fp32', onnx } = options;
  if (bundle.onnx === null) return new DenseNet(stages === 'nets' ? model : inStages(model, stages), bundle.dense, precision);
  if (precision !== 'fp32')
    throw new TerabagError('invalid_argument', `an ONNX model computes in what it says itself, not in ${precision}; leave precision out`, {
      field: 'precision',
      precision,
    });
  const lastStage = stages === 'nets' ? Math.max(1, ...model.bags.map(({ net }) => net + 1)) : 1;
  return OnnxNet.open(model, bundle.onnx, lastStage, onnx);
}
