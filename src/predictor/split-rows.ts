import type { ResolvedBag } from '../model/graph.js';
import { mix64 } from '../model/mix64.js';
import { idAt } from './ids.js';
import type { CopiedKeys } from './keys.js';
import type { CheckedBags } from './request.js';
import type { Scratch } from './scratch.js';

/** Asked of a part for an id that no part has: its rule gives zeros or a vector. */
const NO_ROW = -1;
/** In place of a part: the id is left out. */
const LEFT_OUT = -1;

/**
 * The ids of a row-wise table by parts: row r belongs to part r mod parts, as local row floor(r / parts). Ids that the table does not have are
 * what their rule makes of them: a row, none at all, or NO_ROW on the part that their remainder names. Part p has rows[rowStarts[p] ..
 * rowStarts[p + 1]), the weights at the same places, and, of the bags that have ids on it, their numbers and lengths from bagStarts[p] on.
 */
export interface SplitRows {
  readonly rows: Float64Array;
  /** Of a keyed table, in place of rows: its keys by part (see splitKeys), and as they were given. */
  readonly keys: { readonly sorted: BigInt64Array; readonly given: CopiedKeys } | null;
  readonly weights: Float32Array | null;
  readonly rowStarts: Uint32Array;
  readonly bags: Uint32Array;
  readonly lengths: Uint32Array;
  readonly bagStarts: Uint32Array;
}

/** An id on its way to a part. */
interface Placed {
  part: number;
  row: number;
  /** Whether the table does not have it and no part will count that. */
  unseen: boolean;
}

function place({ rule, rows }: ResolvedBag, id: number | bigint, parts: number, placed: Placed): void {
  placed.unseen = false;
  if (id === rule.padding) {
    placed.part = LEFT_OUT;
  } else if (typeof id === 'number' && id >= 0 && id < rows) {
    placed.part = id % parts;
    placed.row = Math.floor(id / parts);
  } else if (rule.policy === 'skip') {
    placed.unseen = true;
    placed.part = LEFT_OUT;
  } else if (rule.policy === 'hash' || rule.row !== null) {
    placed.unseen = true;
    const row = rule.row ?? Number(mix64(BigInt(id)) % BigInt(rule.buckets));
    placed.part = row % parts;
    placed.row = Math.floor(row / parts);
  } else {
    placed.part = Number(BigInt.asUintN(64, BigInt(id)) % BigInt(parts));
    placed.row = NO_ROW;
  }
}

/**
 * Checks the ids of a layer and sorts them by parts. Two walks: how much each part gets, then each to its place. key names its buffers. Tells
 * how many ids the table did not have that no part counts.
 */
export function splitRows(
  bag: ResolvedBag,
  input: CheckedBags,
  parts: number,
  scratch: Scratch,
  key: string,
  onUnseen: (count: number) => void,
): SplitRows {
  const { offsets, weights, indices } = input.input;
  const placed: Placed = { part: 0, row: 0, unseen: false };
  let unseen = 0;
  const rowStarts = scratch.u32(`rowStarts${key}`, parts + 1).fill(0);
  const bagStarts = scratch.u32(`bagStarts${key}`, parts + 1).fill(0);
  // The last bag that had an id on each part, plus one.
  const last = scratch.u32('lastBag', parts).fill(0);
  for (let b = 0; b < input.numBags; b++) {
    for (let position = offsets[b] as number; position < (offsets[b + 1] as number); position++) {
      place(bag, idAt(bag, input, position), parts, placed);
      const { part } = placed;
      if (placed.unseen) unseen++;
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
  const split: SplitRows = {
    rows: scratch.f64(`rows${key}`, indices.length),
    keys: null,
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
      place(bag, idAt(bag, input, position), parts, placed);
      const { part } = placed;
      if (part === LEFT_OUT) continue;
      if (last[part] !== b + 1) {
        split.bags[nextBag[part] as number] = b;
        nextBag[part] = (nextBag[part] as number) + 1;
        last[part] = b + 1;
      }
      const at = nextRow[part] as number;
      nextRow[part] = at + 1;
      split.rows[at] = placed.row;
      if (split.weights !== null) split.weights[at] = weights?.[position] as number;
      const sent = (nextBag[part] as number) - 1;
      split.lengths[sent] = (split.lengths[sent] as number) + 1;
    }
  }
  if (unseen > 0) onUnseen(unseen);
  return split;
}
