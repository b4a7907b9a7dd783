import { TerabagError } from '../errors.js';
import type { ResolvedBag, ResolvedModel } from '../model/graph.js';
import type { ResolvedOnnx } from '../model/onnx/resolve-onnx.js';
import { isFinite32 } from '../tables/finite.js';
import type { BagsInput, Indices, PredictRequest } from './predictor.js';
import type { Scratch } from './scratch.js';
import { shown } from './shown.js';

/** Native dense nets take up to 2^24 items; a request beyond this is a mistake. */
export const MAX_ITEMS = 1 << 20;

/** A request whose shapes all fit the model. Ids are checked where they are read: by the partition, and by the engine. */
export interface CheckedRequest {
  readonly items: number;
  /** Per input of the dense net (dense features, then bags): 1 when it has a row per item, 0 when it has one for all, 2 when it has one per user. */
  readonly perItem: Uint8Array;
  /** Items of each user, when there are several. */
  readonly users: Uint32Array | null;
  /** The dense features' rows, one feature after another. */
  readonly dense: Float32Array;
  /** In the order of model.bags. */
  readonly bags: readonly CheckedBags[];
}

/** Offsets whose entries are numbers. */
export type Offsets = Int32Array | Uint32Array | readonly number[];

/** As BagsInput. */
export interface CheckedInput {
  readonly indices: Indices;
  readonly offsets: Offsets;
  readonly weights?: Float32Array | readonly number[];
}

export interface CheckedBags {
  readonly name: string;
  readonly numBags: number;
  readonly input: CheckedInput;
  /** Where the first bag, and its first id, stand in the request as it was given: errors count from the start of that. */
  readonly firstBag: number;
  readonly firstPosition: number;
  /** Where each id stands in the bags that it was taken from, when these are bags of one id each. */
  readonly places?: { readonly bags: Uint32Array; readonly positions: Uint32Array };
  /**
   * Where bags were left out that are alike: of each that is there the number, and the position of its first id, before that, and
   * where its ids are now.
   */
  readonly firstOfBags?: { readonly bags: Uint32Array; readonly starts: Uint32Array; readonly offsets: Offsets };
}

const invalid = (message: string, details: Record<string, string | number>): TerabagError =>
  new TerabagError('invalid_argument', message, details);

/**
 * Checks names, lengths, offsets, dense values and weights against the model, in this order and the model's: the first fault is thrown, as
 * invalid_argument with its field or bad_offsets with its place. dense, perItem and converted offsets live in the scratch.
 */
export function checkRequest(model: ResolvedModel, request: PredictRequest, scratch: Scratch): CheckedRequest {
  for (const field of ['dense', 'sparse'] as const) {
    if (!isObject(request?.[field])) throw invalid(`request.${field} has to be an object: ${shown(request?.[field])}`, { field });
  }
  const dense = featuresOf('dense', request.dense, model.dense);
  const sparse = featuresOf('sparse', request.sparse, model.bags);
  // Plain loops: a request of one item has some 20 us for all that is no arithmetic.
  const bags: CheckedBags[] = [];
  for (const bag of model.bags) bags.push(checkBags(bag, sparse(bag.name), scratch));
  const rows: number[] = [];
  for (const feature of model.dense) rows.push(denseRows(feature, dense(feature.name)));
  for (const { numBags } of bags) rows.push(numBags);
  let largest = 0;
  for (const count of rows) largest = Math.max(largest, count);
  const items = request.items ?? largest;
  if (!Number.isInteger(items) || items < 0 || items > MAX_ITEMS) {
    throw invalid(`items has to be an integer between 0 and ${MAX_ITEMS}: ${shown(items)}`, { field: 'items' });
  }
  const users = request.users === undefined ? null : checkUsers(model, request.users, items, scratch);
  const perItem = scratch.u8('perItem', rows.length);
  for (let input = 0; input < rows.length; input++) {
    const count = rows[input] as number;
    if (count !== items && count !== 1 && count !== users?.length) throw badRows(model, input, count, items);
    perItem[input] = count === items ? 1 : count === 1 ? 0 : 2;
  }
  if (model.onnx !== undefined && items > 1) refuseItemRows(model, model.onnx, perItem);
  return { items, perItem, users, dense: concatDense(model, dense, scratch), bags };
}

