import { SEGMENT_FIELDS, type SparseBatch, segmentFlags } from '../engine/sparse-batch.js';
import { TerabagError } from '../errors.js';
import type { ResolvedBag, ResolvedModel } from '../model/graph.js';
import { partsPooling, wholePooling } from '../model/pooling.js';
import { idAt, outOfRange, placeOf } from './ids.js';
import { copyKeys } from './keys.js';
import type { CheckedBags, CheckedRequest } from './request.js';
import { bytesOf, type Scratch } from './scratch.js';
import { splitKeys } from './split-keys.js';
import { type SplitRows, splitRows } from './split-rows.js';

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
const isInt32 = (id: number | bigint): id is number => (Number(id) | 0) === id;
/** Ids that are copied one by one: a call of set() costs as much as some 16 of them. */
const SHORT_COPY = 16;

export interface PartitionerOptions {
  /** Begins the names of its buffers in the scratch: partitioners whose partitions are in use together need different ones. */
  readonly keyPrefix?: string;
  /** Tables of which a request has no id at all: asked for (default), so that an answer has vectors of every layer, or skipped. */
  readonly emptyTables?: 'ask' | 'skip';
}

/** What is asked of one destination, and the names of its buffers in the scratch. */
interface Destination {
  readonly assignments: readonly Assignment[];
  /** Of its ids on the wire. */
  readonly indexBytes: 4 | 8;
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
  readonly #emptyTables: 'ask' | 'skip';
  /** Row-wise layers, with their number of parts. */
  readonly #split = new Map<number, { readonly parts: number; readonly key: string }>();
  readonly #destinations: readonly Destination[];
  readonly #unseen = new Map<string, number>();

