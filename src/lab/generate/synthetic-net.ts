import type { TensorToWrite } from '../../tables/safetensors.js';
import { type ModelShape, type NetShape, type TableShape, tablesOf } from './model-shape.js';
import { SeededNumbers } from './synthetic-values.js';

/** The layers of one net of a shape with their dims and names. */
interface NamedNet {
  readonly shape: NetShape;
  /** The vector of the net before it that the interaction reads, or null. */
  readonly previous: string | null;
  /** What the bottom MLP reads; null: the model has no dense feature. */
  readonly dense: string | null;
  readonly bottom: readonly FullyConnected[];
  readonly crosses: readonly string[];
  /** Width of the concatenated vectors. */
  readonly width: number;
  readonly interaction: string;
  readonly top: readonly FullyConnected[];
  /** Of din and dien: what their layers over the sequence multiply with. */
  readonly interest: readonly FullyConnected[];
  /** Of neumf: what gives the score of the product and of the top MLP. */
  readonly both: FullyConnected | null;
  /** One each task. */
  readonly tasks: readonly (readonly FullyConnected[])[];
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
    const dim = net.bottomMlp.at(-1) ?? shape.denseDim;
    const dims = [dim, ...(previous === null ? [] : [dim]), ...net.tables.map((table) => table.dim)];
    const crosses = Array.from({ length: net.interaction.type === 'cross' ? net.interaction.layers : 0 }, (_, n) => name(`cross_${n}`));
    const width = concatenated(net, dims);
    const topInput = net.interaction.type === 'dot' ? dim + (dims.length * (dims.length - 1)) / 2 : width;
    const top = mlp(name('top'), topInput, net.topMlp);
    const topDim = net.topMlp.at(-1) ?? topInput;
    const productDim = net.tables[0]?.dim ?? 0;
    named.push({
      shape: net,
      previous,
      dense: denseFeatures(shape)[0]?.name ?? null,
      bottom: mlp(name('bottom'), shape.denseDim, net.bottomMlp),
      crosses,
      width,
      interaction: name(net.interaction.type === 'dot' ? 'interaction' : 'vectors'),
      top,
      interest: interestWeights(net),
      both: net.interaction.type === 'neumf' ? { name: name('score'), inputDim: productDim + topDim, outputDim: 1 } : null,
      tasks: (net.tasks ?? []).map((task) => {
        const layers = mlp(`${task.name}_hidden`, topDim, task.mlp);
        return layers.map((layer, at) => (at === layers.length - 1 ? { ...layer, name: task.name } : layer));
      }),
    });
  }
  return named;
}

/** Values that the top MLP reads, unless its inputs are products of pairs. */
function concatenated(net: NetShape, dims: readonly number[]): number {
  const { interaction, tables } = net;
  const read = interaction.type === 'neumf' ? tables.slice(tables.length / 2).map(({ dim }) => dim) : dims;
  const sum = read.reduce((total, dim) => total + dim, 0);
  return interaction.type === 'dien' ? sum - sequenceDim(net) + interaction.hidden : sum;
}

const sequenceDim = ({ tables }: NetShape): number => tables.find(({ maxLength }) => maxLength !== undefined)?.dim ?? 0;

/** Names of what interestWeights has for dien, in its order. */
type DienWeights = [string, string, string, string, string, string];

