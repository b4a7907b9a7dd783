import { TerabagError } from '../../errors.js';
import type { Value } from '../layer-type.js';
import type { ModelSpec, OnnxSpec } from '../spec.js';
import type { OnnxSignature, OnnxValue } from './onnx-file.js';

/** The dense part as one ONNX model, its names resolved and held against the file. */
export interface ResolvedOnnx {
  readonly file: string;
  readonly inputs: readonly ResolvedOnnxInput[];
  /** Inputs that get lengths of sequences. */
  readonly lengths: readonly ResolvedOnnxLengths[];
  /** Those that are returned, in this order: the model's output, then its further ones. */
  readonly outputs: readonly ResolvedOnnxOutput[];
  /** Multiply-adds of its weight matrices for one item, for the planner. */
  readonly macs: number;
}

export interface ResolvedOnnxInput {
  readonly name: string;
  /** Number of the value, as layers have it. */
  readonly value: number;
  /** Of a row: [dim], of a sequence [positions, dim]. */
  readonly shape: readonly number[];
  /** The ONNX input takes one row, the user's, whatever the number of items; others have a row per item. */
  readonly oneRow: boolean;
}

export interface ResolvedOnnxLengths {
  readonly name: string;
  /** Number of the sequence's value. */
  readonly value: number;
  readonly oneRow: boolean;
}

export interface ResolvedOnnxOutput {
  readonly name: string;
  /** What model.json's output names. */
  readonly layer: string;
  readonly dim: number;
}

const PATH = 'onnx';

function bad(path: string, what: string): TerabagError {
  return new TerabagError('bad_model', `model.json: ${path}: ${what}`, { path });
}

/** values: dense features, bags and sequences by name. */
export function resolveOnnx(
  spec: OnnxSpec,
  { output, outputs = [] }: Pick<ModelSpec, 'output' | 'outputs'>,
  values: ReadonlyMap<string, Value>,
  signature: OnnxSignature,
): ResolvedOnnx {
  const { inputs, lengths } = resolveInputs(spec, values, signature.inputs);
  const given = new Map(resolveOutputs(spec, values, signature.outputs).map((each) => [each.layer, each]));
  const returned = [output, ...outputs].map((layer, at, all) => {
    const path = at === 0 ? 'output' : `outputs[${at - 1}]`;
    const found = given.get(layer);
    if (found === undefined) throw bad(path, `has to name a layer of onnx.outputs: ${layer}`);
    if (all.indexOf(layer) !== at) throw bad(path, `is returned already: ${layer}`);
    return found;
  });
  return { file: spec.file, inputs, lengths, outputs: returned, macs: signature.macs };
}

function resolveInputs(
  spec: OnnxSpec,
  values: ReadonlyMap<string, Value>,
  known: readonly OnnxValue[],
): Pick<ResolvedOnnx, 'inputs' | 'lengths'> {
  const given = new Set<string>();
  const inputOf = (name: string, elementType: string, shape: readonly number[], path: string): { name: string; oneRow: boolean } => {
    if (given.has(name)) throw bad(path, `names an input of ${spec.file} again: ${name}`);
    given.add(name);
    const input = find(known, name, 'input', spec, path);
    checkElementType(input, elementType, spec, path);
    return { name, oneRow: takesOneRow(input, shape, spec, path) };
  };
  const inputs: ResolvedOnnxInput[] = [];
  const lengths: ResolvedOnnxLengths[] = [];
  for (const [at, input] of spec.inputs.entries()) {
    const path = `${PATH}.inputs[${at}]`;
    const found = values.get(input.value);
    if (found === undefined) throw bad(`${path}.value`, `no such dense feature, bag or sequence: ${input.value}`);
    const { number: value, dim, positions } = found;
    const shape = positions === 0 ? [dim] : [positions, dim];
    inputs.push({ ...inputOf(input.name, 'float32', shape, `${path}.name`), value, shape });
    if (input.lengths === undefined) continue;
    if (positions === 0) throw bad(`${path}.lengths`, `only a sequence has lengths: ${input.value}`);
    lengths.push({ ...inputOf(input.lengths, 'int64', [], `${path}.lengths`), value });
  }
  const missing = known.filter(({ name }) => !given.has(name)).map(({ name }) => name);
  if (missing.length > 0) throw bad(`${PATH}.inputs`, `has no value for inputs of ${spec.file}: ${missing.join(', ')}`);
  return { inputs, lengths };
}

function resolveOutputs(spec: OnnxSpec, values: ReadonlyMap<string, Value>, known: readonly OnnxValue[]): ResolvedOnnxOutput[] {
  const layers = new Set(values.keys());
  return spec.outputs.map(({ name, layer, dim }, at) => {
    const path = `${PATH}.outputs[${at}]`;
    if (layers.has(layer)) throw bad(`${path}.layer`, `name is taken: ${layer}`);
    layers.add(layer);
    const output = find(known, name, 'output', spec, `${path}.name`);
    checkElementType(output, 'float32', spec, path);
    const { shape } = output;
    if (shape !== null && !(shape.length === 1 && dim === 1)) checkRest(output, shape, [dim], spec, path);
    const rows = shape?.[0] ?? null;
    if (rows !== null)
      throw bad(path, `output ${name} of ${spec.file} has ${rows} rows whatever the items; export it with a dynamic first dim`);
    return { name, layer, dim };
  });
}

function find(known: readonly OnnxValue[], name: string, what: 'input' | 'output', spec: OnnxSpec, path: string): OnnxValue {
  const found = known.find((value) => value.name === name);
  if (found !== undefined) return found;
  throw bad(path, `no such ${what} of ${spec.file}: ${name}; it has ${known.map((value) => value.name).join(', ') || 'none'}`);
}

function checkElementType({ name, elementType }: OnnxValue, expected: string, { file }: OnnxSpec, path: string): void {
  if (elementType !== expected) throw bad(path, `${name} of ${file} has to be ${expected}: ${elementType}`);
}

/** Whether the first dim is fixed to 1. The file may leave dims open; those that it says have to fit. */
function takesOneRow(input: OnnxValue, rest: readonly number[], spec: OnnxSpec, path: string): boolean {
  const { name, shape } = input;
  if (shape === null) return false;
  checkRest(input, shape, rest, spec, path);
  const rows = shape[0] ?? null;
  if (rows !== null && rows !== 1)
    throw bad(
      path,
      `input ${name} of ${spec.file} takes ${rows} rows; its first dim has to be dynamic (a row per item), or 1 (of the user)`,
    );
  return rows === 1;
}

/** The dims after the first. */
function checkRest(
  { name }: OnnxValue,
  shape: readonly (number | null)[],
  rest: readonly number[],
  { file }: OnnxSpec,
  path: string,
): void {
  const fits = shape.length === rest.length + 1 && rest.every((dim, at) => (shape[at + 1] ?? dim) === dim);
  if (fits) return;
  const found = shape.map((dim) => dim ?? '?').join(', ');
  throw bad(path, `${name} of ${file} has to be [${['items', ...rest].join(', ')}]: [${found}]`);
}
