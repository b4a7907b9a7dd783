import { type ResolvedBag, type ResolvedModel, returnedDim } from '../../model/graph.js';
import { endKept, firstKept } from '../../model/truncate.js';
import { firstBadId, idAt } from '../../predictor/ids.js';
import type { BagsInput, PredictRequest } from '../../predictor/predictor.js';
import { type CheckedBags, type CheckedRequest, checkRequest } from '../../predictor/request.js';
import { Scratch } from '../../predictor/scratch.js';

/** As RequestMemory. */
const [WASTEFUL, WORTH_DROPPING_BYTES] = [4, 1 << 20];
/** Ids that are copied one by one: a call of set() costs as much as some 16 of them. */
const SHORT_COPY = 16;

/**
 * A checked request that waits, in memory of its own: the caller's arrays are not read again. Every id is one that its table takes, but for keys, which
 * only who has the key index knows. Ids are at the places that they had, so that errors name these.
 */
export class RequestCopy {
  items = 0;
  /** Bytes of what was copied, and of its scores. */
  bytes = 0;
  readonly #scratch = new Scratch();
  #perItem = new Uint8Array(0);
  dense = new Float32Array(0);
  /** By bag layer, where its bags start, and the end; likewise its ids and weights. */
  bagStarts = new Uint32Array(0);
  idStarts = new Uint32Array(0);
  weightStarts = new Uint32Array(0);
  lengths = new Uint32Array(0);
  ids = new Int32Array(0);
  /** In place of ids, of the layers whose ids do not all fit 32 bits. */
  wideIds = new BigInt64Array(0);
  isWide = new Uint8Array(0);
  weights = new Float32Array(0);

  /** Whether the feature (dense features, then bags) has one row: the user's, or that of the only item. */
  hasOneRow(input: number): boolean {
    return this.items === 1 || this.#perItem[input] === 0;
  }

  take(model: ResolvedModel, request: PredictRequest): void {
    const checked = checkRequest(model, request, this.#scratch);
    this.items = checked.items;
    this.#perItem = checked.perItem as Uint8Array<ArrayBuffer>;
    this.dense = checked.dense as Float32Array<ArrayBuffer>;
    const { bags } = checked;
    const scratch = this.#scratch;
    this.bagStarts = scratch.u32('bagStarts', bags.length + 1) as Uint32Array<ArrayBuffer>;
    this.idStarts = scratch.u32('idStarts', bags.length + 1) as Uint32Array<ArrayBuffer>;
    this.weightStarts = scratch.u32('weightStarts', bags.length + 1) as Uint32Array<ArrayBuffer>;
    this.isWide = scratch.u8('isWide', bags.length) as Uint8Array<ArrayBuffer>;
    let [atBag, atId, atWeight] = [0, 0, 0];
    for (let layer = 0; layer < bags.length; layer++) {
      const { numBags, input } = bags[layer] as CheckedBags;
      this.bagStarts[layer] = atBag;
      this.idStarts[layer] = atId;
      this.weightStarts[layer] = atWeight;
      this.isWide[layer] = 0;
      atBag += numBags;
      atId += input.indices.length;
      if (input.weights !== undefined) atWeight += input.weights.length;
    }
    this.bagStarts[bags.length] = atBag;
    this.idStarts[bags.length] = atId;
    this.weightStarts[bags.length] = atWeight;
    this.lengths = scratch.u32('lengths', atBag) as Uint32Array<ArrayBuffer>;
    this.ids = scratch.i32('ids', atId) as Int32Array<ArrayBuffer>;
    this.weights = scratch.f32('weights', atWeight) as Float32Array<ArrayBuffer>;
    this.bytes = 4 * (this.dense.length + atBag + atId + atWeight + checked.items * returnedDim(model));
    for (let layer = 0; layer < bags.length; layer++) this.#copyBags(model, checked, layer);
  }

  #copyBags(model: ResolvedModel, checked: CheckedRequest, layer: number): void {
    const bag = model.bags[layer] as ResolvedBag;
    const given = checked.bags[layer] as CheckedBags;
    const { indices, offsets, weights } = given.input;
    const [atBag, atId] = [this.bagStarts[layer] as number, this.idStarts[layer] as number];
    for (let b = 0; b < given.numBags; b++) this.lengths[atBag + b] = (offsets[b + 1] as number) - (offsets[b] as number);
    if (weights !== undefined) this.weights.set(weights, this.weightStarts[layer] as number);
    if (bag.maxLength === undefined && indices instanceof Int32Array) {
      const ids = this.ids;
      if (indices.length > SHORT_COPY) ids.set(indices, atId);
      else for (let position = 0; position < indices.length; position++) ids[atId + position] = indices[position] as number;
      if (!bag.keyed && bag.rule.policy === 'reject' && !allInside(ids, atId, indices.length, bag)) throw firstBadId(model, checked);
      return;
    }
    if (this.#copyNarrow(bag, given, atId)) return;
    this.isWide[layer] = 1;
    this.#copyWide(bag, given, atId);
  }

  /** False when one does not fit 32 bits. Ids of a sequence that are cut off are not looked at. */
  #copyNarrow(bag: ResolvedBag, given: CheckedBags, at: number): boolean {
    const { ids } = this;
    const { offsets, indices } = given.input;
    const words = indices instanceof BigInt64Array ? new Int32Array(indices.buffer, indices.byteOffset, 2 * indices.length) : null;
    const plain = !bag.keyed && bag.rule.policy === 'reject';
    for (let b = 0; b < given.numBags; b++) {
      const [from, to] = [offsets[b] as number, offsets[b + 1] as number];
      const [first, end] = [firstKept(bag, from, to), endKept(bag, from, to)];
      for (let position = from; position < to; position++) {
        if (position < first || position >= end) {
          ids[at + position] = 0;
          continue;
        }
        const low = words === null ? 0 : (words[2 * position] as number);
        // What is a row of its table, or a key, is not read as a bigint.
        if (words !== null && words[2 * position + 1] === low >> 31 && (!plain || (low >= 0 && low < bag.rows))) {
          ids[at + position] = low;
          continue;
        }
        const id = idAt(bag, given, position);
        if (typeof id === 'bigint' || (id | 0) !== id) return false;
        ids[at + position] = id;
      }
    }
    return true;
  }

