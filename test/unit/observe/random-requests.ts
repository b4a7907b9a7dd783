import fc from 'fast-check';
import type { TracedJob, TracedPhase, TracedRequest, TracedRpc } from '../../../src/observe/traced-request.js';
import { SHARD_STAGES, type ShardStage } from '../../../src/rpc/messages.js';

const us = (max: number): fc.Arbitrary<number> => fc.double({ min: 0, max, noNaN: true });

/** Stages in the order of SHARD_STAGES. */
export const stagesOf = (...values: number[]): Record<ShardStage, number> =>
  Object.fromEntries(SHARD_STAGES.map((stage, s) => [stage, values[s] ?? 0])) as Record<ShardStage, number>;

const START = 1_000_000;
const LENGTH = 5000;

const place = fc.record({ batch: fc.nat(2), round: fc.nat(1) });
/** Moments of a request, ascending. */
const moments = (count: number): fc.Arbitrary<number[]> =>
  fc.array(us(LENGTH), { minLength: count, maxLength: count }).map((times) => times.sort((a, b) => a - b).map((time) => START + time));

const phase: fc.Arbitrary<TracedPhase> = fc
  .tuple(
    place,
    moments(2),
    fc.constantFrom('admission' as const, 'check' as const, 'partition' as const, 'place' as const, 'finish' as const),
  )
  .map(([where, [startUs = 0, endUs = 0], kind]) => ({ ...where, kind, startUs, endUs }));

const job: fc.Arbitrary<TracedJob> = fc
  .tuple(place, moments(2), fc.constantFrom('dense' as const, 'pool' as const), us(LENGTH), us(LENGTH), us(9000), us(1), fc.boolean())
  .map(([where, [startUs = 0, endUs = 0], kind, queuedUs, ranUs, cpuUs, interactionShare, onThread]) => ({
    ...{ ...where, kind, startUs, endUs, queuedUs, ranUs, cpuUs, interactionShare, onThread },
  }));

const rpc: fc.Arbitrary<TracedRpc> = fc
  .tuple(place, moments(5), fc.nat(3), fc.nat(4), us(1e6), us(LENGTH), fc.array(us(1500), { minLength: 7, maxLength: 7 }))
  .map(([where, [startUs = 0, serializedUs = 0, sentUs = 0, receivedUs = 0, endUs = 0], shard, got, idleSentUs, idleUs, stages]) => ({
    ...where,
    shard: `shard-${shard}`,
    startUs,
    serializedUs: got > 0 ? serializedUs : null,
    sentUs: got > 1 ? sentUs : null,
    receivedUs: got > 2 ? receivedUs : null,
    endUs: got > 2 ? endUs : START + LENGTH,
    idleUs: got > 2 ? idleUs : 0,
    idleSentUs,
    idleReceivedUs: idleSentUs + idleUs,
    stages: got > 2 ? stagesOf(...stages) : null,
  }));

const collection = moments(2).map(([startUs = 0, endUs = 0]) => ({ startUs, endUs }));

/** Records of any shape, also such as no predictor makes: spans in any order, on top of each other, with gaps. */
export const anyRequest: fc.Arbitrary<TracedRequest> = fc.record({
  startUs: fc.constant(START),
  endUs: fc.constant(START + LENGTH),
  number: fc.nat(1000),
  items: fc.nat(100),
  error: fc.constant(null),
  complete: fc.constant(true),
  alone: fc.boolean(),
  mainCpuUs: fc.option(us(LENGTH)),
  phases: fc.array(phase, { maxLength: 8 }),
  jobs: fc.array(job, { maxLength: 5 }),
  rpcs: fc.array(rpc, { maxLength: 8 }),
  collections: fc.array(collection, { maxLength: 3 }),
});
