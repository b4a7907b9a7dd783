import { TerabagError } from '../errors.js';
import type { ResolvedBag, ResolvedModel } from '../model/graph.js';
import { type PartsPooling, partsPooling, wholePooling } from '../model/pooling.js';
import type { Assignment, Partition } from './partition.js';
import type { CheckedBags, CheckedRequest } from './request.js';
import { bytesOf } from './scratch.js';
import { expandSequence, type Positions, rowFloats } from './sequences.js';
import type { SplitRows } from './split-rows.js';

/** The vectors of those bags that had ids on one part of a table, with divisors or not, and how many ids main sent. */
interface RowWisePart {
  readonly part: number;
  readonly bags: Uint32Array;
  readonly lengths: Uint32Array;
  readonly rows: Float32Array;
}

/** Pooled vectors, [bags, dim] per bag layer, one layer after another in model order: starts[l] is where those of layer l start, in floats. */
export interface PooledVectors {
  readonly values: Float32Array;
  readonly starts: readonly number[];
  /** By bag layer, of sequences whose ids may be left out: how many rows each vector is the sum of. */
  readonly counts?: readonly (Float32Array | null)[];
}

/** Floats of all vectors of a request. */
export function pooledLength(model: ResolvedModel, request: CheckedRequest): number {
  let length = 0;
  for (let bag = 0; bag < model.bags.length; bag++)
    length += (request.bags[bag] as CheckedBags).numBags * (model.bags[bag] as ResolvedBag).dim;
  return length;
}

/** Where each bag layer's vectors start, and the end. */
export function pooledStarts(model: ResolvedModel, request: CheckedRequest): number[] {
  const starts = [0];
  request.bags.forEach(({ numBags }, bag) => {
    starts.push((starts[bag] as number) + numBags * (model.bags[bag]?.dim ?? 0));
  });
  return starts;
}

/**
 * Puts the answers of destinations in their places as they come, and zeros where nothing was asked; of the layers that the partitions are of.
 * Vectors of whole tables are copied: they have the bits that one machine gives. rowWise names the layers whose tables are split: the vectors of their
 * parts are combined in float32 at the end, in ascending order of the part, whatever the order of arrival. So the same plan always gives the same bits.
 * Those of sums are other ones than one machine's, which adds the rows of a bag in the order of its ids: 1e8 + 1 - 1e8 is 0 there, and 1 where 1 lies on
 * another part. A maximum is the same everywhere.
 */
export class Gathering {
  readonly #bytes: Uint8Array;
  readonly #partsOf: ReadonlyMap<number, RowWisePart[]>;
  /** Bag layers whose vectors did not all come. */
  readonly #missing = new Set<number>();

  constructor(
    private readonly model: ResolvedModel,
    rowWise: readonly number[],
    private readonly partitions: readonly Partition[],
    private readonly pooled: PooledVectors,
  ) {
    this.#bytes = bytesOf(pooled.values);
    this.#partsOf = new Map(rowWise.map((bag) => [bag, []]));
  }

  /** The answer of a destination, which is not read again; null of one that was asked for nothing. Once for each. */
  place(destination: number, answer: Uint8Array | null): void {
    const { values, starts } = this.pooled;
    const { batch, assignments, numBags, split } = this.partitions[destination] as Partition;
    const given = answer ?? NO_ANSWER;
    let at = 0;
    for (let a = 0; a < assignments.length; a++) {
      const { bag, part } = assignments[a] as Assignment;
      const sent = split[bag];
      const resolved = this.model.bags[bag] as ResolvedBag;
      const asked = sent === undefined ? wholePooling(resolved) : partsPooling(resolved);
      const floats = resolved.dim + (asked.divisor ? 1 : 0);
      const length = (numBags[a] as number) * floats * 4;
      if (length === 0) {
        if (sent === undefined) values.fill(0, starts[bag], starts[bag + 1]);
        continue;
      }
      const rows = given.subarray(at, at + length);
      at += length;
      if (at > given.byteLength) throw answerLength(given.byteLength, at);
      if (sent === undefined && asked.divisor) this.#placeCounted(bag, rows);
      else if (sent === undefined) this.#bytes.set(rows, (starts[bag] as number) * 4);
      else this.#partsOf.get(bag)?.push(rowWisePart(sent, part, rows));
    }
    if (batch !== null && at !== given.byteLength) throw answerLength(given.byteLength, at);
  }

