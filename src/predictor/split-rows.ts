import type { ResolvedBag } from '../model/graph.js';
import { rowAt } from './ids.js';
import type { CheckedBags } from './request.js';
import type { Scratch } from './scratch.js';

/**
 * The ids of a row-wise table by parts: row r belongs to part r mod parts, as local row floor(r / parts). Part p has rows[rowStarts[p] ..
 * rowStarts[p + 1]), the weights at the same places, and, of the bags that have ids on it, their numbers and lengths from bagStarts[p] on.
 */
export interface SplitRows {
  readonly rows: Float64Array;
  readonly weights: Float32Array | null;
  readonly rowStarts: Uint32Array;
  readonly bags: Uint32Array;
  readonly lengths: Uint32Array;
  readonly bagStarts: Uint32Array;
}

/** Checks the ids of a layer and sorts them by parts. Two walks: how much each part gets, then each to its place. key names its buffers. */
export function splitRows(bag: ResolvedBag, input: CheckedBags, parts: number, scratch: Scratch, key: string): SplitRows {
  const { offsets, weights, indices } = input.input;
  const rowStarts = scratch.u32(`rowStarts${key}`, parts + 1).fill(0);
  const bagStarts = scratch.u32(`bagStarts${key}`, parts + 1).fill(0);
  // The last bag that had an id on each part, plus one.
  const last = scratch.u32('lastBag', parts).fill(0);
  for (let b = 0; b < input.numBags; b++) {
    for (let position = offsets[b] as number; position < (offsets[b + 1] as number); position++) {
      const part = rowAt(bag, input, position) % parts;
      rowStarts[part + 1] = (rowStarts[part + 1] as number) + 1;
      if (last[part] !== b + 1) bagStarts[part + 1] = (bagStarts[part + 1] as number) + 1;
      last[part] = b + 1;
    }
  }
  for (let part = 0; part < parts; part++) {
    rowStarts[part + 1] = (rowStarts[part + 1] as number) + (rowStarts[part] as number);
    bagStarts[part + 1] = (bagStarts[part + 1] as number) + (bagStarts[part] as number);
  }
  const split: SplitRows = {
    rows: scratch.f64(`rows${key}`, indices.length),
    weights: weights === undefined ? null : scratch.f32(`rowWeights${key}`, indices.length),
    rowStarts,
    bags: scratch.u32(`sentBags${key}`, bagStarts[parts] as number),
    lengths: scratch.u32(`sentLengths${key}`, bagStarts[parts] as number).fill(0),
    bagStarts,
  };
  const nextRow = scratch.u32('nextRow', parts);
  nextRow.set(rowStarts.subarray(0, parts));
  // One past the bag that is being written, which starts with the first id.
  const nextBag = scratch.u32('nextBag', parts);
  nextBag.set(bagStarts.subarray(0, parts));
  last.fill(0);
  for (let b = 0; b < input.numBags; b++) {
    for (let position = offsets[b] as number; position < (offsets[b + 1] as number); position++) {
      const row = Number(indices[position]);
      const part = row % parts;
      if (last[part] !== b + 1) {
        split.bags[nextBag[part] as number] = b;
        nextBag[part] = (nextBag[part] as number) + 1;
        last[part] = b + 1;
      }
      const at = nextRow[part] as number;
      nextRow[part] = at + 1;
      split.rows[at] = Math.floor(row / parts);
      if (split.weights !== null) split.weights[at] = weights?.[position] as number;
      const sent = (nextBag[part] as number) - 1;
      split.lengths[sent] = (split.lengths[sent] as number) + 1;
    }
  }
  return split;
}
