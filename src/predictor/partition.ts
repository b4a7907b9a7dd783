import { SEGMENT_FIELDS, type SparseBatch, segmentFlags } from '../engine/sparse-batch.js';
import { indexOutOfRange } from '../engine/sparse-engine.js';
import { TerabagError } from '../errors.js';
import type { ResolvedBag, ResolvedModel } from '../model/graph.js';
import { POOLINGS } from '../model/pooling.js';
import type { BagsInput } from './predictor.js';
import type { CheckedBags, CheckedRequest } from './request.js';
import { bytesOf, type Scratch } from './scratch.js';

/** One bag layer's table, or part of it, at one destination. */
export interface Assignment {
  /** Index in model.bags. */
  readonly bag: number;
  readonly part: number;
  readonly parts: number;
}

/** What one destination is asked of a request, copied: the caller's arrays are not read again. */
export interface Partition {
  /** Null where nothing has to be asked. */
  readonly batch: SparseBatch | null;
  /** All that the destination holds of the layers that are asked for, in the order of the answer. */
  readonly assignments: readonly Assignment[];
  /** Bags asked for, by assignment; where there are none, its vectors are zeros and of no answer. */
  readonly numBags: Uint32Array;
  /** By bag layer, of those whose tables are split. */
  readonly split: readonly (SplitRows | undefined)[];
}

const INT32_ROWS = 2 ** 31;
/** Ids that are copied one by one: a call of set() costs as much as some 16 of them. */
const SHORT_COPY = 16;

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

export interface PartitionerOptions {
  /** Of the buffers in the scratch: partitioners whose partitions are in use together need different ones. */
  readonly keyPrefix?: string;
  /** Tables of which a request has no id at all: asked for (default), so that an answer has vectors of every layer, or skipped. */
  readonly emptyTables?: 'ask' | 'skip';
}

/** What is asked of one destination, and the names of its buffers in the scratch. */
interface Destination {
  readonly assignments: readonly Assignment[];
  readonly keys: Readonly<Record<'numBags' | 'numIds' | 'segments' | 'offsets' | 'indices' | 'weights', string>>;
}

/** How long the buffers of a batch have to be. */
interface BatchLengths {
  segments: number;
  bags: number;
  ids: number;
  weights: number;
  anyWeighted: boolean;
}

/** Cuts requests into one batch per destination. What it makes for a request does not grow with the tables: their numbers are in the scratch. */
export class Partitioner {
  readonly #indexBytes: 4 | 8;
  readonly #emptyTables: 'ask' | 'skip';
  /** Row-wise layers, with their number of parts. */
  readonly #split = new Map<number, { readonly parts: number; readonly key: string }>();
  readonly #destinations: readonly Destination[];

  constructor(
    private readonly model: ResolvedModel,
    destinations: readonly (readonly Assignment[])[],
    { keyPrefix = '', emptyTables = 'ask' }: PartitionerOptions = {},
  ) {
    this.#destinations = destinations.map((assignments, destination) => ({ assignments, keys: batchKeys(`${keyPrefix}${destination}`) }));
    this.#indexBytes = model.bags.some((bag) => bag.rows > INT32_ROWS) ? 8 : 4;
    this.#emptyTables = emptyTables;
    for (const { bag, parts } of destinations.flat()) if (parts > 1) this.#split.set(bag, { parts, key: `${keyPrefix}${bag}` });
  }

  /** One partition per destination. Buffers of destination d are keyed by d in the scratch. */
  partition(request: CheckedRequest, scratch: Scratch): Partition[] {
    const split: SplitRows[] = [];
    for (const [bag, { parts, key }] of this.#split)
      split[bag] = splitRows(this.#bag(bag), request.bags[bag] as CheckedBags, parts, scratch, key);
    return this.#destinations.map((destination) => this.#partitionOf(destination, request, split, scratch));
  }

  #bag(bag: number): ResolvedBag {
    return this.model.bags[bag] as ResolvedBag;
  }

  #partitionOf(destination: Destination, request: CheckedRequest, split: readonly (SplitRows | undefined)[], scratch: Scratch): Partition {
    const { assignments, keys } = destination;
    const numBags = scratch.u32(keys.numBags, assignments.length);
    const numIds = scratch.f64(keys.numIds, assignments.length);
    const lengths: BatchLengths = { segments: 0, bags: 0, ids: 0, weights: 0, anyWeighted: false };
    for (let a = 0; a < assignments.length; a++) {
      const { bag, part } = assignments[a] as Assignment;
      const rows = split[bag];
      const given = request.bags[bag] as CheckedBags;
      const ids = rows === undefined ? given.input.indices.length : (rows.rowStarts[part + 1] as number) - (rows.rowStarts[part] as number);
      const bags = rows === undefined ? given.numBags : (rows.bagStarts[part + 1] as number) - (rows.bagStarts[part] as number);
      const asked = ids === 0 && this.#emptyTables === 'skip' ? 0 : bags;
      numBags[a] = asked;
      numIds[a] = ids;
      if (asked === 0) continue;
      const { weighted } = this.#bag(bag);
      lengths.segments++;
      lengths.bags += asked;
      lengths.ids += ids;
      lengths.weights += weighted ? ids : 0;
      lengths.anyWeighted ||= weighted;
    }
    if (lengths.ids > 0xffffffff) throw new TerabagError('invalid_argument', `a request has at most 2^32 - 1 indices: ${lengths.ids}`);
    const batch = lengths.segments === 0 ? null : this.#batch(destination, { numBags, numIds, lengths }, request, split, scratch);
    return { batch, assignments, numBags, split };
  }

