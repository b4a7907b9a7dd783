import { indexOutOfRange } from '../engine/sparse-engine.js';
import { TerabagError } from '../errors.js';
import type { ResolvedBag, ResolvedModel } from '../model/graph.js';
import { plainId } from '../model/id-rules.js';
import { endKept, firstKept } from '../model/truncate.js';
import type { CheckedBags, CheckedRequest, Offsets } from './request.js';
import { digits, shown } from './shown.js';

const DECIMAL = /^-?\d+$/;

/** The bag that has a position. */
export const bagOf = (offsets: Offsets, position: number): number => {
  let bag = 0;
  while (bag + 1 < offsets.length && (offsets[bag + 1] as number) <= position) bag++;
  return bag;
};

/** Where an id of these bags stands in the request as it was given. */
export function placeOf(
  { places, firstBag, firstPosition }: CheckedBags,
  bag: number,
  position: number,
): readonly [bag: number, at: number] {
  if (places === undefined) return [firstBag + bag, firstPosition + position];
  return [firstBag + (places.bags[position] as number), firstPosition + (places.positions[position] as number)];
}

/** An id that the table does not have; bag and position count from the start of these bags, the error from the start of the request. */
export function outOfRange(layer: ResolvedBag, bags: CheckedBags, bag: number, position: number, index: string): TerabagError {
  return indexOutOfRange(layer.tableName, ...placeOf(bags, bag, position), index, String(layer.rows));
}

/**
 * The id at a position, of a number, a bigint or a string of decimal digits: a row of the table; or, where the layer's rule lets pass what the table
 * does not have, any integer of 64 bits, as a number where that is exact, else with a sign. Throws index_out_of_range, or invalid_argument for
 * anything else, with its place in the request.
 */
export function idAt(layer: ResolvedBag, bags: CheckedBags, position: number): number | bigint {
  const index: unknown = bags.input.indices[position];
  if (layer.keyed) return keyOf(index) ?? refuseKey(layer, bags, position);
  if (typeof index === 'number' && Number.isInteger(index)) {
    if (index >= 0 && index < layer.rows) return index;
  } else if (typeof index === 'bigint') {
    if (index >= 0n && index < BigInt(layer.rows)) return Number(index);
  } else if (typeof index === 'string' && DECIMAL.test(index)) {
    // Rounding starts beyond the rows of any table.
    const row = Number(index);
    if (row >= 0 && row < layer.rows) return row;
  } else {
    throw noId('an integer, a bigint or a string of decimal digits', layer, bags, position);
  }
  return missedId(layer, bags, position, index);
}

/** Null of what is no key: not an integer of 64 bits, or a number that may not be exact. */
function keyOf(index: unknown): number | bigint | null {
  if (typeof index === 'number') return Number.isSafeInteger(index) ? index : null;
  return typeof index === 'bigint' || (typeof index === 'string' && DECIMAL.test(index)) ? in64Bits(index) : null;
}

function refuseKey(layer: ResolvedBag, bags: CheckedBags, position: number): never {
  throw noId('an integer of 64 bits, from 2^53 on a bigint or a string of decimal digits,', layer, bags, position);
}

/** Of an integer that is no row. */
function missedId(layer: ResolvedBag, bags: CheckedBags, position: number, index: number | bigint | string): number | bigint {
  const { policy, padding } = layer.rule;
  const id = in64Bits(index);
  if (policy === 'reject' && (id === null || id !== padding))
    throw outOfRange(layer, bags, bagOf(bags.input.offsets, position), position, digits(index));
  if (id === null) throw noId('an integer of 64 bits', layer, bags, position);
  return id;
}

/** As many digits as 64 bits take, and a sign. Reading millions of them would take seconds. */
const MOST_DIGITS = 20;

/** Null of an integer that 64 bits, with a sign or without, do not hold. */
function in64Bits(index: number | bigint | string): number | bigint | null {
  const written = typeof index === 'string' ? index.replace(/^(-?)0+(?=\d)/, '$1') : index;
  if (typeof written === 'string' && written.length > MOST_DIGITS) return null;
  const id = BigInt(written);
  const signed = BigInt.asIntN(64, id);
  return signed === id || BigInt.asUintN(64, id) === id ? plainId(signed) : null;
}

function noId(expected: string, layer: ResolvedBag, bags: CheckedBags, position: number): TerabagError {
  const [bag, at] = placeOf(bags, bagOf(bags.input.offsets, position), position);
  return new TerabagError(
    'invalid_argument',
    `index has to be ${expected} for table: ${layer.tableName}, layer ${layer.name}, bag ${bag}, position ${at}, index ${shown(bags.input.indices[position])}`,
    { table: layer.tableName, layer: layer.name, bag, position: at },
  );
}

/** The first id of a request, layers in the model's order and then by position, that is refused; null when all are right. */
export function firstBadId(model: ResolvedModel, { bags }: CheckedRequest): TerabagError | null {
  for (const [layer, checked] of bags.entries()) {
    const bag = model.bags[layer] as ResolvedBag;
    const { offsets } = checked.input;
    try {
      for (let b = 0; b < checked.numBags; b++) {
        const [from, to] = [offsets[b] as number, offsets[b + 1] as number];
        for (let position = firstKept(bag, from, to); position < endKept(bag, from, to); position++) idAt(bag, checked, position);
      }
    } catch (bad) {
      return TerabagError.from(bad);
    }
  }
  return null;
}
