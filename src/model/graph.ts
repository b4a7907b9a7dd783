import { TerabagError } from '../errors.js';
import { badModel as bad } from './bad-model.js';
import { type BagRule, type IdRule, idRules } from './id-rules.js';
import type { LayerContext, Reads, Value } from './layer-type.js';
import { type EmbeddingBagSpec, type EmbeddingSequenceSpec, layerTypeOf } from './layers.js';
import type { OnnxSignature } from './onnx/onnx-file.js';
import { type ResolvedOnnx, resolveOnnx } from './onnx/resolve-onnx.js';
import { NO_ATTRIBUTES, type Op, type OpAttributes } from './ops.js';
import type { Pooling } from './pooling.js';
import type { ModelSpec } from './spec.js';

/** A model whose names are resolved. Values are numbered: dense features, then bags, then the other layers, each in order. */
export interface ResolvedModel {
  readonly dense: readonly { readonly name: string; readonly dim: number }[];
  readonly bags: readonly ResolvedBag[];
  readonly layers: readonly ResolvedLayer[];
  /** The value that the dense net gives: that of the spec's output, and those of its further outputs behind it. */
  readonly output: number;
  /** Of the spec's output. */
  readonly outputDim: number;
  /** Further outputs; absent when there are none. */
  readonly outputs?: readonly ResolvedOutput[];
  /** What gives the scores in place of layers, of which there are none then. */
  readonly onnx?: ResolvedOnnx;
}

export interface ResolvedOutput {
  readonly name: string;
  readonly dim: number;
}

/** Values of a row that the dense net gives. */
export const returnedDim = ({ outputDim, outputs = [] }: Pick<ResolvedModel, 'outputDim' | 'outputs'>): number =>
  outputs.reduce((sum, { dim }) => sum + dim, outputDim);

export interface ResolvedBag {
  readonly name: string;
  /** Index in the spec's tables. */
  readonly table: number;
  readonly tableName: string;
  readonly dim: number;
  readonly rows: number;
  /** Whether ids are keys of an index, any 64 bits; left out: they are rows. */
  readonly keyed?: boolean;
  /** sum of a sequence, which is not pooled. */
  readonly pooling: Pooling;
  readonly weighted: boolean;
  /** What becomes of its ids. */
  readonly rule: BagRule;
  /** Whether ids may be left out where their rows are found, so that only a shard knows how many of a bag are pooled. */
  readonly leavesOut: boolean;
  /** Only of a sequence: how many positions it has at most, and which ids are kept of more. */
  readonly maxLength?: number;
  readonly truncate?: 'first' | 'last';
  /** Position of its net in the spec. */
  readonly net: number;
}

export interface ResolvedLayer extends OpAttributes {
  readonly name: string;
  readonly op: Op;
  readonly inputs: readonly number[];
  readonly dim: number;
  /** 0 when no embedding is needed; else n + 1 when those of nets up to net n are, counted from 0. */
  readonly stage: number;
}