  constructor(
    private readonly model: ResolvedModel,
    destinations: readonly (readonly Assignment[])[],
    { keyPrefix = '', emptyTables = 'ask' }: PartitionerOptions = {},
  ) {
    const wide = ({ bag }: Assignment): boolean => this.#bag(bag).keyed === true || this.#bag(bag).rows > INT32_ROWS;
    this.#destinations = destinations.map((assignments, destination) => ({
      assignments,
      indexBytes: assignments.some(wide) ? 8 : 4,
      keys: batchKeys(`${keyPrefix}${destination}`),
    }));
    this.#emptyTables = emptyTables;
    for (const { bag, parts } of destinations.flat()) if (parts > 1) this.#split.set(bag, { parts, key: `${keyPrefix}${bag}` });
  }

  /** One partition per destination. Buffers of destination d are keyed by d in the scratch. */
  partition(request: CheckedRequest, scratch: Scratch): Partition[] {
    const split: SplitRows[] = [];
    for (const [bag, { parts, key }] of this.#split) {
      const [of, given] = [this.#bag(bag), request.bags[bag] as CheckedBags];
      if (of.keyed) {
        split[bag] = splitKeys(of, given, parts, scratch, key);
        continue;
      }
      split[bag] = splitRows(of, given, parts, scratch, key, (count) =>
        this.#unseen.set(of.tableName, (this.#unseen.get(of.tableName) ?? 0) + count),
      );
    }
    return this.#destinations.map((destination) => this.#partitionOf(destination, request, split, scratch));
  }

  /** Ids that a split table did not have, and for which no part was asked as what they are, by table. */
  unseen(): Iterable<readonly [table: string, count: number]> {
    return this.#unseen;
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
    if (lengths.segments === 0) return { batch: null, assignments, numBags, split };
    const counts = { numBags, numIds, lengths };
    const batch =
      this.#batch(destination, counts, request, split, scratch, destination.indexBytes) ??
      (this.#batch(destination, counts, request, split, scratch, 8) as SparseBatch);
    return { batch, assignments, numBags, split };
  }

  /** Null when an id does not fit into 4 bytes. */
  #batch(
    { assignments, keys }: Destination,
    { numBags, numIds, lengths }: { readonly numBags: Uint32Array; readonly numIds: Float64Array; readonly lengths: BatchLengths },
    request: CheckedRequest,
    split: readonly (SplitRows | undefined)[],
    scratch: Scratch,
    indexBytes: 4 | 8,
  ): SparseBatch | null {
    const segments = scratch.u32(keys.segments, lengths.segments * SEGMENT_FIELDS);
    const offsets = scratch.u32(keys.offsets, lengths.bags + 1);
    const indices = indexBytes === 4 ? scratch.i32(keys.indices, lengths.ids) : scratch.i64(keys.indices, lengths.ids);
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
      const { pooling, divisor } = rows === undefined ? wholePooling(bag) : partsPooling(bag);
      segments[atSegment++] = segmentFlags(pooling, { weighted: bag.weighted, divisor, rule: bag.rule.number });
      if (rows === undefined) {
        if (!copyIndices(input, indices, atId, bag)) return null;
        copyOffsets(input, offsets, atBag, atId);
        if (bag.weighted) weights?.set(input.input.weights ?? [], atWeight);
      } else {
        const from = rows.rowStarts[assignment.part] as number;
        if (rows.keys === null) copyRows(rows.rows, from, ids, indices, atId);
        else (indices as BigInt64Array).set(rows.keys.sorted.subarray(from, from + ids), atId);
        addLengths(rows.lengths, rows.bagStarts[assignment.part] as number, bags, offsets, atBag);
        if (rows.weights !== null) weights?.set(rows.weights.subarray(from, from + ids), atWeight);
      }
      if (bag.weighted) atWeight += ids;
      atBag += bags;
      atId += ids;
    }
    return {
      segments: bytesOf(segments),
      indexBytes,
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

/**
 * Copies ids into the batch. Int32 ids go through unread: the engine checks each; wider ones are checked here, since they might not fit. False
 * when one that the layer's rule lets pass does not.
 */
function copyIndices(input: CheckedBags, target: Int32Array | BigInt64Array, at: number, bag: ResolvedBag): boolean {
  const { indices } = input.input;
  if (bag.keyed) {
    copyKeys(bag, input, target as BigInt64Array, at);
    return true;
  }
  if (target instanceof Int32Array && indices instanceof Int32Array) {
    if (indices.length > SHORT_COPY) target.set(indices, at);
    else for (let position = 0; position < indices.length; position++) target[at + position] = indices[position] as number;
    return true;
  }
  if (target instanceof BigInt64Array && indices instanceof BigInt64Array) {
    target.set(indices, at);
    return true;
  }
  for (let position = 0; position < indices.length; position++) {
    const id = idAt(bag, input, position);
    if (target instanceof BigInt64Array) target[at + position] = BigInt(id);
    else if (isInt32(id)) target[at + position] = id;
    else return false;
  }
  return true;
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

/** An id that is refused, since its table does not have it, and where it stands in the request. */
export interface BadId {
  /** Index in model.bags. */
  readonly layer: number;
  readonly position: number;
  readonly error: TerabagError;
}

/**
 * The first bad id, layers in the model's order and then by position, of those that were copied without being read: where the engine or a shard has
 * refused a batch. All others were checked when the request was cut. Null when there is none.
 */
export function firstBadCopy(model: ResolvedModel, request: CheckedRequest, partitions: readonly Partition[]): BadId | null {
  let first: BadId | null = null;
  for (const { batch, assignments, numBags } of partitions) {
    if (batch === null) continue;
    const ids = batch.indexBytes === 4 ? viewOf(Int32Array, batch.indices) : viewOf(BigInt64Array, batch.indices);
    const offsets = viewOf(Uint32Array, batch.offsets);
    let atBag = 0;
    for (const [a, { bag: layer, parts }] of assignments.entries()) {
      const ends = offsets.subarray(atBag, atBag + (numBags[a] as number) + 1);
      atBag += numBags[a] as number;
      const bagLayer = model.bags[layer] as ResolvedBag;
      // Ids of tables that are split were checked when they were split; keys are known to who has the index.
      if (parts > 1 || bagLayer.keyed || bagLayer.rule.policy !== 'reject' || (first !== null && layer >= first.layer)) continue;
      const from = ends[0] as number;
      const position = firstOutside(ids.subarray(from, ends.at(-1)), bagLayer);
      if (position === -1) continue;
      const bag = ends.findIndex((end) => end > from + position) - 1;
      const bags = request.bags[layer] as CheckedBags;
      const error = outOfRange(bagLayer, bags, bag, position, String(ids[from + position]));
      first = { layer, position: placeOf(bags, bag, position)[1], error };
    }
  }
  return first;
}

function firstOutside(ids: Int32Array | BigInt64Array, { rows, rule: { padding, paddingId } }: ResolvedBag): number {
  if (ids instanceof Int32Array) return ids.findIndex((id) => (id < 0 || id >= rows) && id !== padding);
  const end = BigInt(rows);
  return ids.findIndex((id) => (id < 0n || id >= end) && id !== paddingId);
}

type View<T> = new (buffer: ArrayBufferLike, byteOffset: number, length: number) => T;
const viewOf = <T>(Values: View<T> & { readonly BYTES_PER_ELEMENT: number }, bytes: Uint8Array): T =>
  new Values(bytes.buffer, bytes.byteOffset, bytes.byteLength / Values.BYTES_PER_ELEMENT);
