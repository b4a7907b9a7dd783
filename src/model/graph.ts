import { TerabagError } from '../errors.js';
import type { LayerSpec, ModelSpec } from './spec.js';

/** A model whose names are resolved. Values are numbered: dense features, then bags, then the other layers, each in order. */
export interface ResolvedModel {
  readonly dense: readonly { readonly name: string; readonly dim: number }[];
  readonly bags: readonly ResolvedBag[];
  readonly layers: readonly ResolvedLayer[];
  readonly output: number;
  readonly outputDim: number;
}

export interface ResolvedBag {
  readonly name: string;
  /** Index in the spec's tables. */
  readonly table: number;
  readonly tableName: string;
  readonly dim: number;
  readonly rows: number;
  readonly pooling: 'sum' | 'mean';
  readonly weighted: boolean;
  /** Position of its net in the spec. */
  readonly net: number;
}

export interface ResolvedLayer {
  readonly name: string;
  readonly op: 'fc' | 'dot_interaction' | 'concat' | 'sum' | 'product' | 'multiply_add' | 'layer_norm';
  readonly inputs: readonly number[];
  readonly dim: number;
  /** 0 when no embedding is needed; else n + 1 when those of nets up to net n are, counted from 0. */
  readonly stage: number;
  readonly activation: 'none' | 'relu' | 'sigmoid';
  readonly diagonal: boolean;
  /** Of a layer norm; else 0. */
  readonly epsilon: number;
  readonly weight: string | null;
  readonly bias: string | null;
}

type DenseLayer = Exclude<LayerSpec, { type: 'embedding_bag' }>;
interface Value {
  readonly number: number;
  readonly dim: number;
  readonly stage: number;
}

/** Checks names, references and dims; shapes are those of dense.safetensors. */
export function resolveModel(spec: ModelSpec, shapes: ReadonlyMap<string, readonly number[]>): ResolvedModel {
  const placed = spec.nets.flatMap((net, n) => net.layers.map((layer, l) => ({ layer, net: n, path: `nets[${n}].layers[${l}]` })));
  const tables = new Map(spec.tables.map((table, index) => [table.name, { table, index }]));
  if (tables.size !== spec.tables.length) throw bad('tables', 'table names have to differ');
  const bags: ResolvedBag[] = placed.flatMap(({ layer, net, path }) => {
    if (layer.type !== 'embedding_bag') return [];
    const found = tables.get(layer.table);
    if (found === undefined) throw bad(`${path}.table`, `no such table: ${layer.table}`);
    const { dim, rows } = found.table;
    return [
      { name: layer.name, table: found.index, tableName: layer.table, dim, rows, pooling: layer.pooling, weighted: layer.weighted, net },
    ];
  });
  const values = new Map<string, Value>();
  const define = (path: string, name: string, dim: number, stage: number): void => {
    if (values.has(name)) throw bad(path, `name is taken: ${name}`);
    values.set(name, { number: values.size, dim, stage });
  };
  spec.dense.forEach(({ name, dim }, index) => define(`dense[${index}].name`, name, dim, 0));
  const bagPaths = placed.filter(({ layer }) => layer.type === 'embedding_bag').map(({ path }) => path);
  bags.forEach(({ name, dim, net }, index) => define(`${bagPaths[index]}.name`, name, dim, net + 1));
  const layers: ResolvedLayer[] = [];
  for (const { layer, path } of placed) {
    if (layer.type === 'embedding_bag') continue;
    const inputs = inputNames(layer).map((name) => {
      const value = values.get(name);
      if (value === undefined) throw bad(path, `reads a value that no dense feature and no earlier layer gives: ${name}`);
      return value;
    });
    const stage = Math.max(...inputs.map((input) => input.stage));
    const parts = partsOf(layer, inputs, shapes, path);
    for (const [part, { name, inputs: read, ...rest }] of parts.entries()) {
      const numbers = read.map((input) => (typeof input === 'number' ? values.size - input : input.number));
      const last = part === parts.length - 1;
      layers.push({ ...PLAIN, ...rest, name, inputs: numbers, stage });
      // Parts that nobody may read get a name that nobody can write.
      define(`${path}.name`, last ? name : `${name}\0`, rest.dim, stage);
    }
  }
  const output = values.get(spec.output);
  if (output === undefined || output.number < spec.dense.length + bags.length)
    throw bad('output', `has to name a layer that is no embedding bag: ${spec.output}`);
  return { dense: spec.dense, bags, layers, output: output.number, outputDim: output.dim };
}