/** Checks names, references and dims. shapes are those of dense.safetensors; signature is that of the file that spec.onnx names, if it does. */
export function resolveModel(
  spec: ModelSpec,
  shapes: ReadonlyMap<string, readonly number[]>,
  signature: OnnxSignature | null = null,
): ResolvedModel {
  const placed = spec.nets.flatMap((net, n) => net.layers.map((layer, l) => ({ layer, net: n, path: `nets[${n}].layers[${l}]` })));
  const tables = new Map(spec.tables.map((table, index) => [table.name, { table, index }]));
  if (tables.size !== spec.tables.length) throw bad('tables', 'table names have to differ');
  const rules = idRules(spec).ofBags.values();
  const bags: ResolvedBag[] = placed.flatMap(({ layer, net, path }) => {
    if (!readsIds(layer)) return [];
    const found = tables.get(layer.table);
    if (found === undefined) throw bad(`${path}.table`, `no such table: ${layer.table}`);
    const { dim, rows } = found.table;
    const how =
      layer.type === 'embedding_bag'
        ? { pooling: layer.pooling, weighted: layer.weighted }
        : { pooling: 'sum' as const, weighted: false, maxLength: layer.maxLength, truncate: layer.truncate ?? 'last' };
    if (how.pooling === 'weighted_mean' && !how.weighted) throw bad(`${path}.pooling`, 'weighted_mean needs weighted: true');
    const rule = rules.next().value as BagRule;
    const keyed = found.table.keys !== undefined;
    // Of other bags main leaves out itself what is to be where a table is split: it looks at each id.
    const leavesOut = (layer.type === 'embedding_sequence' || keyed) && mayLeaveOut(rule);
    return [{ name: layer.name, table: found.index, tableName: layer.table, dim, rows, keyed, ...how, rule, leavesOut, net }];
  });
  const values = new Map<string, Value>();
  const define = (path: string, name: string, value: Omit<Value, 'number'>): void => {
    if (values.has(name)) throw bad(path, `name is taken: ${name}`);
    values.set(name, { number: values.size, ...value });
  };
  spec.dense.forEach(({ name, dim }, index) => define(`dense[${index}].name`, name, { dim, stage: 0, positions: 0, appended: 0 }));
  const bagPaths = placed.filter(({ layer }) => readsIds(layer)).map(({ path }) => path);
  bags.forEach(({ name, dim, net, maxLength }, index) =>
    define(`${bagPaths[index]}.name`, name, { dim, stage: net + 1, positions: maxLength ?? 0, appended: 0 }),
  );
  if (spec.onnx !== undefined) {
    const beside = placed.find(({ layer }) => !readsIds(layer));
    if (beside !== undefined)
      throw bad(`${beside.path}.type`, `no dense layer beside onnx, which is the whole dense part: ${beside.layer.type}`);
    const onnx = resolveOnnx(spec.onnx, spec, values, signature as OnnxSignature);
    const [first, ...further] = onnx.outputs;
    const outputs = spec.outputs && { outputs: further.map(({ layer, dim }) => ({ name: layer, dim })) };
    return { dense: spec.dense, bags, layers: [], output: values.size, outputDim: first?.dim ?? 0, onnx, ...outputs };
  }
  const layers: ResolvedLayer[] = [];
  for (const { layer, net, path } of placed) {
    if (readsIds(layer)) continue;
    const type = layerTypeOf(layer);
    const inputs = type.inputs(layer).map((name) => {
      const value = values.get(name);
      if (value === undefined) throw bad(path, `reads a value that no dense feature and no earlier layer gives: ${name}`);
      // Layers of later nets are not there yet; bags all are.
      if (value.stage > net + 1) {
        const later = spec.nets[value.stage - 1]?.name ?? '';
        const what = `layer ${layer.name} of net ${spec.nets[net]?.name} reads a bag of a later net: ${name}, net ${later}`;
        throw new TerabagError('bad_model', `model.json: ${path}: ${what}`, { path, layer: layer.name, bag: name });
      }
      return value;
    });
    const stage = Math.max(...inputs.map((input) => input.stage));
    const context = contextOf(path, inputs, shapes);
    checkKinds(type.reads, context);
    const steps = type.steps(layer, context);
    for (const [at, { name, inputs: read, ...rest }] of steps.entries()) {
      const numbers = read.map((input) => (typeof input === 'number' ? values.size - input : input.number));
      // What is applied row by row gives a sequence when it reads one.
      const { positions = type.reads === 'rows' ? context.positions : 0 } = rest;
      layers.push({ ...NO_ATTRIBUTES, ...rest, name, inputs: numbers, stage, positions });
      const appended = positions === 0 ? 0 : (inputs[0]?.appended ?? 0) + positions - context.positions;
      // Steps that nobody may read get a name that nobody can write.
      define(`${path}.name`, at === steps.length - 1 ? name : `${name}\0`, { dim: rest.dim, stage, positions, appended });
    }
  }
  const returned = (path: string, name: string): Value => {
    const value = values.get(name);
    if (value === undefined || value.number < spec.dense.length + bags.length)
      throw bad(path, `has to name a layer that is no embedding bag: ${name}`);
    if (value.positions > 0) throw bad(path, `has to be a vector, not a sequence: ${name}`);
    return value;
  };
  const output = returned('output', spec.output);
  const model = { dense: spec.dense, bags, layers, output: output.number, outputDim: output.dim };
  if (spec.outputs === undefined) return model;
  const further = spec.outputs.map((name, at) => {
    const path = `outputs[${at}]`;
    if (name === spec.output || spec.outputs?.indexOf(name) !== at) throw bad(path, `is returned already: ${name}`);
    return returned(path, name);
  });
  const all = [output, ...further];
  layers.push({
    ...NO_ATTRIBUTES,
    ...{ name: `${spec.output}\0`, op: 'concat', inputs: all.map(({ number }) => number) },
    ...{ dim: all.reduce((sum, { dim }) => sum + dim, 0), stage: Math.max(...all.map(({ stage }) => stage)) },
  });
  const outputs = further.map(({ dim }, at) => ({ name: spec.outputs?.[at] as string, dim }));
  return { ...model, output: values.size, outputs };
}

