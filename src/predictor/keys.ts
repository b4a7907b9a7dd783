import type { ResolvedBag } from '../model/graph.js';
import { idAt } from './ids.js';
import type { CheckedBags } from './request.js';

/** A key of 64 bits, and its halves, the low one first. */
const KEY = new BigInt64Array(1);
const HALVES = new Int32Array(KEY.buffer);

/** Copies the ids of a keyed table from `at` on. */
export function copyKeys(layer: ResolvedBag, bags: CheckedBags, target: BigInt64Array, at: number): void {
  const { indices } = bags.input;
  if (indices instanceof BigInt64Array) {
    target.set(indices, at);
    return;
  }
  const halves = new Int32Array(target.buffer, target.byteOffset + at * 8, indices.length * 2);
  if (indices instanceof Int32Array || indices instanceof Uint32Array) {
    const signed = indices instanceof Int32Array;
    for (let position = 0; position < indices.length; position++) {
      const key = indices[position] as number;
      halves[2 * position] = key;
      halves[2 * position + 1] = signed ? key >> 31 : 0;
    }
    return;
  }
  for (let position = 0; position < indices.length; position++) {
    const key = idAt(layer, bags, position);
    if (typeof key === 'number') {
      halves[2 * position] = key;
      halves[2 * position + 1] = Math.floor(key / 2 ** 32);
    } else {
      KEY[0] = key;
      halves[2 * position] = HALVES[0] as number;
      halves[2 * position + 1] = HALVES[1] as number;
    }
  }
}

/** Where main has a copy of a layer's keys: bag b has those from starts[b] to starts[b + 1]. */
export interface CopiedKeys {
  readonly keys: BigInt64Array;
  readonly starts: Uint32Array;
}