  #batch(
    { assignments, keys }: Destination,
    { numBags, numIds, lengths }: { readonly numBags: Uint32Array; readonly numIds: Float64Array; readonly lengths: BatchLengths },
    request: CheckedRequest,
    split: readonly (SplitRows | undefined)[],
    scratch: Scratch,
  ): SparseBatch {
    const segments = scratch.u32(keys.segments, lengths.segments * SEGMENT_FIELDS);
    const offsets = scratch.u32(keys.offsets, lengths.bags + 1);
    const indices = this.#indexBytes === 4 ? scratch.i32(keys.indices, lengths.ids) : scratch.i64(keys.indices, lengths.ids);
    const weights = lengths.anyWeighted ? scratch.f32(keys.weights, lengths.weights) : null;
    offsets[0] = 0;
    let [atSegment, atBag, atId, atWeight] = [0, 0, 0, 0];
    for (let a = 0; a < assignments.length; a++) {
      const [bags, ids] = [numBags[a] as number, numIds[a] as number];
      if (bags === 0) continue;
      const assignment = assignments[a] as Assignment;
      const bag = this.#bag(assignment.bag);
      const rows = split[assignment.bag];
      const input = request.bags[assignment.bag] as CheckedBags;
      segments[atSegment++] = bag.table;
      segments[atSegment++] = assignment.part;
      segments[atSegment++] = assignment.parts;
      segments[atSegment++] = bags;
      segments[atSegment++] = segmentFlags(rows === undefined ? bag.pooling : POOLINGS[bag.pooling].parts.pooling, bag.weighted);
      if (rows === undefined) {
        copyIndices(input, indices, atId, bag);
        copyOffsets(input, offsets, atBag, atId);
        if (bag.weighted) weights?.set(input.input.weights ?? [], atWeight);
      } else {
        const from = rows.rowStarts[assignment.part] as number;
        copyRows(rows.rows, from, ids, indices, atId);
        addLengths(rows.lengths, rows.bagStarts[assignment.part] as number, bags, offsets, atBag);
        if (rows.weights !== null) weights?.set(rows.weights.subarray(from, from + ids), atWeight);
      }
      if (bag.weighted) atWeight += ids;
      atBag += bags;
      atId += ids;
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

const batchKeys = (key: string): Destination['keys'] => ({
  numBags: `numBags${key}`,
  numIds: `numIds${key}`,
  segments: `segments${key}`,
  offsets: `offsets${key}`,
  indices: `indices${key}`,
  weights: `weights${key}`,
});

const bagOf = (offsets: BagsInput['offsets'], position: number): number => {
  let bag = 0;
  while (bag + 1 < offsets.length && (offsets[bag + 1] as number) <= position) bag++;
  return bag;
};

function outOfRange(bag: ResolvedBag, input: CheckedBags, position: number): TerabagError {
  return indexOutOfRange(
    bag.tableName,
    input.firstBag + bagOf(input.input.offsets, position),
    input.firstPosition + position,
    String(input.input.indices[position]),
    String(bag.rows),
  );
}

/** The id at a position as a number below rows; anything else is refused with its place. */
export function rowAt(bag: ResolvedBag, input: CheckedBags, position: number): number {
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
function copyIndices(input: CheckedBags, target: Int32Array | BigInt64Array, at: number, bag: ResolvedBag): void {
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

/** Where each bag ends, counted over all segments of the batch. */
function copyOffsets({ input, numBags }: CheckedBags, offsets: Uint32Array, atBag: number, atId: number): void {
  for (let b = 1; b <= numBags; b++) offsets[atBag + b] = atId + (input.offsets[b] as number);
}

/** The same of bags of these lengths. */
function addLengths(lengths: Uint32Array, from: number, count: number, offsets: Uint32Array, atBag: number): void {
  let end = offsets[atBag] as number;
  for (let b = 0; b < count; b++) {
    end += lengths[from + b] as number;
    offsets[atBag + b + 1] = end;
  }
}

/** Two walks over the ids: how much each part gets, then each to its place. */
function splitRows(bag: ResolvedBag, input: CheckedBags, parts: number, scratch: Scratch, key: string): SplitRows {
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