/** Null of one user, and of users with one item each: then features have 1 row or one per item, as without. */
function checkUsers(model: ResolvedModel, users: ArrayLike<number>, items: number, scratch: Scratch): Uint32Array | null {
  if (!isArray(users)) throw noArray('users', users);
  if (model.onnx !== undefined) throw invalid(`a request for an ONNX model has one user: ${users.length}`, { field: 'users' });
  const checked = scratch.u32('users', users.length);
  let sum = 0;
  for (let user = 0; user < users.length; user++) {
    const count = users[user] as number;
    if (!Number.isInteger(count) || count < 1 || count > MAX_ITEMS)
      throw invalid(`users have to have 1 item or more each: user ${user}, ${shown(count)}`, { field: 'users', user });
    sum += count;
    checked[user] = count;
  }
  if (sum !== items) throw invalid(`users have to have all items: ${sum}, items ${items}`, { field: 'users', items });
  return users.length <= 1 || users.length === items ? null : checked;
}

/** What a request that was made for PyTorch's EmbeddingBag lacks. */
const LAST_OFFSET = 'offsets have B + 1 entries: append the number of indices';

function badRows(model: ResolvedModel, input: number, rows: number, items: number): TerabagError {
  const name = (model.dense[input] ?? model.bags[input - model.dense.length])?.name ?? '';
  const isBags = input >= model.dense.length;
  const hint = isBags && rows === items - 1 ? `; ${LAST_OFFSET}` : '';
  return invalid(`a feature has 1 row (of the user) or one per item: ${name} has ${rows}, items ${items}${hint}`, {
    field: name,
    rows,
    items,
  });
}

/** An ONNX input whose first dim is 1 has no place for a row per item. */
function refuseItemRows(model: ResolvedModel, { file, inputs, lengths }: ResolvedOnnx, perItem: Uint8Array): void {
  for (const { name, value, oneRow } of [...inputs, ...lengths]) {
    if (!oneRow || perItem[value] === 0) continue;
    const field = (model.dense[value] ?? model.bags[value - model.dense.length])?.name ?? '';
    throw invalid(`a feature of the user has 1 row, since input ${name} of ${file} takes 1: ${field} has one per item`, { field });
  }
}

/** The items from..to of a request as a request of their own, whose dense values and perItem live in the scratch; ids are not copied. */
export function sliceItems(model: ResolvedModel, request: CheckedRequest, from: number, to: number, scratch: Scratch): CheckedRequest {
  const items = to - from;
  const perItem = scratch.u8('perItem', request.perItem.length);
  perItem.set(request.perItem);
  const users = request.users === null ? null : sliceUsers(request.users, from, to);
  // Of what has a row per user, those of the users whose items these are.
  const [rowsFrom, rowsTo] = [
    [0, from, users?.from ?? 0],
    [1, to, users?.to ?? 1],
  ] as const;
  const kind = (input: number): 0 | 1 | 2 => request.perItem[input] as 0 | 1 | 2;
  const count = (input: number): number => rowsTo[kind(input)] - rowsFrom[kind(input)];
  const given = [1, request.items, request.users?.length ?? 1] as const;
  const rows = model.dense.map(({ dim }, feature) => dim * count(feature));
  const dense = scratch.f32(
    'dense',
    rows.reduce((sum, length) => sum + length, 0),
  );
  let read = 0;
  let written = 0;
  model.dense.forEach(({ dim }, feature) => {
    const start = read + rowsFrom[kind(feature)] * dim;
    dense.set(request.dense.subarray(start, start + (rows[feature] as number)), written);
    written += rows[feature] as number;
    read += dim * given[kind(feature)];
  });
  const bags = request.bags.map((bags, bag) => {
    const own = kind(model.dense.length + bag);
    return own === 0 ? bags : sliceBags(bags, rowsFrom[own], rowsTo[own]);
  });
  return { items, perItem, users: users?.items ?? null, dense, bags };
}