/**
 * The model with its layers in fewer stages, which are as many calls of the dense net: all in one (when nothing is waited for), or in two
 * (what needs no embeddings, then the rest).
 */
export function inStages(model: ResolvedModel, stages: 1 | 2): ResolvedModel {
  return { ...model, layers: model.layers.map((layer) => ({ ...layer, stage: stages === 1 ? 1 : Math.min(1, layer.stage) })) };
}

/** Whether a layer reads ids of the request: all others belong to the dense net. */
const readsIds = (layer: ModelSpec['nets'][number]['layers'][number]): layer is EmbeddingBagSpec | EmbeddingSequenceSpec =>
  layer.type === 'embedding_bag' || layer.type === 'embedding_sequence';

const mayLeaveOut = ({ policy, paddingId }: IdRule): boolean => policy === 'skip' || paddingId !== null;

function checkKinds(reads: Reads, { inputs, refuse }: LayerContext): void {
  const kinds = inputs.map(({ positions }) => (positions === 0 ? 'a vector' : `a sequence of ${positions}`)).join(', ');
  const [first, ...rest] = inputs;
  if (reads === 'vectors' && inputs.some(({ positions }) => positions > 0)) throw refuse(`reads vectors only: ${kinds}`);
  if (reads === 'sequence' && (first?.positions === 0 || rest.some(({ positions }) => positions > 0)))
    throw refuse(`reads a sequence${rest.length > 0 ? ' and a vector' : ''}: ${kinds}`);
  const alike = rest.every(({ positions, appended }) => positions === first?.positions && appended === first.appended);
  if (reads === 'rows' && !alike) throw refuse(`reads vectors, or sequences of one length: ${kinds}`);
  if (reads === 'sequences' && (first?.positions === 0 || !alike)) throw refuse(`reads sequences of one length: ${kinds}`);
}

/** path: of the layer; shapes: those of dense.safetensors. */
function contextOf(path: string, inputs: readonly Value[], shapes: ReadonlyMap<string, readonly number[]>): LayerContext {
  const { dim = 0, positions = 0 } = inputs[0] ?? {};
  const refuse: LayerContext['refuse'] = (what, key) => bad(key === undefined ? path : `${path}.${key}`, what);
  const wrongShape = (key: string, tensor: string, wanted: string): TerabagError =>
    refuse(`${tensor} has to be [${wanted}] in dense.safetensors: ${shapes.get(tensor)?.join('x') ?? 'missing'}`, key);
  return {
    inputs,
    dim,
    positions,
    refuse,
    sameDims: () => {
      if (inputs.some((input) => input.dim !== dim))
        throw refuse(`have to be of one dim: ${inputs.map((input) => input.dim).join(', ')}`, 'inputs');
    },
    matrix: (key, tensor, columns, rows) => {
      const shape = shapes.get(tensor);
      const [out = 0, width] = shape ?? [];
      if (shape?.length !== 2 || out < 1 || width !== columns || (rows !== undefined && out !== rows))
        throw wrongShape(key, tensor, `${rows ?? 'out'}, ${columns}`);
      return out;
    },
    vector: (key, tensor, ...lengths) => {
      if (tensor === null) return;
      const shape = shapes.get(tensor);
      if (shape?.length !== 1 || !lengths.includes(shape[0] as number)) throw wrongShape(key, tensor, lengths.join('] or ['));
    },
  };
}