  /**
   * The answer of a destination that will not come: every vector that it has a part in becomes that of an empty bag, zeros. Returns the bag layers.
   * Once for each, in place of place().
   */
  placeDefaults(destination: number): readonly number[] {
    const { values, starts } = this.pooled;
    const { assignments, numBags, split } = this.partitions[destination] as Partition;
    const layers: number[] = [];
    assignments.forEach(({ bag }, a) => {
      if (numBags[a] !== 0) layers.push(bag);
      else if (split[bag] === undefined) values.fill(0, starts[bag], starts[bag + 1]);
    });
    for (const layer of layers) this.#missing.add(layer);
    return layers;
  }

  /** Vectors of a whole table that are each followed by a divisor. */
  #placeCounted(bag: number, answer: Uint8Array): void {
    const { values, starts, counts } = this.pooled;
    const { dim } = this.model.bags[bag] as ResolvedBag;
    const rows = alignedFloats(answer);
    const found = counts?.[bag] as Float32Array;
    for (let row = 0, from = 0, at = starts[bag] as number; from < rows.length; row++, from += dim + 1, at += dim) {
      for (let d = 0; d < dim; d++) values[at + d] = rows[from + d] as number;
      found[row] = soundDivisor(rows[from + dim] as number);
    }
  }

  /** When the answers of all destinations are placed. */
  finish(): void {
    const { values, starts, counts } = this.pooled;
    for (const layer of this.#missing) {
      values.fill(0, starts[layer], starts[layer + 1]);
      counts?.[layer]?.fill(0);
    }
    for (const [bag, parts] of this.#partsOf) {
      if (this.#missing.has(bag)) continue;
      parts.sort((a, b) => a.part - b.part);
      combineParts(this.model.bags[bag] as ResolvedBag, values.subarray(starts[bag], starts[bag + 1]), parts, counts?.[bag] ?? null);
    }
  }
}

/** Bytes of the answer of a destination. */
export function answerBytesOf(model: ResolvedModel, { assignments, numBags, split }: Partition): number {
  let floats = 0;
  for (let a = 0; a < assignments.length; a++) {
    const { bag } = assignments[a] as Assignment;
    const resolved = model.bags[bag] as ResolvedBag;
    const asked = split[bag] === undefined ? wholePooling(resolved) : partsPooling(resolved);
    floats += (numBags[a] as number) * (resolved.dim + (asked.divisor ? 1 : 0));
  }
  return floats * 4;
}

const NO_ANSWER = new Uint8Array(0);

function rowWisePart({ bags, lengths, bagStarts }: SplitRows, part: number, rows: Uint8Array): RowWisePart {
  const [first, end] = [bagStarts[part] as number, bagStarts[part + 1] as number];
  return { part, bags: bags.subarray(first, end), lengths: lengths.subarray(first, end), rows: alignedFloats(rows) };
}

/** Copied: an answer lies wherever its message does, and floats have to be aligned. */
const alignedFloats = (answer: Uint8Array): Float32Array => new Float32Array(new Uint8Array(answer).buffer);

function answerLength(bytes: number, expected: number): TerabagError {
  return new TerabagError('bad_message', `answer of another length than the request asks for: ${bytes} bytes, expected ${expected}`, {
    bytes,
    expected,
  });
}

