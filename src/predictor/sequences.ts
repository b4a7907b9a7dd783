import { TerabagError } from '../errors.js';
import type { ResolvedBag, ResolvedModel } from '../model/graph.js';
import { endKept, firstKept } from '../model/truncate.js';
import { idAt } from './ids.js';
import type { CheckedBags, CheckedInput, CheckedRequest } from './request.js';
import type { Scratch } from './scratch.js';

/** How the rows of a sequence layer are made of the vectors of the ids that are asked for. */
export interface Positions {
  /** Which of them stands at each position, of one row after another; null: they are asked for in that order. */
  readonly vectors: Uint32Array | null;
  /** Positions of each row; fewer where ids turn out to be left out. A part of CutSequences.lengths. */
  readonly lengths: Uint32Array;
}

/** A request whose sequences are asked for as bags of one id each. All lives in the scratch, but for ids that are asked for as they were given. */
export interface CutSequences {
  readonly request: CheckedRequest;
  /** Whether the vectors that are asked for are what the dense net reads: one for each position, and all rows full. */
  readonly inPlace: boolean;
  /** By bag layer; null: no sequence. */
  readonly positions: readonly (Positions | null)[];
  /** Of all rows of the sequences, in the model's order: what the dense net takes. */
  readonly lengths: Uint32Array;
}

/** Floats that the positions of a request's sequences may take: few ids may make many. 1 GiB. */
const MAX_FLOATS = 2 ** 28;
const INT32_ROWS = 2 ** 31;

export interface SequenceCutterOptions {
  /**
   * Whether an id that a layer has several times is asked for once (default), or at each of its positions: its row is in this process, and read sooner
   * than it is found that the id is the same.
   */
  readonly repeated?: 'once' | 'each';
}

/** Cuts off what is too long of sequences and finds the ids that are left, in the order in which they come first. */
export class SequenceCutter {
  readonly #layers: readonly number[];
  readonly #indexBytes: 4 | 8;
  readonly #repeated: 'once' | 'each';

  constructor(
    private readonly model: ResolvedModel,
    { repeated = 'once' }: SequenceCutterOptions = {},
  ) {
    this.#repeated = repeated;
    this.#layers = [...model.bags.keys()].filter((bag) => model.bags[bag]?.maxLength !== undefined);
    this.#indexBytes = model.bags.some(({ rows }) => rows > INT32_ROWS) ? 8 : 4;
  }

  /** Null when the model has no sequences. Ids that are cut off are not looked at. */
  cut(request: CheckedRequest, scratch: Scratch): CutSequences | null {
    if (this.#layers.length === 0) return null;
    this.#checkFloats(request);
    const bags = [...request.bags];
    const positions: (Positions | null)[] = bags.map(() => null);
    const rows = this.#layers.reduce((sum, layer) => sum + (bags[layer] as CheckedBags).numBags, 0);
    const lengths = scratch.u32('sequenceLengths', rows);
    let at = 0;
    let inPlace = true;
    for (const layer of this.#layers) {
      const given = bags[layer] as CheckedBags;
      const own = lengths.subarray(at, at + given.numBags);
      at += given.numBags;
      const count = this.#setLengths(layer, given, own);
      const [asked, vectors] = this.#inOrder(layer, given, own, count, scratch) ?? this.#distinct(layer, given, own, count, scratch);
      bags[layer] = asked;
      positions[layer] = { vectors, lengths: own };
      inPlace &&= vectors === null && count === given.numBags * (this.#bag(layer).maxLength as number);
    }
    return { request: { ...request, bags }, inPlace, positions, lengths };
  }

  #checkFloats({ bags, items }: CheckedRequest): void {
    let floats = 0;
    for (const layer of this.#layers) floats += (bags[layer] as CheckedBags).numBags * rowFloats(this.#bag(layer));
    if (floats > MAX_FLOATS)
      throw new TerabagError(
        'invalid_argument',
        `sequences of a request have at most 2^28 numbers, positions without an id among them: ${floats}, items ${items}`,
        { floats, items },
      );
  }

  #bag(layer: number): ResolvedBag {
    return this.model.bags[layer] as ResolvedBag;
  }

  /** How many positions each row of the layer has; returns those of all. */
  #setLengths(layer: number, { input: { offsets }, numBags }: CheckedBags, lengths: Uint32Array): number {
    const bag = this.#bag(layer);
    let count = 0;
    for (let row = 0; row < numBags; row++) {
      const [from, to] = [offsets[row] as number, offsets[row + 1] as number];
      const length = endKept(bag, from, to) - firstKept(bag, from, to);
      lengths[row] = length;
      count += length;
    }
    return count;
  }

