import type { BagsInput, Prediction, PredictRequest } from '../../../src/index.js';

/** A tensor as JSON carries it: integers of 64 bits are strings where a double has not their value. */
export interface JsonTensor {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
  readonly data: readonly (number | string)[];
}

/** How the bags of a request are named: lengths or offsets, names of Terabag or of NVIDIA Merlin, or the ids alone where all bags are of one length. */
export type Form = 'lengths' | 'offsets' | 'merlin' | 'short';

const jsonOf = (value: number | bigint | string): number | string => {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : String(value);
};

const integers = (name: string, datatype: string, values: ArrayLike<number | bigint | string>, shape?: readonly number[]): JsonTensor => ({
  name,
  datatype,
  shape: shape ?? [values.length],
  data: Array.from(values, jsonOf),
});

const floats = (name: string, values: ArrayLike<number>, shape: readonly number[]): JsonTensor => ({
  name,
  datatype: 'FP32',
  shape,
  data: Array.from(values),
});

function bagTensors(name: string, bags: BagsInput, form: Form, datatype: string): JsonTensor[] {
  const { indices, offsets, weights } = bags;
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

/** A request as named tensors. datatype: of ids. */
export function tensorsOf(
  request: PredictRequest,
  dims: ReadonlyMap<string, number>,
  { form = 'lengths', datatype = 'INT64' }: { readonly form?: Form; readonly datatype?: string } = {},
): JsonTensor[] {
  const dense = Object.entries(request.dense).map(([name, values]) => {
    const dim = dims.get(name) as number;
    return floats(name, values, [values.length / dim, dim]);
  });
  return [...dense, ...Object.entries(request.sparse).flatMap(([name, bags]) => bagTensors(name, bags, form, datatype))];
}

/** What the API answers, as the tensors that a client has to get. */
export function outputsOf({ scores, items, scoreDim, outputs = {} }: Prediction): JsonTensor[] {
  return [
    floats('scores', scores, [items, scoreDim]),
    ...Object.entries(outputs).map(([name, values]) => floats(name, values, [items, values.length / items])),
  ];
}
