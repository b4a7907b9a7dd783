import { TerabagError } from '../../errors.js';
import type { ResolvedModel } from '../../model/graph.js';
import type { BagsInput, Indices, PredictRequest } from '../../predictor/predictor.js';
import { MAX_ITEMS } from '../../predictor/request.js';
import type { Role, Signature } from './signature.js';
import { isIntegerType, type Tensor } from './tensor.js';

type Parts = Partial<Record<Role, Tensor>>;

const invalid = (tensor: string, message: string): TerabagError =>
  new TerabagError('invalid_argument', `input ${tensor} ${message}`, { field: tensor });

/**
 * The request that named tensors make. Their data is handed on where it lies, without a copy but for lengths, which become offsets. Throws
 * invalid_argument whose field is the tensor: a name that the model does not have, one given twice, a missing one, a wrong datatype or shape.
 * Values are checked by predict.
 */
export function requestOfTensors(model: ResolvedModel, signature: Signature, tensors: readonly Tensor[], items?: number): PredictRequest {
  const parts = partsByFeature(signature, tensors);
  const dense: Record<string, Float32Array | readonly number[]> = Object.create(null);
  for (const { name, dim } of model.dense) dense[name] = denseOf(name, dim, parts.get(`dense:${name}`)?.dense);
  const sparse: Record<string, BagsInput> = Object.create(null);
  for (const { name, keyed } of model.bags) sparse[name] = bagsOf(name, keyed === true, parts.get(`bag:${name}`) ?? {});
  return { dense, sparse, ...(items !== undefined && { items }) };
}

/** A dense feature and a bag may share a name: each has parts of its own. */
function partsByFeature({ places, inputs }: Signature, tensors: readonly Tensor[]): Map<string, Parts> {
  const byFeature = new Map<string, Parts>();
  for (const tensor of tensors) {
    const place = places.get(tensor.name);
    if (place === undefined) throw invalid(tensor.name, `is not of the model; it has ${inputs.map(({ name }) => name).join(', ')}`);
    const feature = `${place.role === 'dense' ? 'dense' : 'bag'}:${place.feature}`;
    const parts = byFeature.get(feature) ?? {};
    const before = parts[place.role];
    if (before) throw invalid(tensor.name, before.name === tensor.name ? 'is given twice' : `says the same as input ${before.name}`);
    parts[place.role] = tensor;
    byFeature.set(feature, parts);
  }
  return byFeature;
}

function denseOf(name: string, dim: number, tensor: Tensor | undefined): Float32Array | readonly number[] {
  if (tensor === undefined) throw invalid(name, `is missing: FP32 [1, ${dim}] of the user, or [items, ${dim}]`);
  requireFloat(tensor);
  const { shape } = tensor;
  // A row of one value, or one row, is also sent without its other dim.
  const fits = shape.length === 2 ? shape[1] === dim : shape.length === 1 && (dim === 1 || shape[0] === dim);
  if (!fits) throw invalid(name, `has to have shape [1, ${dim}] or [items, ${dim}]: [${shape.join(', ')}]`);
  return tensor.data as Float32Array | readonly number[];
}

function bagsOf(feature: string, keyed: boolean, parts: Parts): BagsInput {
  const { values, lengths, offsets, weights, flat } = parts;
  const given = flat ?? values;
  if (given === undefined) throw invalid(`${feature}.values`, 'is missing: INT64 [ids]');
  requireInteger(given);
  const weightsOf = weights && weightsInput(weights, given);
  const bags = (ends: BagsInput['offsets']): BagsInput => ({
    indices: idsOf(given, keyed),
    offsets: ends,
    ...(weightsOf && { weights: weightsOf }),
  });
  if (flat !== undefined) {
    const other = values ?? lengths ?? offsets;
    if (other) throw invalid(other.name, `and input ${flat.name} exclude each other`);
    return bags(offsetsOfRows(flat));
  }
  requireVector(given);
  if (lengths && offsets) throw invalid(offsets.name, `and input ${lengths.name} exclude each other`);
  const bounds = lengths ?? offsets;
  if (bounds === undefined) throw invalid(`${feature}.lengths`, `is missing: INT64 [bags], or ${feature}.offsets [bags + 1]`);
  requireInteger(bounds);
  requireVector(bounds);
  if (lengths) return bags(offsetsOfLengths(lengths, given));
  return bags(bounds.data as BagsInput['offsets']);
}

function requireInteger({ name, datatype }: Tensor): void {
  if (!isIntegerType(datatype)) throw invalid(name, `has to be of datatype INT64, or another integer type: ${datatype}`);
}

function requireFloat({ name, datatype }: Tensor): void {
  if (datatype !== 'FP32') throw invalid(name, `has to be of datatype FP32: ${datatype}`);
}

/** [n], or [n, 1] and [1, n], in which clients with a batch dim send it. */
function requireVector({ name, shape }: Tensor): void {
  const isVector = shape.length === 1 || (shape.length === 2 && (shape[0] === 1 || shape[1] === 1));
  if (!isVector) throw invalid(name, `has to have one dim: [${shape.join(', ')}]`);
}

function weightsInput(weights: Tensor, values: Tensor): Float32Array | readonly number[] {
  requireFloat(weights);
  if (weights.data.length === values.data.length) return weights.data as Float32Array | readonly number[];
  throw invalid(weights.name, `has to have a value for each id of ${values.name}, ${values.data.length}: ${weights.data.length}`);
}

/** Keys are any 64 bits: unsigned ones are the same bits. Unsigned rows beyond 2^63 stay what they are, for predict to refuse by their value. */
function idsOf({ data }: Tensor, keyed: boolean): Indices {
  if (data instanceof BigUint64Array) return keyed ? new BigInt64Array(data.buffer, data.byteOffset, data.length) : signedWhereItFits(data);
  if (data instanceof Int8Array || data instanceof Int16Array) return Int32Array.from(data);
  if (data instanceof Uint8Array || data instanceof Uint16Array) return Uint32Array.from(data);
  return data as Indices;
}

const signedWhereItFits = (data: BigUint64Array): Indices =>
  data.some((id) => id >= 2n ** 63n) ? Array.from(data) : new BigInt64Array(data.buffer, data.byteOffset, data.length);

function offsetsOfRows({ name, shape, data }: Tensor): Uint32Array {
  if (shape.length !== 1 && shape.length !== 2) throw invalid(name, `has to have shape [bags] or [bags, ids]: [${shape.join(', ')}]`);
  const [bags, ids] = [shape[0] as number, shape[1] ?? 1];
  if (bags * ids !== data.length) throw invalid(name, `has ${data.length} values, which is not what [${shape.join(', ')}] holds`);
  // Bags without ids are as many as the shape says.
  if (bags > MAX_ITEMS) throw invalid(name, `has to have at most ${MAX_ITEMS} bags: ${bags}`);
  return Uint32Array.from({ length: bags + 1 }, (_, bag) => bag * ids);
}

function offsetsOfLengths({ name, data }: Tensor, values: Tensor): Uint32Array {
  const offsets = new Uint32Array(data.length + 1);
  let end = 0;
  for (let bag = 0; bag < data.length; bag++) {
    const length = Number(data[bag]);
    if (!Number.isInteger(length) || length < 0) throw invalid(name, `has to hold integers of 0 or more: position ${bag}, ${data[bag]}`);
    end += length;
    if (end > values.data.length) break;
    offsets[bag + 1] = end;
  }
  if (end === values.data.length) return offsets;
  throw invalid(
    name,
    `has to sum up to the ids of ${values.name}, ${values.data.length}: ${end}${end > values.data.length ? ' or more' : ''}`,
  );
}