  /**
   * The layer's ids as bags, one for each position; null where each has to be asked for once. An id that its table does not have, and is not refused,
   * is counted once a request.
   */
  #inOrder(layer: number, given: CheckedBags, lengths: Uint32Array, count: number, scratch: Scratch): [CheckedBags, null] | null {
    const bag = this.#bag(layer);
    const { indices, offsets } = given.input;
    const counted = bag.leavesOut || bag.rule.policy !== 'reject';
    if (this.#repeated === 'once' || counted || bag.keyed || !(indices instanceof Int32Array)) return null;
    const whole = count === indices.length;
    const ids = whole ? indices : scratch.i32(`sequenceIds${layer}`, count);
    const rows = scratch.u32(`sequenceRows${layer}`, count);
    const places = scratch.u32(`sequencePlaces${layer}`, count);
    let at = 0;
    for (let row = 0; row < given.numBags; row++) {
      const from = firstKept(bag, offsets[row] as number, offsets[row + 1] as number);
      const to = from + (lengths[row] as number);
      if (!whole) ids.set(indices.subarray(from, to), at);
      for (let position = from; position < to; position++) {
        rows[at] = row;
        places[at++] = position;
      }
    }
    const input = { indices: ids, offsets: ofOneEach(scratch.u32(`distinctOffsets${layer}`, count + 1)) };
    return [{ ...given, numBags: count, input, places: { bags: rows, positions: places } }, null];
  }

  /** The layer's ids as bags, each once, and which of them stands at each position. */
  #distinct(layer: number, given: CheckedBags, lengths: Uint32Array, count: number, scratch: Scratch): [CheckedBags, Uint32Array] {
    const bag = this.#bag(layer);
    const { offsets } = given.input;
    const found = new DistinctIds(count, `${layer}`, scratch);
    const vectors = scratch.u32(`positions${layer}`, count);
    const readInto = reader(bag, given);
    let at = 0;
    for (let row = 0; row < given.numBags; row++) {
      const from = firstKept(bag, offsets[row] as number, offsets[row + 1] as number);
      for (let position = from; position < from + (lengths[row] as number); position++) {
        readInto(position, found);
        vectors[at++] = found.add(row, position);
      }
    }
    return [asBags(given, found, this.#indexBytes, scratch, layer), vectors];
  }
}

/** Floats of a row of a bag layer as the dense net reads it. */
export const rowFloats = ({ dim, maxLength = 1 }: ResolvedBag): number => dim * maxLength;

/**
 * A set of 64-bit ids in the scratch, by open addressing. An id is two words, which are set before it is added: numbers do not hold all ids, and
 * bigints are slow.
 */
class DistinctIds {
  low = 0;
  high = 0;
  size = 0;
  readonly lows: Int32Array;
  readonly highs: Int32Array;
  /** Where the first of each stands. */
  readonly rows: Uint32Array;
  readonly positions: Uint32Array;
  /** Number of the id plus one; 0: none. */
  readonly #slots: Uint32Array;
  readonly #shift: number;

  constructor(most: number, key: string, scratch: Scratch) {
    const bits = Math.max(1, Math.ceil(Math.log2(2 * most)));
    this.#shift = 32 - bits;
    this.#slots = scratch.u32('distinctSlots', 2 ** bits).fill(0);
    this.lows = scratch.i32(`distinctLows${key}`, most);
    this.highs = scratch.i32(`distinctHighs${key}`, most);
    this.rows = scratch.u32(`distinctRows${key}`, most);
    this.positions = scratch.u32(`distinctPositions${key}`, most);
  }

