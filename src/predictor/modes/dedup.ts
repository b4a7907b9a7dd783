import type { ResolvedBag, ResolvedModel } from '../../model/graph.js';
import { idAt } from '../ids.js';
import type { CheckedBags, CheckedInput, CheckedRequest } from '../request.js';
import type { Scratch } from '../scratch.js';

export interface Deduplicated {
  /** With each layer's bags that differ, in the order of their first use. A layer whose bags are all the same has one, for all items. */
  readonly request: CheckedRequest;
  /** Per bag layer: which of these each given bag is; null where they are as given, or one for all. They live in the scratch. */
  readonly sources: readonly (Uint32Array | null)[];
  /** By bag layer: how many rows the dense net reads, when all bags have a vector again. */
  readonly rows: readonly number[];
}

/**
 * Leaves out bags that have the ids, and weights, of an earlier bag of their layer; null when there are none. All ids of layers of several
 * bags are checked here, where their places are known. Not of sequences, whose ids are asked for once anyway.
 */
export function dropRepeatedBags(model: ResolvedModel, request: CheckedRequest, scratch: Scratch): Deduplicated | null {
  const perItem = scratch.u8('perItemOnce', request.perItem.length);
  perItem.set(request.perItem);
  const rows: number[] = [];
  const sources: (Uint32Array | null)[] = [];
  const bags = request.bags.map((given, b) => {
    const bag = model.bags[b] as ResolvedBag;
    const found = given.numBags > 1 && bag.maxLength === undefined ? findRepeated(bag, given, scratch, b) : null;
    const alike = found?.first.length === 1;
    if (alike) perItem[model.dense.length + b] = 0;
    sources.push(found === null || alike ? null : found.source);
    rows.push(alike ? 1 : given.numBags);
    if (found === null) return given;
    const bags = { ...given, numBags: found.first.length, input: pick(given.input, found.first) };
    return bag.keyed ? { ...bags, firstOfBags: firstOfBags(given, found.first, bags.input.offsets, scratch, b) } : bags;
  });
  if (bags.every((bag, b) => bag === request.bags[b])) return null;
  return { request: { ...request, perItem, bags }, sources, rows };
}

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;
/** Weights that are further apart than this change the hash. */
const WEIGHT_STEP = 2 ** -24;

/** The first bag of each kind, and for every bag which of them it is; null when no two are alike. */
function findRepeated(
  bag: ResolvedBag,
  bags: CheckedBags,
  scratch: Scratch,
  layer: number,
): { readonly first: Uint32Array; readonly source: Uint32Array } | null {
  const { numBags, input } = bags;
  const source = scratch.u32(`dedupSource${layer}`, numBags);
  const first = scratch.u32('dedupFirst', numBags);
  let kinds = 0;
  // Open addressing; an entry is the number of the kind plus one.
  const slots = scratch.u32('dedupSlots', 2 ** Math.ceil(Math.log2(2 * numBags)));
  slots.fill(0);
  const mask = slots.length - 1;
  for (let b = 0; b < numBags; b++) {
    let slot = hashOf(bag, bags, b) & mask;
    while (slots[slot] !== 0 && !sameBag(input, first[(slots[slot] as number) - 1] as number, b)) slot = (slot + 1) & mask;
    if (slots[slot] === 0) {
      first[kinds++] = b;
      slots[slot] = kinds;
    }
    source[b] = (slots[slot] as number) - 1;
  }
  return kinds === numBags ? null : { first: first.subarray(0, kinds), source };
}

/** Where the bags that are kept stood, which errors about keys need. */
function firstOfBags(
  { input }: CheckedBags,
  first: Uint32Array,
  offsets: CheckedInput['offsets'],
  scratch: Scratch,
  layer: number,
): NonNullable<CheckedBags['firstOfBags']> {
  const bags = scratch.u32(`keptBags${layer}`, first.length);
  const starts = scratch.u32(`keptStarts${layer}`, first.length);
  for (let b = 0; b < first.length; b++) {
    bags[b] = first[b] as number;
    starts[b] = input.offsets[first[b] as number] as number;
  }
  return { bags, starts, offsets };
}

function hashOf(bag: ResolvedBag, bags: CheckedBags, b: number): number {
  const { offsets, weights } = bags.input;
  let hash = FNV_OFFSET;
  for (let position = offsets[b] as number; position < (offsets[b + 1] as number); position++) {
    // Rounded beyond 2^53, where no table has rows.
    const id = Number(idAt(bag, bags, position));
    hash = Math.imul(hash ^ (id | 0), FNV_PRIME) ^ Math.floor(id / 2 ** 32);
    if (weights !== undefined) hash = Math.imul(hash ^ ((weights[position] as number) / WEIGHT_STEP), FNV_PRIME);
  }
  // The low bits choose the slot, and those of a product depend on low bits only.
  return hash ^ (hash >>> 15);
}

function sameBag({ indices, offsets, weights }: CheckedInput, a: number, b: number): boolean {
  const [atA, atB] = [offsets[a] as number, offsets[b] as number];
  const length = (offsets[a + 1] as number) - atA;
  if (length !== (offsets[b + 1] as number) - atB) return false;
  for (let i = 0; i < length; i++) {
    if (indices[atA + i] !== indices[atB + i]) return false;
    if (weights !== undefined && !Object.is(weights[atA + i], weights[atB + i])) return false;
  }
  return true;
}

/** These bags of a layer as bags of their own. */
function pick({ indices, offsets, weights }: CheckedInput, bags: Uint32Array): CheckedInput {
  const picked = new Uint32Array(bags.length + 1);
  bags.forEach((bag, at) => {
    picked[at + 1] = (picked[at] as number) + (offsets[bag + 1] as number) - (offsets[bag] as number);
  });
  return {
    indices: pickValues(indices, offsets, bags, picked),
    offsets: picked,
    ...(weights && { weights: pickValues(weights, offsets, bags, picked) }),
  };
}

function pickValues<T extends CheckedInput['indices'] | NonNullable<CheckedInput['weights']>>(
  values: T,
  offsets: CheckedInput['offsets'],
  bags: Uint32Array,
  picked: Uint32Array,
): T {
  const into = emptyLike(values, picked[bags.length] as number);
  bags.forEach((bag, b) => {
    const [start, end] = [picked[b] as number, picked[b + 1] as number];
    for (let at = start; at < end; at++) into[at] = values[(offsets[bag] as number) + at - start];
  });
  return into as unknown as T;
}

/** Typed as the values where that copies fast; an array for all others. */
function emptyLike(values: object, length: number): Record<number, unknown> {
  for (const Values of [Int32Array, BigInt64Array, Float32Array])
    if (values instanceof Values) return new Values(length) as Record<number, unknown>;
  return new Array<unknown>(length);
}
