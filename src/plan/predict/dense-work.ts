import type { ResolvedLayer, ResolvedModel } from '../../model/graph.js';
import { layerWorkOf } from '../../model/layer-work.js';

/** Multiply-adds of dense layers, and the weights that they read. */
export interface DenseWork {
  readonly weights: number;
  /** Once per request: of layers, and of the leading inputs of a layer, that all items share. */
  readonly sharedMacs: number;
  readonly macsPerItem: number;
  /** Multiply-adds of dot interactions, which take longer; not among those above. */
  readonly pairMacs: number;
  readonly pairMacsPerItem: number;
}

const nothing = () => ({ weights: 0, sharedMacs: 0, macsPerItem: 0, pairMacs: 0, pairMacsPerItem: 0 });

/**
 * What the dense net computes, by stage: [0] needs no embeddings, [n + 1] those of nets up to n. Dense features are taken as given per item;
 * perItem says it of each bag layer. Sequences are taken to be as long as they can be.
 */
export function denseWork(model: ResolvedModel, perItem: readonly boolean[]): DenseWork[] {
  const dims = [...model.dense, ...model.bags, ...model.layers].map(({ dim }) => dim);
  const workOf = layerWorkOf(model);
  const many = [...model.dense.map(() => true), ...perItem];
  const inputs = model.dense.length + model.bags.length;
  const stages: ReturnType<typeof nothing>[] = [];
  for (const layer of model.layers) {
    const work = stages[layer.stage] ?? nothing();
    stages[layer.stage] = work;
    const itemwise = layer.inputs.some((input) => many[input] === true);
    many.push(itemwise);
    const { kind, macs, weights } = workOf(layer);
    const shared = itemwise ? workOf(layer, sharedInputDim(layer)).macs : macs;
    if (kind === 'pairs') {
      work.pairMacs += shared;
      work.pairMacsPerItem += macs - shared;
    } else {
      work.sharedMacs += shared;
      work.macsPerItem += macs - shared;
    }
    work.weights += weights;
  }
  return Array.from(stages, (work) => work ?? nothing());

  /** A fully connected layer over a concat multiplies the leading inputs that all items share once. */
  function sharedInputDim({ op, positions, inputs: [input = 0] }: ResolvedLayer): number {
    const concat = model.layers[input - inputs];
    if (op !== 'fc' || positions > 0 || concat?.op !== 'concat') return 0;
    const firstOfItems = concat.inputs.findIndex((read) => many[read] === true);
    return concat.inputs.slice(0, firstOfItems).reduce((sum, read) => sum + (dims[read] ?? 0), 0);
  }
}
