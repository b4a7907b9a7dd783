import type { BagsInput, Prediction, PredictRequest } from '../../../src/index.js';
import type { ClientTensor } from '../../reference/infer-body.js';

/** How the bags of a request are named: lengths or offsets, names of Terabag or of NVIDIA Merlin, or the ids alone where all bags are of one length. */
export type Form = 'lengths' | 'offsets' | 'merlin' | 'short';

const integers = (name: string, datatype: string, values: Iterable<number | bigint | string>, shape?: readonly number[]): ClientTensor => {
  const listed = Array.from(values, (value) => (typeof value === 'string' ? BigInt(value) : value));
  return { name, datatype, shape: shape ?? [listed.length], values: listed };
};

const floats = (name: string, values: Iterable<number>, shape: readonly number[]): ClientTensor => ({
  name,
  datatype: 'FP32',
  shape,
  values: [...values],
});

function bagTensors(name: string, { indices, offsets, weights }: BagsInput, form: Form, datatype: string): ClientTensor[] {
  const ends = Array.from(offsets, Number);
  const lengths = ends.slice(1).map((end, bag) => end - (ends[bag] as number));
  const weighted = weights === undefined ? [] : [floats(`${name}.weights`, weights, [weights.length])];
  const between = form === 'merlin' ? '__' : '.';
  const [length] = lengths;
  if (form === 'short' && length !== undefined && lengths.every((other) => other === length))
    return [integers(name, datatype, indices, length === 1 ? [lengths.length] : [lengths.length, length]), ...weighted];
  const bounds = form === 'offsets' ? integers(`${name}.offsets`, 'INT64', ends) : integers(`${name}${between}lengths`, 'INT32', lengths);
  return [integers(`${name}${between}values`, datatype, indices), bounds, ...weighted];
}

/** A request as named tensors. dims: of dense features. datatype: of ids. */
export function tensorsIn(
  { dense, sparse }: PredictRequest,
  dims: Readonly<Record<string, number>>,
  { form = 'lengths', datatype = 'INT64' }: { readonly form?: Form; readonly datatype?: string } = {},
): ClientTensor[] {
  const groups = Object.entries(dense).map(([name, values]) => {
    const dim = dims[name] as number;
    return floats(name, values, [values.length / dim, dim]);
  });
  return [...groups, ...Object.entries(sparse).flatMap(([name, bags]) => bagTensors(name, bags, form, datatype))];
}

/** What the API answers, as the tensors that a client has to get. */
export function outputsOf({ scores, items, scoreDim, outputs = {} }: Prediction): ClientTensor[] {
  return [
    floats('scores', scores, [items, scoreDim]),
    ...Object.entries(outputs).map(([name, values]) => floats(name, values, [items, values.length / items])),
  ];
}

/** As JSON carries it: integers are strings where a number of JavaScript has not their value. */
export const inJson = ({ values, ...tensor }: ClientTensor): object => ({
  ...tensor,
  data: values.map((value) => (typeof value === 'bigint' && !Number.isSafeInteger(Number(value)) ? String(value) : Number(value))),
});