/** A number of rows, or a sum of weights, which are finite: no shard that pools right sends anything else. */
function soundDivisor(value: number): number {
  if (Number.isFinite(value)) return value;
  throw new TerabagError('bad_message', `answer has a divisor that is not finite: ${value}`, { value: String(value) });
}

/** A place of the combined vector, and that of a part's. */
const COMBINE: Readonly<Record<PartsPooling['combine'], (combined: number, value: number) => number>> = {
  add: (combined, value) => combined + value,
  // NaN where either is.
  max: (combined, value) => Math.max(combined, value),
};

/** counts gets how many rows each vector is the sum of. */
function combineParts(bag: ResolvedBag, pooled: Float32Array, parts: readonly RowWisePart[], counts: Float32Array | null): void {
  const { dim } = bag;
  const numBags = pooled.length / dim;
  const { combine, divisor, divide } = partsPooling(bag);
  const floats = dim + (divisor ? 1 : 0);
  const combineValues = COMBINE[combine];
  // What is known of a bag so far: rows or ids that are combined in it, or the sum of their weights.
  const divisors = counts?.fill(0) ?? new Float32Array(numBags);
  pooled.fill(0);
  for (const { bags, lengths, rows } of parts) {
    bags.forEach((target, row) => {
      const from = row * floats;
      const counted = divisor ? soundDivisor(rows[from + dim] as number) : (lengths[row] as number);
      // All zeros, which are no values of a maximum.
      if (counted === 0 && combine === 'max') return;
      const first = divisors[target] === 0 && combine === 'max';
      for (let d = 0; d < dim; d++) {
        const value = rows[from + d] as number;
        pooled[target * dim + d] = first ? value : combineValues(pooled[target * dim + d] as number, value);
      }
      divisors[target] = (divisors[target] as number) + counted;
    });
  }
  if (divide === 'no') return;
  divisors.forEach((by, bag) => {
    for (let d = 0; d < dim; d++) pooled[bag * dim + d] = by === 0 ? 0 : (pooled[bag * dim + d] as number) / by;
  });
}

/** What the dense net reads of vectors that were asked for once. */
export interface Expansion {
  /** By bag layer: bag b has vector sources[l][b], or b where null. */
  readonly sources: readonly (Uint32Array | null)[];
  /** By bag layer, of sequences: which vectors are at their positions. */
  readonly positions: readonly (Positions | null)[];
  /** Where each layer's values start, and the end. */
  readonly starts: readonly number[];
}

/** Where each layer's values start in what the dense net reads, in floats, and the end; of so many rows each. */
export function inputStarts(model: ResolvedModel, rows: readonly number[]): number[] {
  const starts = [0];
  rows.forEach((count, layer) => {
    starts.push((starts[layer] as number) + count * rowFloats(model.bags[layer] as ResolvedBag));
  });
  return starts;
}

/** Copies the vectors of these layers to where the dense net reads them. */
export function expandPooled(
  model: ResolvedModel,
  layers: readonly number[],
  { sources, positions }: Pick<Expansion, 'sources' | 'positions'>,
  { values, starts, counts }: PooledVectors,
  expanded: PooledVectors,
): void {
  for (const layer of layers) {
    const [start, end] = [starts[layer] as number, starts[layer + 1] as number];
    const source = sources[layer] ?? null;
    const ofSequence = positions[layer] ?? null;
    if (ofSequence !== null) {
      const into = { values: expanded.values, start: expanded.starts[layer] as number };
      expandSequence(model.bags[layer] as ResolvedBag, ofSequence, { values, start, counts: counts?.[layer] ?? null }, into);
      continue;
    }
    let at = expanded.starts[layer] as number;
    if (source === null) {
      expanded.values.set(values.subarray(start, end), at);
      continue;
    }
    const { dim } = model.bags[layer] as ResolvedBag;
    for (const vector of source) {
      const from = start + vector * dim;
      for (let d = 0; d < dim; d++) expanded.values[at + d] = values[from + d] as number;
      at += dim;
    }
  }
}
