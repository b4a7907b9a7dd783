import { indexOutOfRange } from '../engine/sparse-engine.js';
import { TerabagError } from '../errors.js';
import type { ResolvedBag, ResolvedModel } from '../model/graph.js';
import type { CheckedBags, CheckedRequest, Offsets } from './request.js';
import { digits, shown } from './shown.js';

const DECIMAL = /^-?\d+$/;

const bagOf = (offsets: Offsets, position: number): number => {
  let bag = 0;
  while (bag + 1 < offsets.length && (offsets[bag + 1] as number) <= position) bag++;
  return bag;
};

/** An id that the table does not have; bag and position count from the start of these bags, the error from the start of the request. */
export function outOfRange(layer: ResolvedBag, bags: CheckedBags, bag: number, position: number, index: string): TerabagError {
  return indexOutOfRange(layer.tableName, bags.firstBag + bag, bags.firstPosition + position, index, String(layer.rows));
}

/**
 * The id at a position as a number below rows: of a number, a bigint or a string of decimal digits. Throws index_out_of_range, or
 * invalid_argument for anything else, with its place in the request.
 */
export function rowAt(layer: ResolvedBag, bags: CheckedBags, position: number): number {
  const index: unknown = bags.input.indices[position];
  if (typeof index === 'number' && Number.isInteger(index)) {
    if (index >= 0 && index < layer.rows) return index;
  } else if (typeof index === 'bigint') {
    if (index >= 0n && index < BigInt(layer.rows)) return Number(index);
  } else if (typeof index === 'string' && DECIMAL.test(index)) {
    // Rounding starts beyond the rows of any table.
    const row = Number(index);
    if (row >= 0 && row < layer.rows) return row;
  } else {
    const [bag, at] = [bags.firstBag + bagOf(bags.input.offsets, position), bags.firstPosition + position];
    throw new TerabagError(
      'invalid_argument',
      `index has to be an integer, a bigint or a string of decimal digits for table: ${layer.tableName}, layer ${layer.name}, bag ${bag}, position ${at}, index ${shown(index)}`,
      { table: layer.tableName, layer: layer.name, bag, position: at },
    );
  }
  throw outOfRange(layer, bags, bagOf(bags.input.offsets, position), position, digits(index));
}

/** The first id of a request, layers in the model's order and then by position, that its table does not have; null when all are right. */
export function firstBadId(model: ResolvedModel, { bags }: CheckedRequest): TerabagError | null {
  for (const [layer, checked] of bags.entries()) {
    try {
      for (let position = 0; position < checked.input.indices.length; position++)
        rowAt(model.bags[layer] as ResolvedBag, checked, position);
    } catch (bad) {
      return TerabagError.from(bad);
    }
  }
  return null;
}
