import { TerabagError } from '../errors.js';
import type { ResolvedModel } from '../model/graph.js';
import type { Partition } from './partition.js';
import type { CheckedRequest } from './request.js';
import { bytesOf, type Scratch } from './scratch.js';

interface RowWisePart {
  readonly bag: number;
  readonly part: number;
  readonly sent: NonNullable<Partition['segments'][number]['sent']>;
  readonly rows: Float32Array;
}

/**
 * Puts the answers of all destinations where the dense net reads them: [bags, dim] per bag layer, in model order. Parts of row-wise tables
 * are added in ascending order of the part, whatever the order of arrival, so that the same plan always gives the same bits.
 */
export function gatherPooled(
  model: ResolvedModel,
  request: CheckedRequest,
  partitions: readonly (Partition | null)[],
  answers: readonly (Uint8Array | null)[],
  scratch: Scratch,
): Float32Array {
  const starts: number[] = [];
  let length = 0;
  request.bags.forEach((bags, bag) => {
    starts.push(length);
    length += bags.numBags * (model.bags[bag]?.dim ?? 0);
  });
  const pooled = scratch.f32('pooled', length);
  const pooledBytes = bytesOf(pooled);
  const rowWise: RowWisePart[] = [];

  partitions.forEach((partition, destination) => {
    const answer = answers[destination];
    if (partition === null || answer === null || answer === undefined) return;
    let at = 0;
    for (const { assignment, numBags, sent } of partition.segments) {
      const bytes = numBags * (model.bags[assignment.bag]?.dim ?? 0) * 4;
      const rows = answer.subarray(at, at + bytes);
      at += bytes;
      if (at > answer.byteLength) throw answerLength(answer.byteLength, at);
      if (sent === null) pooledBytes.set(rows, (starts[assignment.bag] as number) * 4);
      else rowWise.push({ bag: assignment.bag, part: assignment.part, sent, rows: new Float32Array(Uint8Array.from(rows).buffer) });
    }
    if (at !== answer.byteLength) throw answerLength(answer.byteLength, at);
  });

  rowWise.sort((a, b) => a.bag - b.bag || a.part - b.part);
  addRowWise(model, request, pooled, starts, rowWise, partitions);
  return pooled;
}

function answerLength(bytes: number, expected: number): TerabagError {
  return new TerabagError('bad_message', `answer of another length than the request asks for: ${bytes} bytes, expected ${expected}`, {
    bytes,
    expected,
  });
}

function addRowWise(
  model: ResolvedModel,
  request: CheckedRequest,
  pooled: Float32Array,
  starts: readonly number[],
  rowWise: readonly RowWisePart[],
  partitions: readonly (Partition | null)[],
): void {
  const tableWise = new Set(
    partitions.flatMap(
      (partition) => partition?.segments.filter(({ sent }) => sent === null).map(({ assignment }) => assignment.bag) ?? [],
    ),
  );
  model.bags.forEach(({ dim, pooling }, bag) => {
    if (tableWise.has(bag)) return;
    const start = starts[bag] as number;
    const bags = request.bags[bag];
    if (bags === undefined) return;
    pooled.fill(0, start, start + bags.numBags * dim);
    const ids = new Uint32Array(pooling === 'mean' ? bags.numBags : 0);
    for (const part of rowWise) {
      if (part.bag !== bag) continue;
      part.sent.bags.forEach((target, row) => {
        if (pooling === 'mean') ids[target] = (ids[target] as number) + (part.sent.lengths[row] as number);
        const to = start + target * dim;
        for (let d = 0; d < dim; d++) pooled[to + d] = (pooled[to + d] as number) + (part.rows[row * dim + d] as number);
      });
    }
    if (pooling !== 'mean') return;
    ids.forEach((count, b) => {
      for (let d = 0; count > 0 && d < dim; d++) pooled[start + b * dim + d] = (pooled[start + b * dim + d] as number) / count;
    });
  });
}
