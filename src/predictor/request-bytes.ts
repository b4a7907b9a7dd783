import { batchBytes } from '../engine/sparse-batch.js';
import type { ResolvedModel } from '../model/graph.js';
import { pooledLength } from './gather.js';
import type { Partition } from './partition.js';
import type { CheckedRequest } from './request.js';

/** A part of a request whose ids are cut by where they are asked for. */
interface CutBatch {
  readonly request: CheckedRequest;
  /** By round. */
  readonly partitions: readonly (readonly Partition[])[];
  readonly returned: Float32Array;
}

/** What a request holds while it is in flight: its ids, as they are sent, the vectors that it is answered with, dense rows and scores. */
export function requestBytes(model: ResolvedModel, batches: readonly CutBatch[]): number {
  let bytes = 0;
  for (const { request, partitions, returned } of batches) {
    bytes += request.dense.byteLength + returned.byteLength + 4 * pooledLength(model, request);
    for (const round of partitions) for (const { batch } of round) bytes += batch === null ? 0 : batchBytes(batch);
  }
  return bytes;
}
