import type { ResolvedBag } from '../model/graph.js';
import { mix64 } from '../model/mix64.js';
import { idAt } from './ids.js';
import type { CopiedKeys } from './keys.js';
import type { CheckedBags } from './request.js';
import type { Scratch } from './scratch.js';
import { LEFT_OUT, type SortedByParts, sortByParts } from './sort-by-parts.js';

/** Asked of a part for an id that no part has: its rule gives zeros or a vector. */
const NO_ROW = -1;

/**
 * The ids of a row-wise table by parts: row r belongs to part r mod parts, as local row floor(r / parts). Ids that the table does not have are
 * what their rule makes of them: a row, none at all, or NO_ROW on the part that their remainder names. Rows and weights are sorted by part.
 */
export interface SplitRows extends SortedByParts {
  readonly rows: Float64Array;
  /** Of a keyed table, in place of rows: its keys by part (see splitKeys), and as they were given. */
  readonly keys: { readonly sorted: BigInt64Array; readonly given: CopiedKeys } | null;
  readonly weights: Float32Array | null;
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

/** Checks the ids of a layer and sorts their rows by parts. key names its buffers. Tells how many ids the table did not have that no part counts. */
export function splitRows(
  bag: ResolvedBag,
  input: CheckedBags,
  parts: number,
  scratch: Scratch,
  key: string,
  onUnseen: (count: number) => void,
): SplitRows {
  const { weights: given, indices } = input.input;
  const partOf = scratch.i32('partOf', indices.length);
  const rowOf = scratch.f64('rowOf', indices.length);
  const placed: Placed = { part: 0, row: 0, unseen: false };
  let unseen = 0;
  for (let position = 0; position < indices.length; position++) {
    place(bag, idAt(bag, input, position), parts, placed);
    if (placed.unseen) unseen++;
    partOf[position] = placed.part;
    rowOf[position] = placed.row;
  }
  const rows = scratch.f64(`rows${key}`, indices.length);
  const weights = given === undefined ? null : scratch.f32(`rowWeights${key}`, indices.length);
  const sorted = sortByParts(input, partOf, parts, { scratch, name: key }, (position, at) => {
    rows[at] = rowOf[position] as number;
    if (weights !== null) weights[at] = given?.[position] as number;
  });
  if (unseen > 0) onUnseen(unseen);
  return { ...sorted, rows, keys: null, weights };
}
