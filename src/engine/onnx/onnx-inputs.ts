import type { OnnxRun, OnnxTask } from './onnx-messages.js';

/** The rows of one value in a run. */
interface Rows {
  readonly values: Float32Array;
  readonly count: number;
}

/** Finds the rows of every value: those of dense features lie one feature after another, and so do those of bags. */
export function rowsOf({ dims, numDense }: Pick<OnnxTask, 'dims' | 'numDense'>, run: OnnxRun): Rows[] {
  let [atDense, atPooled] = [0, 0];
  return dims.map((dim, value) => {
    const count = run.perItem[value] === 1 ? run.items : 1;
    const length = count * dim;
    if (value < numDense) {
      atDense += length;
      return { values: run.dense.subarray(atDense - length, atDense), count };
    }
    atPooled += length;
    return { values: run.pooled.subarray(atPooled - length, atPooled), count };
  });
}

/** Finds the lengths of every sequence's rows, by the number of its value. */
export function lengthsOf({ sequences }: Pick<OnnxTask, 'sequences'>, { perItem, items, lengths }: OnnxRun): Map<number, Uint32Array> {
  const found = new Map<number, Uint32Array>();
  let at = 0;
  for (const value of sequences) {
    const count = perItem[value] === 1 ? items : 1;
    found.set(value, lengths?.subarray(at, at + count) ?? new Uint32Array(count));
    at += count;
  }
  return found;
}

/** One length for each row of the tensor: as many as there are, or the one again and again. */
export function fillLengths(into: BigInt64Array, lengths: Uint32Array): void {
  for (let row = 0; row < into.length; row++) into[row] = BigInt(lengths[lengths.length === 1 ? 0 : row] as number);
}

/** Copies rows into a tensor of `wanted` rows: as many as there are, or the one row again and again. */
export function fillRows(into: Float32Array, { values, count }: Rows, wanted: number): void {
  into.set(values);
  if (count === wanted) return;
  // Doubles what is there.
  for (let filled = values.length; filled < into.length; filled *= 2) into.copyWithin(filled, 0, Math.min(filled, into.length - filled));
}

/** Puts the values of outputs, [items, dim] each, side by side: a row for each item. */
export function placeColumns(
  outputs: readonly { readonly data: ArrayLike<number>; readonly dim: number }[],
  items: number,
  into: Float32Array,
): void {
  const [only] = outputs;
  if (outputs.length === 1 && only !== undefined) {
    into.set(only.data);
    return;
  }
  let at = 0;
  for (let item = 0; item < items; item++)
    for (const { data, dim } of outputs) for (let d = 0; d < dim; d++) into[at++] = data[item * dim + d] as number;
}
