import { SEGMENT_FIELDS, SEGMENT_MEAN, SEGMENT_WEIGHTED, type SparseBatch } from '../engine/sparse-batch.js';
import { indexOutOfRange } from '../engine/sparse-engine.js';
import { TerabagError } from '../errors.js';
import type { ResolvedModel } from '../model/graph.js';
import type { CheckedBags, CheckedRequest } from './request.js';
import { bytesOf, type Scratch } from './scratch.js';

/** One bag layer's table, or part of it, at one destination. */
export interface Assignment {
  /** Index in model.bags. */
  readonly bag: number;
  readonly part: number;
  readonly parts: number;
}

/** The bags of a request for one destination, copied: the caller's arrays are not read again. */
export interface Partition {
  readonly batch: SparseBatch;
  readonly segments: readonly {
    readonly assignment: Assignment;
    readonly numBags: number;
    /** The bags that have ids on this part of a row-wise table, and how many; null when the table is not split. */
    readonly sent: { readonly bags: Uint32Array; readonly lengths: Uint32Array } | null;
  }[];
}

type ModelBag = ResolvedModel['bags'][number];
const INT32_ROWS = 2 ** 31;
/** Ids that are copied one by one: a call of set() costs as much as some 16 of them. */
const SHORT_COPY = 16;

/**
 * The ids of a row-wise table by parts: row r belongs to part r mod parts, as local row floor(r / parts). Part p has rows[rowStarts[p] ..
 * rowStarts[p + 1]), the weights at the same places, and, of the bags that have ids on it, their numbers and lengths from bagStarts[p] on.
 */
interface SplitRows {
  readonly rows: Float64Array;
  readonly weights: Float32Array | null;
  readonly rowStarts: Uint32Array;
  readonly bags: Uint32Array;
  readonly lengths: Uint32Array;
  readonly bagStarts: Uint32Array;
}

/** What one destination gets of one bag layer. */
interface Piece {
  readonly assignment: Assignment;
  readonly numBags: number;
  readonly numIds: number;
  readonly sent: Partition['segments'][number]['sent'];
}

/** Cuts requests into one batch per destination. */
export class Partitioner {
  readonly #indexBytes: 4 | 8;
  /** Row-wise layers, with their number of parts. */
  readonly #split = new Map<number, number>();
  /** Per destination: names of its buffers in the scratch. */
  readonly #keys: readonly BatchKeys[];

  constructor(
    private readonly model: ResolvedModel,
    private readonly destinations: readonly (readonly Assignment[])[],
    /** Of the buffers in the scratch: partitioners whose partitions are in use together need different ones. */
    private readonly keyPrefix = '',
  ) {
    this.#keys = destinations.map((_, destination) => batchKeys(`${keyPrefix}${destination}`));
    this.#indexBytes = model.bags.some((bag) => bag.rows > INT32_ROWS) ? 8 : 4;
    for (const { bag, parts } of destinations.flat()) if (parts > 1) this.#split.set(bag, parts);
  }

