import { TerabagError } from '../errors.js';
import type { ResolvedModel } from '../model/graph.js';
import type { BagsInput, PredictRequest } from './predictor.js';
import type { Scratch } from './scratch.js';

/** Native dense nets take up to 2^24 items; a request beyond this is a mistake. */
const MAX_ITEMS = 1 << 20;

/** A request whose shapes all fit the model. Ids are checked where they are read: by the partition, and by the engine. */
export interface CheckedRequest {
  readonly items: number;
  /** Per input of the dense net (dense features, then bags): 1 when it has a row per item, 0 when it has one for all. */
  readonly perItem: Uint8Array;
  /** The dense features' rows, one feature after another. */
  readonly dense: Float32Array;
  /** In the order of model.bags. */
  readonly bags: readonly CheckedBags[];
}

export interface CheckedBags {
  readonly name: string;
  readonly numBags: number;
  readonly input: BagsInput;
}

const invalid = (message: string, details: Record<string, string | number>): TerabagError =>
  new TerabagError('invalid_argument', message, details);

/** Checks names, lengths, offsets and dense values against the model; dense and perItem live in the scratch. */
export function checkRequest(model: ResolvedModel, request: PredictRequest, scratch: Scratch): CheckedRequest {
  refuseUnknown('dense', Object.keys(request.dense), model.dense);
  refuseUnknown('sparse', Object.keys(request.sparse), model.bags);
  const rows = [...model.dense.map((feature) => denseRows(feature, request)), ...model.bags.map((bag) => checkBags(bag, request).numBags)];
  const largest = rows.reduce((most, count) => Math.max(most, count), 0);
  const items = request.items ?? largest;
  if (!Number.isInteger(items) || items < 0 || items > MAX_ITEMS) {
    throw invalid(`items has to be an integer between 0 and ${MAX_ITEMS}: ${items}`, { field: 'items' });
  }
  const names = [...model.dense, ...model.bags];
  const perItem = scratch.u8('perItem', rows.length);
  rows.forEach((count, input) => {
    if (count !== items && count !== 1) {
      const name = names[input]?.name ?? '';
      throw invalid(`a feature has 1 row (of the user) or one per item: ${name} has ${count}, items ${items}`, {
        field: name,
        rows: count,
        items,
      });
    }
    perItem[input] = count === items ? 1 : 0;
  });
  return {
    items,
    perItem,
    dense: concatDense(model, request, scratch),
    bags: model.bags.map((bag) => checkBags(bag, request)),
  };
}

function refuseUnknown(field: string, given: readonly string[], known: readonly { readonly name: string }[]): void {
  for (const name of given) {
    if (!known.some((entry) => entry.name === name)) {
      throw invalid(`no such ${field} feature in the model: ${name}; it has ${known.map((entry) => entry.name).join(', ') || 'none'}`, {
        field: `${field}.${name}`,
      });
    }
  }
}

function denseRows(feature: { readonly name: string; readonly dim: number }, request: PredictRequest): number {
  const values = request.dense[feature.name];
  if (values === undefined) throw invalid(`dense feature is missing: ${feature.name}`, { field: `dense.${feature.name}` });
  if (values.length % feature.dim !== 0) {
    throw invalid(`dense feature has to have a multiple of its dim: ${feature.name}, dim ${feature.dim}, length ${values.length}`, {
      field: `dense.${feature.name}`,
    });
  }
  return values.length / feature.dim;
}

function concatDense(model: ResolvedModel, request: PredictRequest, scratch: Scratch): Float32Array {
  const given = model.dense.map((feature) => request.dense[feature.name] ?? []);
  const dense = scratch.f32(
    'dense',
    given.reduce((sum, values) => sum + values.length, 0),
  );
  let at = 0;
  given.forEach((values, feature) => {
    if (!(values instanceof Float32Array)) {
      values.forEach((value, position) => {
        if (typeof value !== 'number') {
          throw invalid(`dense values have to be numbers: ${model.dense[feature]?.name}, position ${position}, ${String(value)}`, {
            field: `dense.${model.dense[feature]?.name}`,
          });
        }
      });
    }
    dense.set(values, at);
    at += values.length;
  });
  return dense;
}

function checkBags(bag: { readonly name: string; readonly weighted: boolean }, request: PredictRequest): CheckedBags {
  const field = `sparse.${bag.name}`;
  const input = request.sparse[bag.name];
  if (input === undefined) throw invalid(`bags are missing: ${bag.name}`, { field });
  const { indices, offsets, weights } = input;
  const count = indices.length;
  const bad = (message: string, at: number): TerabagError =>
    new TerabagError('bad_offsets', `${message} for table: ${bag.name}, bag ${at}, offset ${String(offsets[at])}, indices ${count}`, {
      table: bag.name,
      bag: at,
    });
  if (offsets.length === 0) throw bad('offsets need B + 1 entries, at least [0],', 0);
  if (offsets[0] !== 0) throw bad('offsets have to start at 0', 0);
  let previous = 0;
  for (let at = 1; at < offsets.length; at++) {
    const offset = offsets[at] as number;
    if (!Number.isInteger(offset) || offset < previous) throw bad('offsets have to be integers that never decrease', at);
    previous = offset;
  }
  if (previous !== count) throw bad('offsets have to end at the number of indices', offsets.length - 1);
  if (bag.weighted && weights === undefined)
    throw invalid(`weights are missing for a weighted bag: ${bag.name}`, { field: `${field}.weights` });
  if (!bag.weighted && weights !== undefined)
    throw invalid(`weights for a bag that takes none: ${bag.name}`, { field: `${field}.weights` });
  if (weights !== undefined && weights.length !== count) {
    throw invalid(`one weight per index: ${bag.name}, indices ${count}, weights ${weights.length}`, { field: `${field}.weights` });
  }
  return { name: bag.name, numBags: offsets.length - 1, input };
}
