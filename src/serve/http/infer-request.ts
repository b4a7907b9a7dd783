import { TerabagError } from '../../errors.js';
import { datatypeOf, rawTensor, valuesOfShape } from '../tensors/raw-tensor.js';
import type { Tensor } from '../tensors/tensor.js';
import { parseExactJson } from './exact-json.js';
import { aBooleanAt, aCountAt, anArrayAt, anObjectAt, aStringAt, has, inside, type JsonObject, optional, required } from './json-fields.js';

/** An inference request of the REST protocol with the binary tensor data extension, read. */
export interface InferRequest {
  readonly id: string;
  readonly tensors: readonly Tensor[];
  readonly outputs: readonly AskedOutput[];
  readonly parameters: Parameters;
}

export interface AskedOutput {
  readonly name: string;
  readonly binary: boolean;
}

/** Of a request as a whole. Others are passed over. */
export interface Parameters {
  /** Microseconds from the arrival of the request; 0: none. */
  readonly timeout: number | undefined;
  /** 0: none; 1 is the highest. */
  readonly priority: number | undefined;
  /** N, where no input tells it. */
  readonly items: number | undefined;
  readonly binary_data_output: boolean | undefined;
  /** Whether Server-Timing is asked for. */
  readonly timing: boolean | undefined;
}

/**
 * Reads a body: JSON, and where headerLength is not null, that many bytes of JSON and then the binary tensors in the order of the inputs. Binary values
 * stay where they lie. Throws invalid_argument that names the field or the tensor, and unsupported.
 */
export function readInferRequest(body: Buffer, headerLength: number | null): InferRequest {
  if (headerLength !== null && headerLength > body.length)
    throw invalid('Inference-Header-Content-Length', `is ${headerLength}, and the body has ${body.length} bytes`);
  const request = anObjectAt(ROOT, parseExactJson(body.toString('utf8', 0, headerLength ?? body.length)));
  const id = optional(aStringAt, ROOT, request, 'id') ?? '';
  const parameters = parametersOf(optional(anObjectAt, ROOT, request, 'parameters') ?? {});
  let at = headerLength ?? body.length;
  const tensors = required(anArrayAt, ROOT, request, 'inputs').map((given, n): Tensor => {
    const input = inputAt(inside(INPUTS, n), given);
    const { name, size } = input;
    if (size === undefined) return jsonTensor(input);
    if (headerLength === null && size > 0)
      throw invalid(name, 'has binary_data_size, which needs the header Inference-Header-Content-Length', 'input ');
    if (size > body.length - at) throw invalid(name, `has binary_data_size ${size}, and the body has ${body.length - at} more`, 'input ');
    if (Array.isArray(input.data) && input.data.length > 0) throw invalid(name, 'has both data and binary_data_size', 'input ');
    const bytes = body.subarray(at, at + size);
    at += size;
    return rawTensor(name, datatypeOf(name, input.datatype), input.shape as number[], bytes);
  });
  if (at < body.length) throw invalid('body', `has ${body.length - at} bytes beyond those of its tensors`);
  const { binary_data_output: binaryOutput = false } = parameters;
  const outputs = (optional(anArrayAt, ROOT, request, 'outputs') ?? []).map((given, n) =>
    outputAt(inside(OUTPUTS, n), given, binaryOutput),
  );
  return { id, tensors, outputs, parameters };
}

const ROOT = (): string => '';
const PARAMETERS = inside(ROOT, 'parameters');
const INPUTS = inside(ROOT, 'inputs');
const OUTPUTS = inside(ROOT, 'outputs');

const parametersOf = (given: JsonObject): Parameters => ({
  timeout: optional(aCountAt, PARAMETERS, given, 'timeout'),
  priority: optional(aCountAt, PARAMETERS, given, 'priority'),
  items: optional(aCountAt, PARAMETERS, given, 'items'),
  binary_data_output: optional(aBooleanAt, PARAMETERS, given, 'binary_data_output'),
  timing: optional(aBooleanAt, PARAMETERS, given, 'timing'),
});

interface Input {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly unknown[];
  /** Bytes in the binary part; undefined: data is JSON. */
  readonly size: number | undefined;
  readonly data: unknown;
}

function inputAt(place: () => string, value: unknown): Input {
  const given = anObjectAt(place, value);
  const name = required(aStringAt, place, given, 'name');
  const parameters = optional(anObjectAt, place, given, 'parameters');
  if (has(parameters, 'shared_memory_region')) throw unsupported(`input ${name}: shared memory`, name);
  return {
    name,
    datatype: required(aStringAt, place, given, 'datatype'),
    shape: required(anArrayAt, place, given, 'shape'),
    size: parameters && optional(aCountAt, inside(place, 'parameters'), parameters, 'binary_data_size'),
    data: has(given, 'data') ? given['data'] : undefined,
  };
}

function outputAt(place: () => string, value: unknown, binaryOutput: boolean): AskedOutput {
  const given = anObjectAt(place, value);
  const name = required(aStringAt, place, given, 'name');
  const parameters = optional(anObjectAt, place, given, 'parameters');
  if (has(parameters, 'classification')) throw unsupported(`output ${name}: classification`, name);
  if (has(parameters, 'shared_memory_region')) throw unsupported(`output ${name}: shared memory`, name);
  const binary = parameters && optional(aBooleanAt, inside(place, 'parameters'), parameters, 'binary_data');
  return { name, binary: binary ?? binaryOutput };
}

function jsonTensor({ name, datatype: given, shape, data }: Input): Tensor {
  const datatype = datatypeOf(name, given);
  const values = valuesOfShape(name, shape);
  if (!Array.isArray(data) && !(values === 0 && data === undefined))
    throw invalid(name, 'needs data, an array, or the parameter binary_data_size', 'input ');
  const flat = Array.isArray(data) ? flattened(name, data, values) : [];
  if (flat.length !== values)
    throw invalid(name, `has ${flat.length} values, and [${shape.slice(0, 8).join(', ')}] takes ${values}`, 'input ');
  return { name, datatype, shape: shape as number[], data: datatype === 'FP32' ? flat.map(Number) : flat };
}

/** Of rows in rows, or of a flat list, both of which the protocol allows. More than most values are not collected. */
function flattened(name: string, data: readonly unknown[], most: number): (number | string)[] {
  const flat: (number | string)[] = [];
  const collect = (entries: readonly unknown[], depth: number): void => {
    if (depth > MOST_DIMS) throw invalid(name, `has data nested deeper than ${MOST_DIMS}`, 'input ');
    for (const entry of entries) {
      if (Array.isArray(entry)) collect(entry, depth + 1);
      else if (typeof entry === 'number' || isDigits(entry)) flat.push(entry);
      else throw invalid(name, `has to have numbers as data: position ${flat.length}, ${entry === null ? 'null' : typeof entry}`, 'input ');
      if (flat.length > most) throw invalid(name, `has more than the ${most} values of its shape`, 'input ');
    }
  };
  collect(data, 1);
  return flat;
}

const MOST_DIMS = 8;
const isDigits = (entry: unknown): entry is string => typeof entry === 'string' && /^-?\d{1,20}$/.test(entry);

const invalid = (field: string, message: string, prefix = ''): TerabagError =>
  new TerabagError('invalid_argument', `${prefix}${field} ${message}`, { field });

const unsupported = (what: string, field: string): TerabagError =>
  new TerabagError('unsupported', `${what} is not supported; send values in the body`, { field });
