import { TerabagError } from '../errors.js';
import type { ResolvedModel } from '../model/graph.js';
import type { Partition } from './partition.js';
import type { CheckedRequest } from './request.js';
import { bytesOf } from './scratch.js';

interface RowWisePart {
  readonly bag: number;
  readonly part: number;
  readonly sent: NonNullable<Partition['segments'][number]['sent']>;
  readonly rows: Float32Array;
}

/** Where each bag layer's vectors start, in floats, when they lie one after another in model order, [bags, dim] each; and the end. */
export function pooledStarts(model: ResolvedModel, request: CheckedRequest): number[] {
  const starts = [0];
  request.bags.forEach(({ numBags }, bag) => {
    starts.push((starts[bag] as number) + numBags * (model.bags[bag]?.dim ?? 0));
  });
  return starts;
}

/**
 * Puts the answers of all destinations into pooled, as pooledStarts lays it out; only of these bag layers, which are all that the partitions
 * ask for. Parts of row-wise tables are added in ascending order of the part, whatever the order of arrival, so that the same plan always
 * gives the same bits.
 */
export function gatherPooled(
  model: ResolvedModel,
  request: CheckedRequest,
  bags: readonly number[],
  partitions: readonly (Partition | null)[],
  answers: readonly (Uint8Array | null)[],
  pooled: Float32Array,
): void {
  const starts = pooledStarts(model, request);
  const pooledBytes = bytesOf(pooled);
  const rowWise: RowWisePart[] = [];
  const tableWise = new Set<number>();

  partitions.forEach((partition, destination) => {
    const answer = answers[destination];
    if (partition === null || answer === null || answer === undefined) return;
    let at = 0;
    for (const { assignment, numBags, sent } of partition.segments) {
      const { bag, part } = assignment;
      const bytes = numBags * (model.bags[bag]?.dim ?? 0) * 4;
      const rows = answer.subarray(at, at + bytes);
      at += bytes;
      if (at > answer.byteLength) throw answerLength(answer.byteLength, at);
      if (sent === null) {
        pooledBytes.set(rows, (starts[bag] as number) * 4);
        tableWise.add(bag);
      } else rowWise.push({ bag, part, sent, rows: new Float32Array(Uint8Array.from(rows).buffer) });
    }
    if (at !== answer.byteLength) throw answerLength(answer.byteLength, at);
  });

  rowWise.sort((a, b) => a.bag - b.bag || a.part - b.part);
  for (const bag of bags) {
    // Of a row-wise table; or one without bags, which has no floats.
    if (!tableWise.has(bag)) {
      const parts = rowWise.filter((part) => part.bag === bag);
      addRowWise(model.bags[bag] as ModelBag, pooled.subarray(starts[bag], starts[bag + 1]), parts);
    }
  }
}

type ModelBag = ResolvedModel['bags'][number];

function answerLength(bytes: number, expected: number): TerabagError {
  return new TerabagError('bad_message', `answer of another length than the request asks for: ${bytes} bytes, expected ${expected}`, {
    bytes,
    expected,
  });
}

function addRowWise({ dim, pooling }: ModelBag, pooled: Float32Array, parts: readonly RowWisePart[]): void {
  pooled.fill(0);
  const numBags = pooled.length / dim;
  const ids = new Uint32Array(pooling === 'mean' ? numBags : 0);
  for (const { sent, rows } of parts) {
    sent.bags.forEach((target, row) => {
      if (pooling === 'mean') ids[target] = (ids[target] as number) + (sent.lengths[row] as number);
      for (let d = 0; d < dim; d++) pooled[target * dim + d] = (pooled[target * dim + d] as number) + (rows[row * dim + d] as number);
    });
  }
  ids.forEach((count, bag) => {
    for (let d = 0; count > 0 && d < dim; d++) pooled[bag * dim + d] = (pooled[bag * dim + d] as number) / count;
  });
}

/** [bags, dim] per bag layer again, from vectors of the bags that differ: bag b of layer l is vector sources[l][b], or b where null. */
export function expandPooled(
  model: ResolvedModel,
  request: CheckedRequest,
  sources: readonly (Uint32Array | null)[],
  pooled: Float32Array,
  expanded: Float32Array,
): void {
  const starts = pooledStarts(model, request);
  let at = 0;
  sources.forEach((source, bag) => {
    const [start, end] = [starts[bag] as number, starts[bag + 1] as number];
    if (source === null) {
      expanded.set(pooled.subarray(start, end), at);
      at += end - start;
      return;
    }
    const { dim } = model.bags[bag] as ModelBag;
    for (const vector of source) {
      expanded.set(pooled.subarray(start + vector * dim, start + (vector + 1) * dim), at);
      at += dim;
    }
  });
}