  /** One partition per destination, null where nothing has to be asked. Buffers of destination d are keyed by d in the scratch. */
  partition(request: CheckedRequest, scratch: Scratch): (Partition | null)[] {
    const split: SplitRows[] = [];
    for (const [bag, parts] of this.#split)
      split[bag] = splitRows(this.#bag(bag), request.bags[bag] as CheckedBags, parts, scratch, `${this.keyPrefix}${bag}`);
    return this.destinations.map((assignments, destination) => {
      const pieces: Piece[] = [];
      for (const assignment of assignments) {
        const piece = pieceOf(assignment, request, split[assignment.bag]);
        if (piece.numBags > 0) pieces.push(piece);
      }
      if (pieces.length === 0) return null;
      return { batch: this.#batch(pieces, request, split, scratch, this.#keys[destination] as BatchKeys), segments: pieces };
    });
  }

  #bag(bag: number): ModelBag {
    return this.model.bags[bag] as ModelBag;
  }

  #batch(
    pieces: readonly Piece[],
    request: CheckedRequest,
    split: readonly (SplitRows | undefined)[],
    scratch: Scratch,
    keys: BatchKeys,
  ): SparseBatch {
    let [numBags, numIds, numWeights, anyWeighted] = [0, 0, 0, false];
    for (const piece of pieces) {
      const { weighted } = this.#bag(piece.assignment.bag);
      numBags += piece.numBags;
      numIds += piece.numIds;
      numWeights += weighted ? piece.numIds : 0;
      anyWeighted ||= weighted;
    }
    if (numIds > 0xffffffff) throw new TerabagError('invalid_argument', `a request has at most 2^32 - 1 indices: ${numIds}`);
    const segments = scratch.u32(keys.segments, pieces.length * SEGMENT_FIELDS);
    const offsets = scratch.u32(keys.offsets, numBags + 1);
    const indices = this.#indexBytes === 4 ? scratch.i32(keys.indices, numIds) : scratch.i64(keys.indices, numIds);
    const weights = anyWeighted ? scratch.f32(keys.weights, numWeights) : null;
    offsets[0] = 0;
    let [atSegment, atBag, atId, atWeight] = [0, 0, 0, 0];
    for (const piece of pieces) {
      const { assignment, sent } = piece;
      const bag = this.#bag(assignment.bag);
      const rows = split[assignment.bag];
      const input = request.bags[assignment.bag] as CheckedBags;
      segments[atSegment++] = bag.table;
      segments[atSegment++] = assignment.part;
      segments[atSegment++] = assignment.parts;
      segments[atSegment++] = piece.numBags;
      // The main shard divides the sum of all parts of a row-wise mean.
      segments[atSegment++] = (bag.pooling === 'mean' && sent === null ? SEGMENT_MEAN : 0) | (bag.weighted ? SEGMENT_WEIGHTED : 0);
      const from = rows?.rowStarts[assignment.part] ?? 0;
      if (rows !== undefined) copyRows(rows.rows, from, piece.numIds, indices, atId);
      else copyIndices(input, indices, atId, bag);
      copyOffsets(sent?.lengths ?? null, input, offsets, atBag, atId, piece.numBags);
      if (bag.weighted) {
        weights?.set(
          rows === undefined ? (input.input.weights ?? []) : (rows.weights?.subarray(from, from + piece.numIds) ?? []),
          atWeight,
        );
        atWeight += piece.numIds;
      }
      atBag += piece.numBags;
      atId += piece.numIds;
    }
    return {
      segments: bytesOf(segments),
      indexBytes: this.#indexBytes,
      indices: bytesOf(indices),
      offsets: bytesOf(offsets),
      weights: weights === null ? null : bytesOf(weights),
    };
  }
}

interface BatchKeys {
  readonly segments: string;
  readonly offsets: string;
  readonly indices: string;
  readonly weights: string;
}

const batchKeys = (key: string): BatchKeys => ({
  segments: `segments${key}`,
  offsets: `offsets${key}`,
  indices: `indices${key}`,
  weights: `weights${key}`,
});

function pieceOf(assignment: Assignment, request: CheckedRequest, split: SplitRows | undefined): Piece {
  const { bag, part } = assignment;
  const { numBags, input } = request.bags[bag] as CheckedBags;
  if (split === undefined) return { assignment, numBags, numIds: input.indices.length, sent: null };
  const [firstRow, endRow] = [split.rowStarts[part] as number, split.rowStarts[part + 1] as number];
  const [first, end] = [split.bagStarts[part] as number, split.bagStarts[part + 1] as number];
  const sent = { bags: split.bags.subarray(first, end), lengths: split.lengths.subarray(first, end) };
  return { assignment, numBags: end - first, numIds: endRow - firstRow, sent };
}

const bagOf = (offsets: BagsOffsets, position: number): number => {
  let bag = 0;
  while (bag + 1 < offsets.length && (offsets[bag + 1] as number) <= position) bag++;
  return bag;
};
type BagsOffsets = CheckedBags['input']['offsets'];

function outOfRange(bag: ModelBag, input: CheckedBags, position: number): TerabagError {
  return indexOutOfRange(
    bag.tableName,
    input.firstBag + bagOf(input.input.offsets, position),
    input.firstPosition + position,
    String(input.input.indices[position]),
    String(bag.rows),
  );
}

/** The id at a position as a number below rows; anything else is refused with its place. */
export function rowAt(bag: ModelBag, input: CheckedBags, position: number): number {
  const index = input.input.indices[position] as number | bigint;
  if (typeof index === 'bigint') {
    if (index < 0n || index >= BigInt(bag.rows)) throw outOfRange(bag, input, position);
    return Number(index);
  }
  if (!Number.isInteger(index)) {
    throw new TerabagError(
      'invalid_argument',
      `index has to be an integer for table: ${bag.tableName}, position ${input.firstPosition + position}, index ${typeof index === 'number' ? index : typeof index}`,
      {
        table: bag.tableName,
        bag: input.firstBag + bagOf(input.input.offsets, position),
        position: input.firstPosition + position,
      },
    );
  }
  if (index < 0 || index >= bag.rows) throw outOfRange(bag, input, position);
  return index;
}

/** An engine's error of an id in a batch, as it stands in the request that the batch was cut from; other errors as they are. */
export function placedInRequest(model: ResolvedModel, batch: CheckedRequest, error: unknown): TerabagError {
  const known = TerabagError.from(error);
  const { table, position } = known.details;
  if (known.code !== 'index_out_of_range' || typeof position !== 'number') return known;
  for (const [b, bag] of model.bags.entries()) {
    const bags = batch.bags[b];
    if (bag.tableName !== table || bags === undefined || position >= bags.input.indices.length) continue;
    try {
      rowAt(bag, bags, position);
    } catch (placed) {
      return TerabagError.from(placed);
    }
  }
  return known;
}

/** Copies ids into the batch. Int32 ids go through unread: the engine checks each; wider ones are checked here, since they might not fit. */
function copyIndices(input: CheckedBags, target: Int32Array | BigInt64Array, at: number, bag: ModelBag): void {
  const { indices } = input.input;
  if (target instanceof Int32Array && indices instanceof Int32Array) {
    if (indices.length > SHORT_COPY) target.set(indices, at);
    else for (let position = 0; position < indices.length; position++) target[at + position] = indices[position] as number;
    return;
  }
  if (target instanceof BigInt64Array && indices instanceof BigInt64Array) {
    target.set(indices, at);
    return;
  }
  for (let position = 0; position < indices.length; position++) {
    const row = rowAt(bag, input, position);
    if (target instanceof Int32Array) target[at + position] = row;
    else target[at + position] = BigInt(row);
  }
}

/** Rows that are checked already. */
function copyRows(rows: Float64Array, from: number, count: number, target: Int32Array | BigInt64Array, at: number): void {
  if (target instanceof Int32Array) target.set(rows.subarray(from, from + count), at);
  else for (let i = 0; i < count; i++) target[at + i] = BigInt(rows[from + i] as number);
}

/** Where each bag ends, counted over all segments of the batch; from the lengths of those that are sent, or as they were given. */
function copyOffsets(
  lengths: Uint32Array | null,
  { input }: CheckedBags,
  offsets: Uint32Array,
  atBag: number,
  atId: number,
  numBags: number,
): void {
  let end = atId;
  for (let b = 0; b < numBags; b++) {
    end = lengths === null ? atId + (input.offsets[b + 1] as number) : end + (lengths[b] as number);
    offsets[atBag + b + 1] = end;
  }
}

/** Two walks over the ids: how much each part gets, then each to its place. */
function splitRows(bag: ModelBag, input: CheckedBags, parts: number, scratch: Scratch, key: string): SplitRows {
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
