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
  readonly net: string;
}

export interface ResolvedLayer {
  readonly name: string;
  readonly op: 'fc' | 'dot_interaction' | 'concat' | 'sum';
  readonly inputs: readonly number[];
  readonly dim: number;
  /** 0 when no embedding is needed, else 1. */
  readonly stage: 0 | 1;
  readonly activation: 'none' | 'relu' | 'sigmoid';
  readonly diagonal: boolean;
  readonly weight: string | null;
  readonly bias: string | null;
}

type DenseLayer = Exclude<LayerSpec, { type: 'embedding_bag' }>;
interface Value {
  readonly number: number;
  readonly dim: number;
  readonly stage: 0 | 1;
}

/** Checks names, references and dims; shapes are those of dense.safetensors. */
export function resolveModel(spec: ModelSpec, shapes: ReadonlyMap<string, readonly number[]>): ResolvedModel {
  const placed = spec.nets.flatMap((net, n) => net.layers.map((layer, l) => ({ layer, net: net.name, path: `nets[${n}].layers[${l}]` })));
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
  const define = (path: string, name: string, dim: number, stage: 0 | 1): void => {
    if (values.has(name)) throw bad(path, `name is taken: ${name}`);
    values.set(name, { number: values.size, dim, stage });
  };
  spec.dense.forEach(({ name, dim }, index) => define(`dense[${index}].name`, name, dim, 0));
  const bagPaths = placed.filter(({ layer }) => layer.type === 'embedding_bag').map(({ path }) => path);
  bags.forEach(({ name, dim }, index) => define(`${bagPaths[index]}.name`, name, dim, 1));
  const layers: ResolvedLayer[] = [];
  for (const { layer, path } of placed) {
    if (layer.type === 'embedding_bag') continue;
    const names = layer.type === 'fc' ? [layer.input] : layer.inputs;
    const inputs = names.map((name) => {
      const value = values.get(name);
      if (value === undefined) throw bad(path, `reads a value that no dense feature and no earlier layer gives: ${name}`);
      return value;
    });
    const dim = outputDim(
      layer,
      inputs.map((input) => input.dim),
      shapes,
      path,
    );
    const stage = inputs.some((input) => input.stage === 1) ? 1 : 0;
    layers.push({
      name: layer.name,
      op: layer.type,
      inputs: inputs.map((input) => input.number),
      dim,
      stage,
      activation: layer.type === 'fc' ? layer.activation : 'none',
      diagonal: layer.type === 'dot_interaction' && layer.diagonal,
      weight: layer.type === 'fc' ? layer.weight : null,
      bias: layer.type === 'fc' ? layer.bias : null,
    });
    define(`${path}.name`, layer.name, dim, stage);
  }
  const output = values.get(spec.output);
  if (output === undefined || output.number < spec.dense.length + bags.length)
    throw bad('output', `has to name a layer that is no embedding bag: ${spec.output}`);
  return { dense: spec.dense, bags, layers, output: output.number, outputDim: output.dim };
}

function bad(path: string, what: string): TerabagError {
  return new TerabagError('bad_model', `model.json: ${path}: ${what}`, { path });
}

function outputDim(layer: DenseLayer, dims: readonly number[], shapes: ReadonlyMap<string, readonly number[]>, path: string): number {
  const [first = 0] = dims;
  switch (layer.type) {
    case 'fc': {
      const shape = shapes.get(layer.weight);
      const [out = 0, width] = shape ?? [];
      if (shape?.length !== 2 || out < 1 || width !== first)
        throw bad(`${path}.weight`, `${layer.weight} has to be [out, ${first}] in dense.safetensors: ${shape?.join('x') ?? 'missing'}`);
      const bias = layer.bias === null ? [out] : shapes.get(layer.bias);
      if (bias?.length !== 1 || bias[0] !== out)
        throw bad(`${path}.bias`, `${layer.bias} has to be [${out}] in dense.safetensors: ${bias?.join('x') ?? 'missing'}`);
      return out;
    }
    case 'dot_interaction':
      if (dims.some((dim) => dim !== first)) throw bad(`${path}.inputs`, `have to be of one dim: ${dims.join(', ')}`);
      return first + (dims.length * (dims.length + (layer.diagonal ? 1 : -1))) / 2;
    case 'concat':
      return dims.reduce((sum, dim) => sum + dim, 0);
    case 'sum':
      if (dims.some((dim) => dim !== first)) throw bad(`${path}.inputs`, `have to be of one dim: ${dims.join(', ')}`);
      return first;
  }
}
