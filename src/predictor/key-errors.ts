import { keyNotFound } from '../engine/sparse-engine.js';
import { TerabagError } from '../errors.js';
import type { ResolvedModel } from '../model/graph.js';
import { bagOf } from './ids.js';
import type { CopiedKeys } from './keys.js';
import type { Partition } from './partition.js';
import type { CheckedBags } from './request.js';

/**
 * The error of a key that its table does not have, with its place in the request: who looked for it knows only what it was asked. The first place,
 * by layer and position, is that of the key of which it was told. Any other error is given back.
 */
export function placeKeyError(
  error: unknown,
  model: ResolvedModel,
  bags: readonly CheckedBags[],
  copyOf: (layer: number) => CopiedKeys | null,
): unknown {
  if (!(error instanceof TerabagError) || error.code !== 'index_out_of_range') return error;
  const { table, key } = error.details;
  if (typeof key !== 'string') return error;
  const wanted = BigInt(key);
  for (const [layer, { tableName, keyed = false }] of model.bags.entries()) {
    if (!keyed || tableName !== table) continue;
    const copy = copyOf(layer);
    const position = copy?.keys.indexOf(wanted) ?? -1;
    if (copy === null || position === -1) continue;
    const given = bags[layer] as CheckedBags;
    const bag = bagOf(copy.starts, position);
    return keyNotFound(tableName, ...placeOfKey(given, bag, position), key);
  }
  return error;
}

/** Where a key stands in the request as it was given: before sequences were made bags of one id each, and bags that are alike were left out. */
function placeOfKey(
  { places, firstOfBags, firstBag, firstPosition }: CheckedBags,
  bag: number,
  position: number,
): [bag: number, at: number] {
  let [b, at] = places === undefined ? [bag, position] : [places.bags[position] as number, places.positions[position] as number];
  if (firstOfBags !== undefined) {
    at += (firstOfBags.starts[b] as number) - (firstOfBags.offsets[b] as number);
    b = firstOfBags.bags[b] as number;
  }
  return [firstBag + b, firstPosition + at];
}

/** The keys of a layer as they were copied into a batch, or, of a split table, before that; null when nothing was asked of it. */
export function copiedKeys(partitions: readonly Partition[], layer: number): CopiedKeys | null {
  for (const { batch, assignments, numBags, split } of partitions) {
    const kept = split[layer]?.keys ?? null;
    if (kept !== null) return kept.given;
    let atBag = 0;
    for (const [a, { bag }] of assignments.entries()) {
      const bags = numBags[a] as number;
      if (bag !== layer || bags === 0 || batch === null) {
        atBag += bags;
        continue;
      }
      const { indices, offsets } = batch;
      const ends = new Uint32Array(offsets.buffer, offsets.byteOffset + atBag * 4, bags + 1);
      const first = ends[0] as number;
      const keys = new BigInt64Array(indices.buffer, indices.byteOffset + first * 8, (ends[bags] as number) - first);
      return { keys, starts: ends.map((end) => end - first) };
    }
  }
  return null;
}
