import type { ResolvedBag } from '../model/graph.js';
import { partOfKey } from '../tables/key-index.js';
import { copyKeys } from './keys.js';
import type { CheckedBags } from './request.js';
import type { Scratch } from './scratch.js';
import type { SplitRows } from './split-rows.js';

const NO_ROWS = new Float64Array(0);

/** As splitRows, of a keyed table: keys by the parts that their hash gives them to. */
export function splitKeys(bag: ResolvedBag, input: CheckedBags, parts: number, scratch: Scratch, name: string): SplitRows {
  const { offsets, weights, indices } = input.input;
  const given = scratch.i64(`keys${name}`, indices.length);
  copyKeys(bag, input, given, 0);
  const starts = scratch.u32(`keyStarts${name}`, offsets.length);
  for (let b = 0; b < offsets.length; b++) starts[b] = offsets[b] as number;
  const halves = new Int32Array(given.buffer, given.byteOffset, 2 * given.length);
  const partOf = scratch.u32('partOfKey', indices.length);
  const rowStarts = scratch.u32(`rowStarts${name}`, parts + 1).fill(0);
  const bagStarts = scratch.u32(`bagStarts${name}`, parts + 1).fill(0);
  // The last bag that had a key on each part, plus one.
  const last = scratch.u32('lastBag', parts).fill(0);
  for (let b = 0; b < input.numBags; b++) {
    for (let position = starts[b] as number; position < (starts[b + 1] as number); position++) {
      const part = partOfKey(halves[2 * position + 1] as number, halves[2 * position] as number, parts);
      partOf[position] = part;
      rowStarts[part + 1] = (rowStarts[part + 1] as number) + 1;
      if (last[part] !== b + 1) bagStarts[part + 1] = (bagStarts[part + 1] as number) + 1;
      last[part] = b + 1;
    }
  }
  for (let part = 0; part < parts; part++) {
    rowStarts[part + 1] = (rowStarts[part + 1] as number) + (rowStarts[part] as number);
    bagStarts[part + 1] = (bagStarts[part + 1] as number) + (bagStarts[part] as number);
  }
  const sorted = scratch.i64(`sortedKeys${name}`, indices.length);
  const sortedHalves = new Int32Array(sorted.buffer, sorted.byteOffset, 2 * sorted.length);
  const sortedWeights = weights === undefined ? null : scratch.f32(`rowWeights${name}`, indices.length);
  const bags = scratch.u32(`sentBags${name}`, bagStarts[parts] as number);
  const lengths = scratch.u32(`sentLengths${name}`, bagStarts[parts] as number).fill(0);
  const nextKey = scratch.u32('nextRow', parts);
  nextKey.set(rowStarts.subarray(0, parts));
  // One past the bag that is being written, which starts with the first key.
  const nextBag = scratch.u32('nextBag', parts);
  nextBag.set(bagStarts.subarray(0, parts));
  last.fill(0);
  for (let b = 0; b < input.numBags; b++) {
    for (let position = starts[b] as number; position < (starts[b + 1] as number); position++) {
      const part = partOf[position] as number;
      if (last[part] !== b + 1) {
        bags[nextBag[part] as number] = b;
        nextBag[part] = (nextBag[part] as number) + 1;
        last[part] = b + 1;
      }
      const at = nextKey[part] as number;
      nextKey[part] = at + 1;
      sortedHalves[2 * at] = halves[2 * position] as number;
      sortedHalves[2 * at + 1] = halves[2 * position + 1] as number;
      if (sortedWeights !== null) sortedWeights[at] = weights?.[position] as number;
      const sent = (nextBag[part] as number) - 1;
      lengths[sent] = (lengths[sent] as number) + 1;
    }
  }
  const keys = { sorted, given: { keys: given, starts } };
  return { rows: NO_ROWS, keys, weights: sortedWeights, rowStarts, bags, lengths, bagStarts };
}