/** din: the layers that score a position, by four vectors. dien: gates of both GRUs, for what they read and for their state, and the scores of states. */
function interestWeights(net: NetShape): FullyConnected[] {
  const { interaction } = net;
  const dim = sequenceDim(net);
  if (interaction.type === 'din') return mlp('attention', 4 * dim, interaction.attention);
  if (interaction.type !== 'dien') return [];
  const { hidden } = interaction;
  const gates = (name: string, inputDim: number): FullyConnected => ({ name, inputDim, outputDim: 3 * hidden });
  return [
    gates('gru_input', dim),
    gates('gru_hidden', hidden),
    { name: 'candidate', inputDim: dim, outputDim: hidden },
    { name: 'scores', inputDim: hidden, outputDim: 1 },
    gates('augru_input', hidden),
    gates('augru_hidden', hidden),
  ];
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
  const fcTensors = ({ name, inputDim, outputDim }: FullyConnected): TensorToWrite[] => [
    tensor(`${name}.weight`, [outputDim, inputDim], Math.sqrt(3 / inputDim)),
    tensor(`${name}.bias`, [outputDim], 0.1),
  ];
  return nameNets(shape).flatMap(({ shape: net, bottom, top, crosses, width, interest, both, tasks }) => {
    const rank = net.interaction.type === 'cross' ? net.interaction.rank : 0;
    return [
      ...[...bottom, ...top, ...(both === null ? [] : [both]), ...tasks.flat()].flatMap(fcTensors),
      ...crosses.flatMap((name) => [
        tensor(`${name}.weightV`, [rank, width], Math.sqrt(3 / width)),
        tensor(`${name}.weightU`, [width, rank], Math.sqrt(3 / rank)),
        tensor(`${name}.bias`, [width], 0.1),
      ]),
      ...interest.flatMap(fcTensors),
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

/** Of the layer that reads the table. */
export const readerName = ({ name, maxLength }: TableShape): string => `${name}_${maxLength === undefined ? 'bag' : 'sequence'}`;

function reader(table: TableShape): object {
  const { name, pooling, weighted, poolingFactor, side, maxLength } = table;
  const reads = { name: readerName(table), table: name };
  if (maxLength !== undefined) return { type: 'embedding_sequence', ...reads, maxLength, poolingFactor, side };
  return { type: 'embedding_bag', ...reads, pooling, weighted, poolingFactor, side };
}

/** last: the activation of what gives the net's value. */
function netLayers(net: NamedNet, last: 'relu' | 'sigmoid'): object[] {
  const { interaction, top, tasks } = net;
  const bags = net.shape.tables.map(reader);
  const names = net.shape.tables.map(readerName);
  if (net.both !== null) return [...bags, ...neumfLayers(net, net.both, names, last)];
  const bottom = net.bottom.at(-1)?.name ?? net.dense;
  const interest = interestLayers(net);
  const vectors = net.shape.tables.map((table) => (table.maxLength === undefined ? readerName(table) : interest.name));
  const inputs = [bottom, net.previous, ...vectors].filter((name) => name !== null);
  return [
    ...bags,
    ...fcLayers(net.bottom, 'dense', 'relu'),
    ...interest.layers,
    ...interactionLayers(net, inputs),
    ...fcLayers(top, net.crosses.at(-1) ?? interaction, tasks.length === 0 ? last : 'relu'),
    ...tasks.flatMap((task) => fcLayers(task, top.at(-1)?.name ?? interaction, last)),
  ];
}

/** What the candidate finds in the sequence, as a vector: the layers that give it, the last of which has the name. None without a sequence. */
function interestLayers({ shape: { interaction, tables }, interest }: NamedNet): { readonly name: string; readonly layers: object[] } {
  const at = tables.findIndex(({ maxLength }) => maxLength !== undefined);
  const [sequence, query] = tables.slice(at).map(readerName);
  const name = 'interest';
  if (interaction.type === 'din') {
    const layers = interest.map((layer, n) => ({ ...tensorsOf(layer.name), activation: n === interest.length - 1 ? 'none' : 'sigmoid' }));
    return { name, layers: [{ type: 'target_attention', name, query, sequence, layers, normalize: 'none' }] };
  }
  if (interaction.type !== 'dien') return { name, layers: [] };
  const [gruInput, gruHidden, candidate, scores, augruInput, augruHidden] = interest.map((layer) => layer.name) as DienWeights;
  return {
    name,
    layers: [
      { type: 'gru', name: 'gru', input: sequence, ...gatesOf(gruInput, gruHidden) },
      { type: 'fc', name: candidate, input: query, ...tensorsOf(candidate) },
      {
        ...{ type: 'target_scores', name: scores, query: candidate, sequence: 'gru', normalize: 'softmax' },
        ...{ features: ['product'], layers: [tensorsOf(scores)] },
      },
      { type: 'augru', name: 'augru', input: 'gru', scores, ...gatesOf(augruInput, augruHidden) },
      { type: 'sequence_pool', name, input: 'augru', pooling: 'last' },
    ],
  };
}

const tensorsOf = (layer: string): { readonly weight: string; readonly bias: string } => ({
  weight: `${layer}.weight`,
  bias: `${layer}.bias`,
});

/** Of a recurrent layer: for what it reads, and for its state. */
const gatesOf = (input: string, hidden: string): object => ({
  ...{ weightInput: `${input}.weight`, biasInput: `${input}.bias` },
  ...{ weightHidden: `${hidden}.weight`, biasHidden: `${hidden}.bias` },
});

/** The product of the first half of the bags (generalized matrix factorization), the MLP over the others, and a layer over both. */
function neumfLayers({ interaction, top }: NamedNet, both: FullyConnected, bags: readonly string[], last: 'relu' | 'sigmoid'): object[] {
  const half = bags.length / 2;
  return [
    { type: 'product', name: 'factors', inputs: bags.slice(0, half) },
    { type: 'concat', name: interaction, inputs: bags.slice(half) },
    ...fcLayers(top, interaction, 'relu'),
    { type: 'concat', name: 'both', inputs: ['factors', top.at(-1)?.name ?? interaction] },
    ...fcLayers([both], 'both', last),
  ];
}

/** What a net gives: its tasks, else its score. */
function outputsOf({ tasks, both, top }: NamedNet): string[] {
  if (tasks.length > 0) return tasks.map((task) => task.at(-1)?.name ?? '');
  return [both?.name ?? top.at(-1)?.name ?? ''];
}

/** model.json of a shape, without its files. */
export function describeShape(shape: ModelShape): object {
  const nets = nameNets(shape);
  const [output, ...outputs] = outputsOf(nets.at(-1) as NamedNet);
  return {
    terabag: 1,
    name: shape.name,
    version: String(shape.seed),
    dense: denseFeatures(shape),
    tables: tablesOf(shape).map(({ name, rows, dim, format }) => ({
      name,
      rows,
      dim,
      format,
      file: `tables/${name}.safetensors`,
      tensor: 'weight',
    })),
    nets: nets.map((net, n) => ({ name: net.shape.name, layers: netLayers(net, n === nets.length - 1 ? 'sigmoid' : 'relu') })),
    output,
    ...(outputs.length > 0 && { outputs }),
  };
}

/** The one dense feature, if the shape has it. */
export const denseFeatures = ({ denseDim }: ModelShape): { readonly name: string; readonly dim: number }[] =>
  denseDim === 0 ? [] : [{ name: 'dense', dim: denseDim }];
