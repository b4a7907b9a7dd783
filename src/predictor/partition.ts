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

/** The ids of one part of a row-wise table: row r belongs to part r mod parts, as local row floor(r / parts). */
interface RowPart {
  readonly indices: number[];
  readonly weights: number[];
  readonly lengths: number[];
  readonly sent: number[];
}

/** Cuts requests into one batch per destination. */
export class Partitioner {
  readonly #indexBytes: 4 | 8;

  constructor(
    private readonly model: ResolvedModel,
    private readonly destinations: readonly (readonly Assignment[])[],
    /** Of the buffers in the scratch: partitioners whose partitions are in use together need different ones. */
    private readonly keyPrefix = '',
  ) {
    this.#indexBytes = model.bags.some((bag) => bag.rows > INT32_ROWS) ? 8 : 4;
  }

  /** One partition per destination, null where nothing has to be asked. Buffers of destination d are keyed by d in the scratch. */
  partition(request: CheckedRequest, scratch: Scratch): (Partition | null)[] {
    const rowParts = new Map<number, RowPart[]>();
    const partsOf = (assignment: Assignment): RowPart => {
      let parts = rowParts.get(assignment.bag);
      if (parts === undefined) {
        parts = splitRows(this.#bag(assignment), this.#input(request, assignment), assignment.parts);
        rowParts.set(assignment.bag, parts);
      }
      return parts[assignment.part] as RowPart;
    };
    return this.destinations.map((assignments, destination) =>
      this.#batch(assignments, request, partsOf, scratch, `${this.keyPrefix}${destination}`),
    );
  }

  #bag(assignment: Assignment): ModelBag {
    return this.model.bags[assignment.bag] as ModelBag;
  }

  #input(request: CheckedRequest, assignment: Assignment): CheckedBags {
    return request.bags[assignment.bag] as CheckedBags;
  }

  #batch(
    assignments: readonly Assignment[],
    request: CheckedRequest,
    partsOf: (assignment: Assignment) => RowPart,
    scratch: Scratch,
    key: string,
  ): Partition | null {
    const pieces = assignments
      .map((assignment) => ({
        assignment,
        bag: this.#bag(assignment),
        input: this.#input(request, assignment),
        rows: assignment.parts > 1 ? partsOf(assignment) : null,
      }))
      .filter((piece) => (piece.rows === null ? piece.input.numBags > 0 : piece.rows.sent.length > 0));
    if (pieces.length === 0) return null;
    const numIndices = pieces.reduce((sum, { rows, input }) => sum + (rows?.indices ?? input.input.indices).length, 0);
    const numWeights = pieces.reduce(
      (sum, { rows, input, bag }) => sum + (bag.weighted ? (rows?.indices ?? input.input.indices).length : 0),
      0,
    );
    const numBags = pieces.reduce((sum, { rows, input }) => sum + (rows?.sent.length ?? input.numBags), 0);
    if (numIndices > 0xffffffff) throw new TerabagError('invalid_argument', `a request has at most 2^32 - 1 indices: ${numIndices}`);

    const segments = scratch.u32(`segments${key}`, pieces.length * SEGMENT_FIELDS);
    const offsets = scratch.u32(`offsets${key}`, numBags + 1);
    const indices = this.#indexBytes === 4 ? scratch.i32(`indices${key}`, numIndices) : scratch.i64(`indices${key}`, numIndices);
    const weights = numWeights > 0 ? scratch.f32(`weights${key}`, numWeights) : null;
    offsets[0] = 0;
    let atIndex = 0;
    let atBag = 0;
    let atWeight = 0;
    pieces.forEach(({ assignment, bag, input, rows }, segment) => {
      const bags = rows?.sent.length ?? input.numBags;
      // The main shard divides the sum of all parts of a row-wise mean.
      const mean = bag.pooling === 'mean' && rows === null ? SEGMENT_MEAN : 0;
      segments.set(
        [bag.table, assignment.part, assignment.parts, bags, mean | (bag.weighted ? SEGMENT_WEIGHTED : 0)],
        segment * SEGMENT_FIELDS,
      );
      const given = rows?.indices ?? input.input.indices;
      copyIndices(given, indices, atIndex, bag, input);
      if (rows !== null) {
        let end = atIndex;
        rows.lengths.forEach((length, position) => {
          end += length;
          offsets[atBag + position + 1] = end;
        });
      } else {
        const own = input.input.offsets;
        for (let b = 1; b <= bags; b++) offsets[atBag + b] = atIndex + (own[b] as number);
      }
      if (bag.weighted && weights !== null) {
        weights.set(rows?.weights ?? input.input.weights ?? [], atWeight);
        atWeight += given.length;
      }
      atIndex += given.length;
      atBag += bags;
    });
    return {
      batch: {
        segments: bytesOf(segments),
        indexBytes: this.#indexBytes,
        indices: bytesOf(indices),
        offsets: bytesOf(offsets),
        weights: weights === null ? (pieces.some(({ bag }) => bag.weighted) ? new Uint8Array(0) : null) : bytesOf(weights),
      },
      segments: pieces.map(({ assignment, input, rows }) => ({
        assignment,
        numBags: rows?.sent.length ?? input.numBags,
        sent: rows === null ? null : { bags: Uint32Array.from(rows.sent), lengths: Uint32Array.from(rows.lengths) },
      })),
    };
  }
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
    bagOf(input.input.offsets, position),
    position,
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
      `index has to be an integer for table: ${bag.tableName}, position ${position}, index ${typeof index === 'number' ? index : typeof index}`,
      {
        table: bag.tableName,
        bag: bagOf(input.input.offsets, position),
        position,
      },
    );
  }
  if (index < 0 || index >= bag.rows) throw outOfRange(bag, input, position);
  return index;
}

/** Copies ids into the batch. Int32 ids go through unread: the engine checks each; wider ones are checked here, since they might not fit. */
function copyIndices(
  given: CheckedBags['input']['indices'] | number[],
  target: Int32Array | BigInt64Array,
  at: number,
  bag: ModelBag,
  input: CheckedBags,
): void {
  if (target instanceof Int32Array && given instanceof Int32Array) {
    target.set(given, at);
    return;
  }
  if (target instanceof BigInt64Array && given instanceof BigInt64Array) {
    target.set(given, at);
    return;
  }
  const checked = given === input.input.indices;
  for (let position = 0; position < given.length; position++) {
    const row = checked ? rowAt(bag, input, position) : (given[position] as number);
    if (target instanceof Int32Array) target[at + position] = row;
    else target[at + position] = BigInt(row);
  }
}

function splitRows(bag: ModelBag, input: CheckedBags, parts: number): RowPart[] {
  const split: RowPart[] = Array.from({ length: parts }, () => ({ indices: [], weights: [], lengths: [], sent: [] }));
  const { offsets, weights } = input.input;
  for (let b = 0; b < input.numBags; b++) {
    for (let position = offsets[b] as number; position < (offsets[b + 1] as number); position++) {
      const row = rowAt(bag, input, position);
      const part = split[row % parts] as RowPart;
      if (part.sent.at(-1) !== b) {
        part.sent.push(b);
        part.lengths.push(0);
      }
      part.lengths[part.lengths.length - 1] = (part.lengths.at(-1) as number) + 1;
      part.indices.push(Math.floor(row / parts));
      if (weights !== undefined) part.weights.push(weights[position] as number);
    }
  }
  return split;
}
