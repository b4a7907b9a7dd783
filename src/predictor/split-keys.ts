import type { ResolvedBag } from '../model/graph.js';
import { partOfKey } from '../tables/key-index.js';
import { copyKeys } from './keys.js';
import type { CheckedBags } from './request.js';
import type { Scratch } from './scratch.js';
import { sortByParts } from './sort-by-parts.js';
import type { SplitRows } from './split-rows.js';

const NO_ROWS = new Float64Array(0);

/** As splitRows, of a keyed table: keys by the parts that their hash gives them to. */
export function splitKeys(bag: ResolvedBag, input: CheckedBags, parts: number, scratch: Scratch, name: string): SplitRows {
  const { offsets, weights: given, indices } = input.input;
  const keys = scratch.i64(`keys${name}`, indices.length);
  copyKeys(bag, input, keys, 0);
  const starts = scratch.u32(`keyStarts${name}`, offsets.length);
  for (let b = 0; b < offsets.length; b++) starts[b] = offsets[b] as number;
  const halves = new Int32Array(keys.buffer, keys.byteOffset, 2 * keys.length);
  const partOf = scratch.i32('partOf', indices.length);
  for (let position = 0; position < indices.length; position++)
    partOf[position] = partOfKey(halves[2 * position + 1] as number, halves[2 * position] as number, parts);
  const sorted = scratch.i64(`sortedKeys${name}`, indices.length);
  const sortedHalves = new Int32Array(sorted.buffer, sorted.byteOffset, 2 * sorted.length);
  const weights = given === undefined ? null : scratch.f32(`rowWeights${name}`, indices.length);
  const byParts = sortByParts(input, partOf, parts, { scratch, name }, (position, at) => {
    sortedHalves[2 * at] = halves[2 * position] as number;
    sortedHalves[2 * at + 1] = halves[2 * position + 1] as number;
    if (weights !== null) weights[at] = given?.[position] as number;
  });
  return { ...byParts, rows: NO_ROWS, keys: { sorted, given: { keys, starts } }, weights };
}