  #copyWide(bag: ResolvedBag, given: CheckedBags, at: number): void {
    const scratch = this.#scratch;
    if (this.wideIds.length !== this.ids.length) this.wideIds = scratch.i64('wideIds', this.ids.length) as BigInt64Array<ArrayBuffer>;
    this.bytes += 8 * given.input.indices.length;
    const { offsets } = given.input;
    for (let b = 0; b < given.numBags; b++) {
      const [from, to] = [offsets[b] as number, offsets[b + 1] as number];
      const [first, end] = [firstKept(bag, from, to), endKept(bag, from, to)];
      for (let position = from; position < to; position++)
        this.wideIds[at + position] = position < first || position >= end ? 0n : BigInt(idAt(bag, given, position));
    }
  }

  /** Whether it is worth keeping for what it was used for since the last call. */
  endPeriod(): boolean {
    const { held, asked } = this.#scratch.endPeriod();
    this.wideIds = new BigInt64Array(0);
    return held < WORTH_DROPPING_BYTES || held < WASTEFUL * asked;
  }
}

function allInside(ids: Int32Array, from: number, count: number, { rows, rule: { padding } }: ResolvedBag): boolean {
  for (let at = from; at < from + count; at++) {
    const id = ids[at] as number;
    if ((id < 0 || id >= rows) && id !== padding) return false;
  }
  return true;
}

/**
 * Several requests as one of several users, in the scratch: who runs it has copied it before its promise is there. A feature that each has one row of has
 * a row per user; where some have one per item, the rows of the others are repeated.
 */
