import type { ResolvedModel } from '../model/graph.js';
import { rowAt } from './partition.js';
import type { BagsInput } from './predictor.js';
import type { CheckedBags, CheckedRequest } from './request.js';
import type { Scratch } from './scratch.js';

export interface Deduplicated {
  /** With each layer's bags that differ, in the order of their first use. A layer whose bags are all the same has one, for all items. */
  readonly request: CheckedRequest;
  /** Per bag layer: which of these each given bag is; null where they are as given, or one for all. */
  readonly sources: readonly (Uint32Array | null)[];
  /** Floats of the given bags' vectors. */
  readonly expandedLength: number;
}

/** Leaves out bags that have the ids, and weights, of an earlier bag of their layer. All ids are checked here, where their places are known. */
export function dropRepeatedBags(model: ResolvedModel, request: CheckedRequest, scratch: Scratch): Deduplicated {
  const perItem = scratch.u8('perItemOnce', request.perItem.length);
  perItem.set(request.perItem);
  let expandedLength = 0;
  const sources: (Uint32Array | null)[] = [];
  const bags = request.bags.map((bags, b) => {
    const bag = model.bags[b] as ResolvedModel['bags'][number];
    const found = bags.numBags > 1 ? findRepeated(bag, bags, scratch) : null;
    if (found === null) {
      sources.push(null);
      expandedLength += bags.numBags * bag.dim;
      return bags;
    }
    if (found.first.length === 1) perItem[model.dense.length + b] = 0;
    sources.push(found.first.length === 1 ? null : found.source);
    expandedLength += (found.first.length === 1 ? 1 : bags.numBags) * bag.dim;
    return { name: bags.name, numBags: found.first.length, input: pick(bags.input, found.first) };
  });
  return { request: { ...request, perItem, bags }, sources, expandedLength };
}

const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

/** The first bag of each kind, and for every bag which of them it is; null when no two are alike. */
function findRepeated(
  bag: ResolvedModel['bags'][number],
  bags: CheckedBags,
  scratch: Scratch,
): { readonly first: readonly number[]; readonly source: Uint32Array } | null {
  const { numBags, input } = bags;
  const { offsets } = input;
  const source = new Uint32Array(numBags);
  const first: number[] = [];
  // Open addressing; an entry is the number of the kind plus one.
  const slots = scratch.u32('dedup', 2 ** Math.ceil(Math.log2(2 * numBags)));
  slots.fill(0);
  const mask = slots.length - 1;
  for (let b = 0; b < numBags; b++) {
    let hash = FNV_OFFSET;
    for (let position = offsets[b] as number; position < (offsets[b + 1] as number); position++) {
      const row = rowAt(bag, bags, position);
      hash = Math.imul(hash ^ (row | 0), FNV_PRIME) ^ Math.floor(row / 2 ** 32);
    }
    // The low bits choose the slot, and those of a product depend on low bits only.
    let slot = (hash ^ (hash >>> 15)) & mask;
    while (slots[slot] !== 0 && !sameBag(input, first[(slots[slot] as number) - 1] as number, b)) slot = (slot + 1) & mask;
    if (slots[slot] === 0) {
      first.push(b);
      slots[slot] = first.length;
    }
    source[b] = (slots[slot] as number) - 1;
  }
  return first.length === numBags ? null : { first, source };
}

function sameBag({ indices, offsets, weights }: BagsInput, a: number, b: number): boolean {
  const [atA, atB] = [offsets[a] as number, offsets[b] as number];
  const length = (offsets[a + 1] as number) - atA;
  if (length !== (offsets[b + 1] as number) - atB) return false;
  for (let i = 0; i < length; i++) {
    if (indices[atA + i] !== indices[atB + i]) return false;
    if (weights !== undefined && !Object.is(weights[atA + i], weights[atB + i])) return false;
  }
  return true;
}

function pick({ indices, offsets, weights }: BagsInput, bags: readonly number[]): BagsInput {
  const starts = [0];
  for (const b of bags) starts.push((starts.at(-1) as number) + (offsets[b + 1] as number) - (offsets[b] as number));
  const picked = <T>(values: { slice(from: number, to: number): ArrayLike<T> }): T[] =>
    bags.flatMap((b) => Array.from(values.slice(offsets[b] as number, offsets[b + 1] as number)));
  return {
    indices: indices instanceof Int32Array ? Int32Array.from(picked<number>(indices)) : picked<number | bigint>(indices as number[]),
    offsets: starts,
    ...(weights && { weights: picked<number>(weights) }),
  };
}