/** The users that have some of these items, and how many of them each. */
function sliceUsers(
  users: Uint32Array,
  from: number,
  to: number,
): { readonly from: number; readonly to: number; readonly items: Uint32Array } {
  const items: number[] = [];
  let [first, at] = [0, 0];
  for (const [user, count] of users.entries()) {
    const own = Math.min(to, at + count) - Math.max(from, at);
    if (own > 0 && items.length === 0) first = user;
    if (own > 0) items.push(own);
    at += count;
  }
  return { from: first, to: first + items.length, items: Uint32Array.from(items) };
}

function sliceBags({ name, input, firstBag, firstPosition }: CheckedBags, from: number, to: number): CheckedBags {
  const { indices, offsets, weights } = input;
  const [start, end] = [offsets[from] as number, offsets[to] as number];
  return {
    name,
    numBags: to - from,
    firstBag: firstBag + from,
    firstPosition: firstPosition + start,
    input: {
      indices: indices.slice(start, end),
      offsets: Array.from(offsets.slice(from, to + 1), (offset) => offset - start),
      ...(weights && { weights: weights.slice(start, end) }),
    },
  };
}

/**
 * Finds features by name, among own properties alone: a model may have one that is named as a property that every object inherits. A name that
 * the model does not have is refused. Names that come in the model's order, as they mostly do, cost one comparison each.
 */
function featuresOf<T>(
  field: string,
  given: Readonly<Record<string, T>>,
  known: readonly { readonly name: string }[],
): (name: string) => T | undefined {
  const names = Object.keys(given);
  let inOrder = names.length === known.length;
  for (let position = 0; position < names.length; position++) {
    const name = names[position] as string;
    if (known[position]?.name === name) continue;
    inOrder = false;
    if (known.some((entry) => entry.name === name)) continue;
    throw invalid(`no such ${field} feature in the model: ${name}; it has ${known.map((entry) => entry.name).join(', ') || 'none'}`, {
      field: `${field}.${name}`,
    });
  }
  return inOrder ? (name) => given[name] : (name) => (Object.hasOwn(given, name) ? given[name] : undefined);
}

function denseRows(feature: { readonly name: string; readonly dim: number }, values: ArrayLike<number> | undefined): number {
  if (values === undefined) throw invalid(`dense feature is missing: ${feature.name}`, { field: `dense.${feature.name}` });
  if (!isArray(values)) throw noArray(`dense.${feature.name}`, values);
  if (values.length % feature.dim !== 0) {
    throw invalid(`dense feature has to have a multiple of its dim: ${feature.name}, dim ${feature.dim}, length ${values.length}`, {
      field: `dense.${feature.name}`,
    });
  }
  return values.length / feature.dim;
}

function concatDense(model: ResolvedModel, features: (name: string) => ArrayLike<number> | undefined, scratch: Scratch): Float32Array {
  let length = 0;
  for (const { name } of model.dense) length += features(name)?.length ?? 0;
  const dense = scratch.f32('dense', length);
  let at = 0;
  for (const { name } of model.dense) {
    const values = features(name) ?? [];
    if (!(values instanceof Float32Array)) checkNumbers(`dense.${name}`, values);
    dense.set(values, at);
    at += values.length;
  }
  // All at once, and after the copy: the values are in the cache.
  if (isFinite32(dense)) return dense;
  for (const { name } of model.dense) checkNumbers(`dense.${name}`, features(name) ?? []);
  throw invalid('dense values changed while they were read', { field: 'dense' });
}

const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null;

const isArray = (value: unknown): boolean => Array.isArray(value) || (ArrayBuffer.isView(value) && 'length' in value);

const noArray = (field: string, value: unknown): TerabagError =>
  invalid(`${field} has to be an array or a typed array: ${shown(value)}`, { field });

/** Refuses what is no number, also a hole, and what is not finite in float32: NaN, infinities, and numbers of 2^128 and more. */
function checkNumbers(field: string, values: ArrayLike<unknown>): void {
  for (let position = 0; position < values.length; position++) {
    const value = values[position];
    if (typeof value === 'number' && Number.isFinite(Math.fround(value))) continue;
    const expected = typeof value === 'number' ? 'finite numbers that fit float32' : 'numbers';
    throw invalid(`${field} has to hold ${expected}: position ${position}, ${shown(value)}`, { field, position });
  }
}

