import fc from 'fast-check';
import { expect, test } from 'vitest';
import { chromeTrace, type TraceEvent } from '../../../src/trace/chrome-trace.js';
import { anyRequest } from './random-requests.js';
import { expectValidTrace } from './valid-trace.js';

test('whatever was recorded of RPCs and requests, the trace keeps to the rules of the format', () => {
  // Spans of one track that overlap come from records that no predictor makes: one phase, job and RPC a track here.
  const sparse = anyRequest.map((request) => ({
    ...request,
    phases: request.phases.slice(0, 1),
    jobs: request.jobs.slice(0, 1),
    rpcs: request.rpcs.slice(0, 1),
    collections: request.collections.slice(0, 1),
  }));
  fc.assert(
    fc.property(fc.array(fc.tuple(sparse, fc.nat(4)), { maxLength: 6 }), (placed) => {
      const requests = placed.map(([request, turn], number) => shifted({ ...request, number }, turn * 2600));
      const trace = chromeTrace(requests);
      expectValidTrace(JSON.parse(JSON.stringify(trace)));
      const names = trace.traceEvents.map(({ name }) => name);
      for (const { number } of requests) expect(names).toContain(`request ${number}`);
    }),
    { numRuns: 300 },
  );
});

/** All times but durations, later. */
function shifted<T>(value: T, us: number): T {
  const times = new Set(['startUs', 'endUs', 'serializedUs', 'sentUs', 'receivedUs']);
  return JSON.parse(JSON.stringify(value, (key, inner) => (typeof inner === 'number' && times.has(key) ? inner + us : inner))) as T;
}

test('the network is split evenly around the service of the shard', () => {
  const at = { batch: 0, round: 0 };
  const stages = { deserializeUs: 10, dispatchUs: 0, queueUs: 0, poolUs: 50, handBackUs: 0, serializeUs: 20, poolCpuUs: 45 };
  const rpc = { ...at, shard: 'a', startUs: 0, serializedUs: 5, sentUs: 10, receivedUs: 210, endUs: 220 };
  const { traceEvents } = chromeTrace([
    {
      ...{ number: 1, items: 1, startUs: 0, endUs: 300, error: null, complete: true, alone: true, mainCpuUs: 0 },
      ...{ phases: [], jobs: [], collections: [], rpcs: [{ ...rpc, idleUs: 0, idleSentUs: 0, idleReceivedUs: 0, stages }] },
    },
  ]);
  const spans = (name: string): [number, number | undefined][] =>
    traceEvents.filter((event: TraceEvent) => event.name === name).map(({ ts, dur }) => [ts, dur]);
  expect(spans('network')).toEqual([
    [10, 60],
    [150, 60],
  ]);
  expect(spans('shard: pool')).toEqual([[80, 50]]);
  expect(spans('shard: serialize')).toEqual([[130, 20]]);
});
