import type { TensorToWrite } from '../../tables/safetensors.js';
import { type ModelShape, type NetShape, tablesOf } from './model-shape.js';
import { SeededNumbers } from './synthetic-values.js';

/** The layers of one net of a shape with their dims and names. */
interface NamedNet {
  readonly shape: NetShape;
  /** The vector of the net before it that the interaction reads, or null. */
  readonly previous: string | null;
  readonly bottom: readonly FullyConnected[];
  readonly crosses: readonly string[];
  /** Width of the concatenated vectors. */
  readonly width: number;
  readonly interaction: string;
  readonly top: readonly FullyConnected[];
}

interface FullyConnected {
  readonly name: string;
  readonly inputDim: number;
  readonly outputDim: number;
}

/** Names of a model's only net are plain; those of several begin with the net's name. */
function nameNets(shape: ModelShape): NamedNet[] {
  const named: NamedNet[] = [];
  for (const net of shape.nets) {
    const name = (layer: string): string => (shape.nets.length === 1 ? layer : `${net.name}_${layer}`);
    const previous = named.at(-1)?.top.at(-1)?.name ?? null;
    const dim = net.bottomMlp.at(-1) ?? 0;
    const vectors = net.tables.length + (previous === null ? 1 : 2);
    const crosses = Array.from({ length: net.interaction.type === 'cross' ? net.interaction.layers : 0 }, (_, n) => name(`cross_${n}`));
    const width = vectors * dim;
    const topInput = net.interaction.type === 'dot' ? dim + (vectors * (vectors - 1)) / 2 : width;
    named.push({
      shape: net,
      previous,
      bottom: mlp(name('bottom'), shape.denseDim, net.bottomMlp),
      crosses,
      width,
      interaction: name(net.interaction.type === 'dot' ? 'interaction' : 'vectors'),
      top: mlp(name('top'), topInput, net.topMlp),
    });
  }
  return named;
}

function mlp(prefix: string, inputDim: number, outputs: readonly number[]): FullyConnected[] {
  return outputs.map((outputDim, layer) => ({ name: `${prefix}_${layer}`, inputDim: outputs[layer - 1] ?? inputDim, outputDim }));
}

/** Uniform in +-sqrt(3 / inputs): unit variance of the outputs for unit variance of the inputs. */
export function denseTensors(shape: ModelShape): TensorToWrite[] {
  const numbers = new SeededNumbers(shape.seed);
  const tensor = (name: string, dims: number[], bound: number): TensorToWrite => {
    const values = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
    numbers.fill(values, bound);
    return { name, dtype: 'F32', shape: dims, data: new Uint8Array(values.buffer) };
  };
  return nameNets(shape).flatMap(({ shape: net, bottom, top, crosses, width }) => {
    const rank = net.interaction.type === 'cross' ? net.interaction.rank : 0;
    return [
      ...[...bottom, ...top].flatMap(({ name, inputDim, outputDim }) => [
        tensor(`${name}.weight`, [outputDim, inputDim], Math.sqrt(3 / inputDim)),
        tensor(`${name}.bias`, [outputDim], 0.1),
      ]),
      ...crosses.flatMap((name) => [
        tensor(`${name}.weightV`, [rank, width], Math.sqrt(3 / width)),
        tensor(`${name}.weightU`, [width, rank], Math.sqrt(3 / rank)),
        tensor(`${name}.bias`, [width], 0.1),
      ]),
    ];
  });
}

/** From the vectors to what the top MLP reads, which the last of them gives. */
function interactionLayers({ shape, crosses, interaction }: NamedNet, inputs: readonly string[]): object[] {
  return [
    { type: shape.interaction.type === 'dot' ? 'dot_interaction' : 'concat', name: interaction, inputs },
    ...crosses.map((name, layer) => ({
      type: 'cross',
      name,
      inputs: [interaction, crosses[layer - 1] ?? interaction],
      weightU: `${name}.weightU`,
      weightV: `${name}.weightV`,
      bias: `${name}.bias`,
    })),
  ];
}

function fcLayers(layers: readonly FullyConnected[], input: string, last: 'relu' | 'sigmoid'): object[] {
  return layers.map(({ name }, layer) => ({
    type: 'fc',
    name,
    input: layers[layer - 1]?.name ?? input,
    weight: `${name}.weight`,
    bias: `${name}.bias`,
    activation: layer === layers.length - 1 ? last : 'relu',
  }));
}

/** By the table's name. */
export const bagName = (table: string): string => `${table}_bag`;

function netLayers(net: NamedNet, last: 'relu' | 'sigmoid'): object[] {
  const bags = net.shape.tables.map(({ name, pooling, weighted, poolingFactor, side }) => ({
    type: 'embedding_bag',
    name: bagName(name),
    table: name,
    pooling,
    weighted,
    poolingFactor,
    side,
  }));
  const bottom = net.bottom.at(-1)?.name ?? 'dense';
  const inputs = [bottom, ...(net.previous === null ? [] : [net.previous]), ...bags.map(({ name }) => name)];
  return [
    ...bags,
    ...fcLayers(net.bottom, 'dense', 'relu'),
    ...interactionLayers(net, inputs),
    ...fcLayers(net.top, net.crosses.at(-1) ?? net.interaction, last),
  ];
}

/** model.json of a shape, without its files. */
export function describeShape(shape: ModelShape): object {
  const nets = nameNets(shape);
  return {
    terabag: 1,
    name: shape.name,
    version: String(shape.seed),
    dense: [{ name: 'dense', dim: shape.denseDim }],
    tables: tablesOf(shape).map(({ name, rows, dim, format }) => ({
      name,
      rows,
      dim,
      format,
      file: `tables/${name}.safetensors`,
      tensor: 'weight',
    })),
    nets: nets.map((net, n) => ({ name: net.shape.name, layers: netLayers(net, n === nets.length - 1 ? 'sigmoid' : 'relu') })),
    output: nets.at(-1)?.top.at(-1)?.name,
  };
}