  /** The id's number; a new one when it was not there yet. */
  add(row: number, position: number): number {
    const { low, high } = this;
    const mask = this.#slots.length - 1;
    let slot = hash(low, high) >>> this.#shift;
    for (;;) {
      const found = (this.#slots[slot] as number) - 1;
      if (found === -1) break;
      if (this.lows[found] === low && this.highs[found] === high) return found;
      slot = (slot + 1) & mask;
    }
    const number = this.size++;
    this.#slots[slot] = number + 1;
    this.lows[number] = low;
    this.highs[number] = high;
    this.rows[number] = row;
    this.positions[number] = position;
    return number;
  }
}

/** Ids may be chosen so that they fall into one slot, but not without knowing this. */
const SEED = Math.floor(Math.random() * 2 ** 32) | 0;

/** The finalizer of MurmurHash3 over both words; its high bits choose the slot. */
function hash(low: number, high: number): number {
  let mixed = low ^ SEED ^ Math.imul(high, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}

/** Sets the words of the id at a position. Ids of typed arrays are read unchecked: who finds their rows checks them. */
function reader(bag: ResolvedBag, bags: CheckedBags): (position: number, id: DistinctIds) => void {
  const { indices } = bags.input;
  if (indices instanceof Int32Array)
    return (position, id) => {
      id.low = indices[position] as number;
      id.high = id.low >> 31;
    };
  if (indices instanceof BigInt64Array) {
    const words = new Int32Array(indices.buffer, indices.byteOffset, 2 * indices.length);
    return (position, id) => {
      id.low = words[2 * position] as number;
      id.high = words[2 * position + 1] as number;
    };
  }
  return (position, id) => {
    const given = idAt(bag, bags, position);
    id.low = typeof given === 'number' ? given | 0 : Number(BigInt.asIntN(32, given));
    id.high = typeof given === 'number' ? Math.floor(given / 2 ** 32) | 0 : Number(BigInt.asIntN(32, given >> 32n));
  };
}

/** The ids as bags of one each, in the form that is copied fastest. */
function asBags(given: CheckedBags, ids: DistinctIds, indexBytes: 4 | 8, scratch: Scratch, layer: number): CheckedBags {
  const { size, lows, highs, rows, positions } = ids;
  let narrow = indexBytes === 4;
  for (let id = 0; narrow && id < size; id++) narrow = (lows[id] as number) >> 31 === highs[id];
  const offsets = ofOneEach(scratch.u32(`distinctOffsets${layer}`, size + 1));
  const indices: CheckedInput['indices'] = narrow ? lows.subarray(0, size) : joined(ids, scratch.i64(`distinctIds${layer}`, size));
  return { ...given, numBags: size, input: { indices, offsets }, places: { bags: rows, positions } };
}

function ofOneEach(offsets: Uint32Array): Uint32Array {
  for (let end = 0; end < offsets.length; end++) offsets[end] = end;
  return offsets;
}

function joined({ size, lows, highs }: DistinctIds, into: BigInt64Array): BigInt64Array {
  const words = new Int32Array(into.buffer, into.byteOffset, 2 * size);
  for (let id = 0; id < size; id++) {
    words[2 * id] = lows[id] as number;
    words[2 * id + 1] = highs[id] as number;
  }
  return into;
}

/**
 * Writes the rows of a sequence layer, maxLength x dim each with zeros behind the last position. counts: how many rows each vector is the sum
 * of; one of none was left out, and so is its position. Null: all are there.
 */
export function expandSequence(
  { dim, maxLength = 0 }: ResolvedBag,
  { vectors, lengths }: Positions,
  from: { readonly values: Float32Array; readonly start: number; readonly counts: Float32Array | null },
  into: { readonly values: Float32Array; readonly start: number },
): void {
  let read = 0;
  let written = into.start;
  for (let row = 0; row < lengths.length; row++) {
    const end = read + (lengths[row] as number);
    if (vectors === null && from.counts === null) {
      const [first, last] = [from.start + read * dim, from.start + end * dim];
      into.values.set(from.values.subarray(first, last), written);
      into.values.fill(0, written + last - first, written + maxLength * dim);
      written += maxLength * dim;
      read = end;
      continue;
    }
    let kept = 0;
    for (; read < end; read++) {
      const vector = vectors === null ? read : (vectors[read] as number);
      if (from.counts !== null && from.counts[vector] === 0) continue;
      const at = from.start + vector * dim;
      for (let d = 0; d < dim; d++) into.values[written + d] = from.values[at + d] as number;
      written += dim;
      kept++;
    }
    lengths[row] = kept;
    const rest = (maxLength - kept) * dim;
    into.values.fill(0, written, written + rest);
    written += rest;
  }
}