/**
 * The model with its layers in fewer stages, which are as many calls of the dense net: all in one (when nothing is waited for), or in two
 * (what needs no embeddings, then the rest).
 */
export function inStages(model: ResolvedModel, stages: 1 | 2): ResolvedModel {
  return { ...model, layers: model.layers.map((layer) => ({ ...layer, stage: stages === 1 ? 1 : Math.min(1, layer.stage) })) };
}

function bad(path: string, what: string): TerabagError {
  return new TerabagError('bad_model', `model.json: ${path}: ${what}`, { path });
}

const PLAIN = { activation: 'none', diagonal: false, epsilon: 0, weight: null, bias: null } as const;

function inputNames(layer: DenseLayer): readonly string[] {
  return layer.type === 'fc' || layer.type === 'layer_norm' ? [layer.input] : layer.inputs;
}

/** A step of a layer. Its inputs are values, or numbers: 1 is the step before it, 2 the one before that. */
interface Part extends Partial<Omit<ResolvedLayer, 'inputs' | 'stage'>> {
  readonly name: string;
  readonly op: ResolvedLayer['op'];
  readonly dim: number;
  readonly inputs: readonly (Value | number)[];
}

/** The layer as the engine runs it; a cross layer is several steps. */
function partsOf(layer: DenseLayer, inputs: readonly Value[], shapes: ReadonlyMap<string, readonly number[]>, path: string): Part[] {
  const [first = { number: 0, dim: 0, stage: 0 }] = inputs;
  const { name } = layer;
  const alike = (): void => {
    if (inputs.some(({ dim }) => dim !== first.dim))
      throw bad(`${path}.inputs`, `have to be of one dim: ${inputs.map(({ dim }) => dim).join(', ')}`);
  };
  const matrix = (key: string, tensor: string, columns: number, rows?: number): number => {
    const shape = shapes.get(tensor);
    const [out = 0, width] = shape ?? [];
    if (shape?.length !== 2 || out < 1 || width !== columns || (rows !== undefined && out !== rows))
      throw bad(
        `${path}.${key}`,
        `${tensor} has to be [${rows ?? 'out'}, ${columns}] in dense.safetensors: ${shape?.join('x') ?? 'missing'}`,
      );
    return out;
  };
  const vector = (key: string, tensor: string | null, length: number): void => {
    const shape = tensor === null ? [length] : shapes.get(tensor);
    if (shape?.length !== 1 || shape[0] !== length)
      throw bad(`${path}.${key}`, `${tensor} has to be [${length}] in dense.safetensors: ${shape?.join('x') ?? 'missing'}`);
  };
  switch (layer.type) {
    case 'fc': {
      const { weight, bias, activation } = layer;
      const dim = matrix('weight', weight, first.dim);
      vector('bias', bias, dim);
      return [{ name, op: 'fc', dim, inputs, weight, bias, activation }];
    }
    case 'dot_interaction':
      alike();
      return [
        {
          name,
          op: layer.type,
          dim: first.dim + (inputs.length * (inputs.length + (layer.diagonal ? 1 : -1))) / 2,
          inputs,
          diagonal: layer.diagonal,
        },
      ];
    case 'concat':
      return [{ name, op: layer.type, dim: inputs.reduce((sum, { dim }) => sum + dim, 0), inputs }];
    case 'sum':
    case 'product':
      alike();
      return [{ name, op: layer.type, dim: first.dim, inputs }];
    case 'layer_norm': {
      const { weight, bias, epsilon } = layer;
      vector('weight', weight, first.dim);
      vector('bias', bias, first.dim);
      return [{ name, op: layer.type, dim: first.dim, inputs, weight, bias, epsilon }];
    }
    case 'cross': {
      alike();
      const { dim } = first;
      const [x0, x] = inputs as [Value, Value];
      const { weight, weightU, weightV, bias } = layer;
      vector('bias', bias, dim);
      const last: Part = { name, op: 'multiply_add', dim, inputs: [x0, 1, x] };
      if (weight !== null && weightU === null && weightV === null) {
        matrix('weight', weight, dim, dim);
        return [{ name, op: 'fc', dim, inputs: [x], weight, bias }, last];
      }
      if (weight !== null || weightU === null || weightV === null) throw bad(path, 'needs either weight, or weightU and weightV');
      const rank = matrix('weightV', weightV, dim);
      matrix('weightU', weightU, rank, dim);
      return [
        { name: `${name}\0v`, op: 'fc', dim: rank, inputs: [x], weight: weightV },
        { name, op: 'fc', dim, inputs: [1], weight: weightU, bias },
        last,
      ];
    }
  }
}
