import fc from 'fast-check';
import { afterEach, expect, test, vi } from 'vitest';
import { chromeTrace, type TraceEvent } from '../../../src/observe/chrome-trace.js';
import { KINDS } from '../../../src/observe/layout.js';
import type { RequestRecord } from '../../../src/observe/request-record.js';
import type { JobSpan, RpcSpan } from '../../../src/observe/spans.js';
import { Tracer } from '../../../src/observe/tracer.js';
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

afterEach(() => vi.restoreAllMocks());

/** A request as a predictor stamps it: of each batch one job at a time, and one message to a shard. */
class StampedRequest {
  readonly #jobs = new Map<number, JobSpan>();
  readonly #rpcs = new Map<string, { readonly rpc: RpcSpan; step: number }>();
  constructor(private readonly record: RequestRecord) {}

  phase(batch: number): void {
    this.record.enter(KINDS.place, batch);
  }
  /** Starts the batch's job, or ends it. The addon's clock says how long it queued and ran. */
  job(batch: number, us: number): void {
    const running = this.#jobs.get(batch);
    if (running === undefined) this.#jobs.set(batch, this.record.startJob(batch === 0 ? KINDS.pool : KINDS.dense, batch));
    else {
      running.onThread = us > 20;
      running.times.set([us, 2 * us, us], running.timesAt);
      running.end();
      this.#jobs.delete(batch);
    }
  }
  /** Takes the message to the shard a step further: encoded, sent, answered. It may be answered when the request has ended. */
  rpc(batch: number, shard: number, us: number): void {
    const key = `${batch}.${shard}`;
    const under = this.#rpcs.get(key) ?? { rpc: this.record.startRpc(batch, 0, shard), step: 0 };
    this.#rpcs.set(key, under);
    const { rpc, step } = under;
    if (step === 0) rpc.hold();
    if (step === 1) rpc.serialized();
    if (step === 2) rpc.sent();
    if (step === 3) {
      rpc.letGo();
      rpc.answered(performance.now(), [us, us / 2, 0, 3 * us, 0, us, us]);
      this.#rpcs.delete(key);
    }
    under.step++;
  }
  close(): void {
    this.record.close(null);
    for (const { rpc, step } of this.#rpcs.values()) if (step > 0) rpc.letGo();
  }
}

test('slices of a track nest, in whatever order requests, batches, jobs and answers come, also at one moment', () => {
  const step = fc.record({
    request: fc.nat(2),
    what: fc.constantFrom('phase' as const, 'job' as const, 'rpc' as const, 'rpc' as const, 'leave' as const, 'close' as const),
    batch: fc.nat(2),
    shard: fc.nat(1),
    us: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 60, noNaN: true })),
  });
  let spans = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150, size: 'max' }), (steps) => {
      let now = 1000.25;
      vi.spyOn(performance, 'now').mockImplementation(() => now);
      const tracer = new Tracer({ capacity: 64 });
      tracer.watch(['a', 'b']);
      const running = new Map<number, { readonly record: RequestRecord; readonly stamped: StampedRequest }>();
      for (const { request, what, batch, shard, us } of steps) {
        now += us / 1000;
        const found = running.get(request);
        if (found === undefined) {
          const record = tracer.open() as RequestRecord;
          running.set(request, { record, stamped: new StampedRequest(record) });
        } else if (what === 'close') {
          found.stamped.close();
          running.delete(request);
        } else if (what === 'leave') found.record.leave();
        else if (what === 'phase') found.stamped.phase(batch);
        else if (what === 'job') found.stamped.job(batch, us);
        else found.stamped.rpc(batch, shard, us);
      }
      for (const { stamped } of running.values()) stamped.close();
      const trace = chromeTrace(tracer.requests());
      spans += trace.traceEvents.length;
      expectValidTrace(JSON.parse(JSON.stringify(trace)));
      tracer.enabled = false;
    }),
    { numRuns: 150 },
  );
  expect(spans).toBeGreaterThan(10_000);
});

/** All times but durations, later. */
function shifted<T>(value: T, us: number): T {
  const times = new Set(['startUs', 'endUs', 'serializedUs', 'sentUs', 'receivedUs']);
  return JSON.parse(JSON.stringify(value, (key, inner) => (typeof inner === 'number' && times.has(key) ? inner + us : inner))) as T;
}

/** Spans of one RPC, encoded at 5 and answered at 210, whose service takes 80: start and length of those of a name. */
function rpcSpans(sentUs: number): (name: string) => [number, number | undefined][] {
  const stages = { deserializeUs: 10, dispatchUs: 0, queueUs: 0, poolUs: 50, handBackUs: 0, serializeUs: 20, poolCpuUs: 45 };
  const rpc = { batch: 0, round: 0, shard: 'a', startUs: 0, serializedUs: 5, sentUs, receivedUs: 210, endUs: 220 };
  const trace = chromeTrace([
    {
      ...{ number: 1, items: 1, startUs: 0, endUs: 300, error: null, complete: true, alone: true, mainCpuUs: 0 },
      ...{ phases: [], jobs: [], collections: [], rpcs: [{ ...rpc, idleUs: 0, idleSentUs: 0, idleReceivedUs: 0, stages }] },
    },
  ]);
  expectValidTrace(JSON.parse(JSON.stringify(trace)));
  return (name) => trace.traceEvents.filter((event: TraceEvent) => event.name === name).map(({ ts, dur }) => [ts, dur]);
}

test('a call of send that returns when the shard has begun ends where the service begins', () => {
  const spans = rpcSpans(200);
  expect(spans('send')).toEqual([[5, 125]]);
  expect(spans('network').every(([, dur]) => dur === 0)).toBe(true);
  expect(spans('shard: pool')).toEqual([[140, 50]]);
});

test('the network is split evenly around the service of the shard', () => {
  const spans = rpcSpans(10);
  expect(spans('network')).toEqual([
    [10, 60],
    [150, 60],
  ]);
  expect(spans('shard: pool')).toEqual([[80, 50]]);
  expect(spans('shard: serialize')).toEqual([[130, 20]]);
});