function checkBags(bag: ResolvedBag, input: BagsInput | undefined, scratch: Scratch): CheckedBags {
  if (input === undefined) throw invalid(`bags are missing: ${bag.name}`, { field: `sparse.${bag.name}` });
  if (!isObject(input)) throw invalid(`bags have to be an object: ${bag.name}, ${shown(input)}`, { field: `sparse.${bag.name}` });
  const { indices, offsets, weights } = input;
  if (!isArray(indices)) throw noArray(`sparse.${bag.name}.indices`, indices);
  if (!isArray(offsets)) throw noArray(`sparse.${bag.name}.offsets`, offsets);
  const checked = checkOffsets(bag, input, scratch);
  if (bag.weighted || weights !== undefined) checkWeights(bag, indices.length, weights);
  return { name: bag.name, numBags: offsets.length - 1, input: checked, firstBag: 0, firstPosition: 0 };
}

/** The same bags, with offsets that are numbers: bigints are converted into the scratch. */
function checkOffsets(bag: ResolvedBag, input: BagsInput, scratch: Scratch): CheckedInput {
  const { offsets } = input;
  const [count, end] = [input.indices.length, offsets.length];
  if (end === 0) throw badOffset('offsets need B + 1 entries, at least [0],', bag, input, 0);
  let previous = 0;
  for (let at = 0; at < end; at++) {
    const offset = offsets[at] as number;
    if (!Number.isInteger(offset) || offset < previous) return checkWideOffsets(bag, input, scratch);
    previous = offset;
  }
  if (offsets[0] !== 0) throw badOffset(FROM_ZERO, bag, input, 0);
  if (previous !== count) throw badEnd(bag, input, previous);
  return input as CheckedInput;
}

/** The same where an offset is wrong, or a bigint. */
function checkWideOffsets(bag: ResolvedBag, input: BagsInput, scratch: Scratch): CheckedInput {
  const { offsets } = input;
  const numbers = scratch.u32(`offsets ${bag.name}`, offsets.length);
  let previous = 0;
  for (let at = 0; at < offsets.length; at++) {
    const given = offsets[at];
    const offset = typeof given === 'bigint' ? Number(given) : given;
    if (!Number.isInteger(offset) || (offset as number) < previous)
      throw badOffset(at === 0 ? FROM_ZERO : 'offsets have to be integers that never decrease', bag, input, at);
    if (at === 0 && offset !== 0) throw badOffset(FROM_ZERO, bag, input, 0);
    previous = offset as number;
    numbers[at] = previous;
  }
  if (previous !== input.indices.length) throw badEnd(bag, input, previous);
  return { ...input, offsets: numbers };
}

const FROM_ZERO = 'offsets have to start at 0';

function badEnd(bag: ResolvedBag, input: BagsInput, last: number): TerabagError {
  const hint = last < input.indices.length ? ` (${LAST_OFFSET}, unless the last is wrong)` : '';
  return badOffset(`offsets have to end at the number of indices${hint}`, bag, input, input.offsets.length - 1);
}

/** The offset at a position ends the bag before it. */
function badOffset(message: string, bag: ResolvedBag, { offsets, indices }: BagsInput, position: number): TerabagError {
  const at = Math.max(0, position - 1);
  const value = shown(offsets[position]);
  return new TerabagError(
    'bad_offsets',
    `${message} for table: ${bag.tableName}, layer ${bag.name}, bag ${at}, position ${position}, offset ${value}, indices ${indices.length}`,
    { table: bag.tableName, layer: bag.name, bag: at, position },
  );
}

function checkWeights(bag: ResolvedBag, count: number, weights: BagsInput['weights']): void {
  const field = `sparse.${bag.name}.weights`;
  if (weights === undefined) throw invalid(`weights are missing for a weighted bag: ${bag.name}`, { field });
  if (!bag.weighted) throw invalid(`weights for a bag that takes none: ${bag.name}`, { field });
  if (!isArray(weights)) throw noArray(field, weights);
  if (weights.length !== count) throw invalid(`one weight per index: ${bag.name}, indices ${count}, weights ${weights.length}`, { field });
  if (!(weights instanceof Float32Array && isFinite32(weights))) checkNumbers(field, weights);
}
