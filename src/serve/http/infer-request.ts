import { z } from 'zod';
import { TerabagError } from '../../errors.js';
import { datatypeOf, rawTensor, valuesOfShape } from '../tensors/raw-tensor.js';
import type { Tensor } from '../tensors/tensor.js';
import { parseExactJson } from './exact-json.js';

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

export type Parameters = z.output<typeof parametersSchema>;

/** null stands for what a client leaves out. */
const optional = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? undefined);
/** Of numbers in words, as some clients write them, too. */
const count = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

const parametersSchema = z.looseObject({
  /** Microseconds from the arrival of the request; 0: none. */
  timeout: optional(count),
  /** 0: none; 1 is the highest. */
  priority: optional(count),
  /** N, where no input tells it. */
  items: optional(count),
  binary_data_output: optional(z.boolean()),
  /** Whether Server-Timing is asked for. */
  timing: optional(z.boolean()),
});

const NO_PARAMETERS: Parameters = {
  ...{ timeout: undefined, priority: undefined, items: undefined, binary_data_output: undefined, timing: undefined },
};

const inputSchema = z.looseObject({
  name: z.string(),
  shape: z.array(z.unknown()),
  datatype: z.string(),
  parameters: optional(z.looseObject({ binary_data_size: optional(count), shared_memory_region: z.unknown().optional() })),
  data: z.unknown().optional(),
});

const outputSchema = z.looseObject({
  name: z.string(),
  parameters: optional(
    z.looseObject({
      binary_data: optional(z.boolean()),
      classification: z.unknown().optional(),
      shared_memory_region: z.unknown().optional(),
    }),
  ),
});

const requestSchema = z.looseObject({
  id: optional(z.string()),
  parameters: optional(parametersSchema),
  inputs: z.array(inputSchema),
  outputs: optional(z.array(outputSchema)),
});

/**
 * Reads a body: JSON, and where headerLength is not null, that many bytes of JSON and then the binary tensors in the order of the inputs. Binary values
 * stay where they lie. Throws invalid_argument that names the field or the tensor, and unsupported.
 */
export function readInferRequest(body: Buffer, headerLength: number | null): InferRequest {
  if (headerLength !== null && headerLength > body.length)
    throw invalid('Inference-Header-Content-Length', `is ${headerLength}, and the body has ${body.length} bytes`);
  const json = body.toString('utf8', 0, headerLength ?? body.length);
  const { id = '', inputs, outputs = [], parameters = NO_PARAMETERS } = parsed(parseExactJson(json));
  let at = headerLength ?? body.length;
  const tensors = inputs.map((input): Tensor => {
    const size = input.parameters?.binary_data_size;
    if ((input.parameters?.shared_memory_region ?? undefined) !== undefined)
      throw unsupported(`input ${input.name}: shared memory`, input.name);
    if (size === undefined) return jsonTensor(input);
    if (headerLength === null && size > 0)
      throw invalid(input.name, 'has binary_data_size, which needs the header Inference-Header-Content-Length', 'input ');
    if (size > body.length - at)
      throw invalid(input.name, `has binary_data_size ${size}, and the body has ${body.length - at} more`, 'input ');
    if (Array.isArray(input.data) && input.data.length > 0) throw invalid(input.name, 'has both data and binary_data_size', 'input ');
    const bytes = body.subarray(at, at + size);
    at += size;
    return rawTensor(input.name, datatypeOf(input.name, input.datatype), input.shape as number[], bytes);
  });
  if (at < body.length) throw invalid('body', `has ${body.length - at} bytes beyond those of its tensors`);
  const { binary_data_output: binaryOutput = false } = parameters;
  const asked = outputs.map(({ name, parameters: how }): AskedOutput => {
    if ((how?.classification ?? undefined) !== undefined) throw unsupported(`output ${name}: classification`, name);
    if ((how?.shared_memory_region ?? undefined) !== undefined) throw unsupported(`output ${name}: shared memory`, name);
    return { name, binary: how?.binary_data ?? binaryOutput };
  });
  return { id, tensors, outputs: asked, parameters };
}

function parsed(value: unknown): z.output<typeof requestSchema> {
  const { success, data, error } = requestSchema.safeParse(value);
  if (success) return data;
  const [issue] = error.issues;
  const path = issue?.path.join('.') ?? '';
  throw invalid(path === '' ? 'body' : path, issue?.message ?? 'is not an inference request');
}

function jsonTensor({ name, datatype: given, shape, data }: z.output<typeof inputSchema>): Tensor {
  const datatype = datatypeOf(name, given);
  const values = valuesOfShape(name, shape);
  if (!Array.isArray(data) && !(values === 0 && (data === undefined || data === null)))
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
