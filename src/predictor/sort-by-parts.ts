import type { CheckedBags } from './request.js';
import type { Scratch } from './scratch.js';

/** In place of a part: the id is left out. */
export const LEFT_OUT = -1;

/** Part p has places rowStarts[p] to rowStarts[p + 1], and of the bags that have ids on it the numbers and lengths from bagStarts[p] on. */
export interface SortedByParts {
  readonly rowStarts: Uint32Array;
  readonly bags: Uint32Array;
  readonly lengths: Uint32Array;
  readonly bagStarts: Uint32Array;
}

/**
 * A counting sort of a layer's ids by their parts, in their order within each: partOf has the part of each position, or LEFT_OUT. Calls `put` for
 * each id that is kept, with its position and its place. name names the buffers.
 */
export function sortByParts(
  { input: { offsets }, numBags }: CheckedBags,
  partOf: Int32Array,
  parts: number,
  { scratch, name }: { readonly scratch: Scratch; readonly name: string },
  put: (position: number, place: number) => void,
): SortedByParts {
  const rowStarts = scratch.u32(`rowStarts${name}`, parts + 1).fill(0);
  const bagStarts = scratch.u32(`bagStarts${name}`, parts + 1).fill(0);
  // The last bag that had an id on each part, plus one.
  const last = scratch.u32('lastBag', parts).fill(0);
  for (let b = 0; b < numBags; b++) {
    for (let position = offsets[b] as number; position < (offsets[b + 1] as number); position++) {
      const part = partOf[position] as number;
      if (part === LEFT_OUT) continue;
      rowStarts[part + 1] = (rowStarts[part + 1] as number) + 1;
      if (last[part] !== b + 1) bagStarts[part + 1] = (bagStarts[part + 1] as number) + 1;
      last[part] = b + 1;
    }
  }
  for (let part = 0; part < parts; part++) {
    rowStarts[part + 1] = (rowStarts[part + 1] as number) + (rowStarts[part] as number);
    bagStarts[part + 1] = (bagStarts[part + 1] as number) + (bagStarts[part] as number);
  }
  const bags = scratch.u32(`sentBags${name}`, bagStarts[parts] as number);
  const lengths = scratch.u32(`sentLengths${name}`, bagStarts[parts] as number).fill(0);
  const nextRow = scratch.u32('nextRow', parts);
  nextRow.set(rowStarts.subarray(0, parts));
  // One past the bag that is being written, which starts with the first id.
  const nextBag = scratch.u32('nextBag', parts);
  nextBag.set(bagStarts.subarray(0, parts));
  last.fill(0);
  for (let b = 0; b < numBags; b++) {
    for (let position = offsets[b] as number; position < (offsets[b + 1] as number); position++) {
      const part = partOf[position] as number;
      if (part === LEFT_OUT) continue;
      if (last[part] !== b + 1) {
        bags[nextBag[part] as number] = b;
        nextBag[part] = (nextBag[part] as number) + 1;
        last[part] = b + 1;
      }
      const place = nextRow[part] as number;
      nextRow[part] = place + 1;
      put(position, place);
      const sent = (nextBag[part] as number) - 1;
      lengths[sent] = (lengths[sent] as number) + 1;
    }
  }
  return { rowStarts, bags, lengths, bagStarts };
}