export function mergeRequests(model: ResolvedModel, copies: readonly RequestCopy[], scratch: Scratch): PredictRequest {
  let items = 0;
  for (const copy of copies) items += copy.items;
  const users = scratch.u32('users', copies.length);
  for (let user = 0; user < copies.length; user++) users[user] = (copies[user] as RequestCopy).items;
  const dense: Record<string, Float32Array> = Object.create(null);
  const sparse: Record<string, BagsInput> = Object.create(null);
  const starts = scratch.u32('denseStarts', copies.length).fill(0);
  for (let feature = 0; feature < model.dense.length; feature++) {
    const { name, dim } = model.dense[feature] as ResolvedModel['dense'][number];
    dense[name] = mergeDense(copies, feature, dim, starts, items, scratch);
  }
  for (let layer = 0; layer < model.bags.length; layer++)
    sparse[(model.bags[layer] as ResolvedBag).name] = mergeBags(model, copies, layer, items, scratch);
  return { items, users, dense, sparse };
}

/** Whether the feature has a row per user. */
function ofUsers(copies: readonly RequestCopy[], input: number): boolean {
  for (const copy of copies) if (!copy.hasOneRow(input)) return false;
  return true;
}

function mergeDense(
  copies: readonly RequestCopy[],
  feature: number,
  dim: number,
  starts: Uint32Array,
  items: number,
  scratch: Scratch,
): Float32Array {
  const perUser = ofUsers(copies, feature);
  const rows = scratch.f32(`dense${feature}`, dim * (perUser ? copies.length : items));
  let at = 0;
  for (let user = 0; user < copies.length; user++) {
    const copy = copies[user] as RequestCopy;
    const one = copy.hasOneRow(feature);
    const from = starts[user] as number;
    const end = from + dim * (one ? 1 : copy.items);
    const given = copy.dense.subarray(from, end);
    starts[user] = end;
    for (let times = one && !perUser ? copy.items : 1; times > 0; times--, at += given.length) rows.set(given, at);
  }
  return rows;
}

function mergeBags(model: ResolvedModel, copies: readonly RequestCopy[], layer: number, items: number, scratch: Scratch): BagsInput {
  const input = model.dense.length + layer;
  const perUser = ofUsers(copies, input);
  let [count, wide] = [0, false];
  for (const copy of copies) {
    const own = (copy.idStarts[layer + 1] as number) - (copy.idStarts[layer] as number);
    count += own * (!perUser && copy.hasOneRow(input) ? copy.items : 1);
    wide ||= copy.isWide[layer] === 1;
  }
  const offsets = scratch.u32(`offsets${layer}`, 1 + (perUser ? copies.length : items));
  const indices = wide ? scratch.i64(`wideIds${layer}`, count) : scratch.i32(`ids${layer}`, count);
  const weighted = (model.bags[layer] as ResolvedBag).weighted;
  const weights = weighted ? scratch.f32(`weights${layer}`, count) : null;
  let [atBag, atId] = [0, 0];
  offsets[0] = 0;
  for (const copy of copies) {
    const [bagFrom, bagTo] = [copy.bagStarts[layer] as number, copy.bagStarts[layer + 1] as number];
    const [from, to] = [copy.idStarts[layer] as number, copy.idStarts[layer + 1] as number];
    for (let times = !perUser && copy.hasOneRow(input) ? copy.items : 1; times > 0; times--) {
      let end = atId;
      for (let b = bagFrom; b < bagTo; b++) {
        end += copy.lengths[b] as number;
        offsets[++atBag] = end;
      }
      copyIds(copy, layer, from, to, indices, atId);
      if (weights !== null) weights.set(copy.weights.subarray(copy.weightStarts[layer], copy.weightStarts[layer + 1]), atId);
      atId = end;
    }
  }
  return { indices, offsets, ...(weights !== null && { weights }) };
}

function copyIds(copy: RequestCopy, layer: number, from: number, to: number, into: Int32Array | BigInt64Array, at: number): void {
  const given = copy.isWide[layer] === 1 ? copy.wideIds : copy.ids;
  if (given instanceof Int32Array && into instanceof Int32Array) {
    if (to - from > SHORT_COPY) into.set(given.subarray(from, to), at);
    else for (let id = from; id < to; id++) into[at + id - from] = given[id] as number;
    return;
  }
  if (given instanceof BigInt64Array) {
    (into as BigInt64Array).set(given.subarray(from, to), at);
    return;
  }
  for (let id = from; id < to; id++) (into as BigInt64Array)[at + id - from] = BigInt(given[id] as number);
}
