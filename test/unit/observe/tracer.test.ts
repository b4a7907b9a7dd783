import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { KINDS } from '../../../src/observe/layout.js';
import type { RequestRecord } from '../../../src/observe/request-record.js';
import { Tracer } from '../../../src/observe/tracer.js';
import { Admission } from '../../../src/predictor/admission.js';

const admission = () => new Admission(() => ({ endPeriod: () => true }));
const never = new Promise<never>(() => undefined);

test('the latest requests are kept, in the order of their beginning, and those before are overwritten', () => {
  const tracer = new Tracer({ capacity: 5, spans: 4 });
  for (let n = 1; n <= 12; n++) {
    const record = tracer.open();
    if (record !== null) record.items = n;
    record?.enter(KINDS.check);
    record?.close(null);
  }
  const requests = tracer.requests();
  expect(requests.map(({ number, items }) => [number, items])).toEqual([8, 9, 10, 11, 12].map((n) => [n, n]));
  for (const { phases, complete, startUs, endUs } of requests) {
    expect(phases.map(({ kind }) => kind)).toEqual(['admission', 'check']);
    expect(complete).toBe(true);
    expect(phases[0]?.startUs).toBe(startUs);
    expect(phases[1]?.endUs).toBeLessThanOrEqual(endUs);
  }
  tracer.clear();
  expect(tracer.requests()).toEqual([]);
  tracer.enabled = false;
});

test('a record that something still writes into is passed over, and when there is no other the request is not traced', () => {
  const tracer = new Tracer({ capacity: 2 });
  const held = tracer.open();
  held?.hold();
  held?.close('deadline_exceeded');
  for (let n = 0; n < 5; n++) tracer.open()?.close(null);
  expect(tracer.requests().map(({ number }) => number)).toEqual([1, 6]);
  const running = tracer.open();
  expect(tracer.open()).toBe(null);
  expect(tracer.skipped).toBe(1);
  held?.letGo();
  expect(tracer.open()).toBe(held);
  running?.close(null);
  tracer.enabled = false;
});

test('spans beyond the room are dropped, also what native code writes, and the request says so', () => {
  const tracer = new Tracer({ capacity: 1, spans: 1 });
  const record = tracer.open() as RequestRecord;
  const first = record.startJob(KINDS.dense);
  const second = record.startJob(KINDS.dense);
  second.times.fill(7, second.timesAt, second.timesAt + 5);
  second.onThread = true;
  second.end();
  first.onThread = false;
  first.end();
  const rpc = record.startRpc(0, 0, 0);
  rpc.serialized();
  rpc.sent();
  rpc.answered(1, [1, 2, 3, 4, 5, 6, 7]);
  record.enter(KINDS.finish);
  record.close(null);
  expect(tracer.requests()).toMatchObject([{ complete: false, jobs: [{ queuedUs: 0, onThread: false }], rpcs: [] }]);
  tracer.enabled = false;
});

test('an answer that comes after the request has ended is written where it belongs, and counts as none', () => {
  const tracer = new Tracer({ capacity: 2, spans: 4 });
  const late = tracer.open() as RequestRecord;
  const rpc = late.startRpc(0, 0, 0);
  rpc.serialized();
  rpc.hold();
  rpc.sent();
  late.close('deadline_exceeded');
  for (let n = 0; n < 3; n++) tracer.open()?.close(null);
  rpc.letGo();
  rpc.answered(performance.now(), [1, 2, 3, 4, 5, 6, 7]);
  const [first, last] = tracer.requests();
  expect(first).toMatchObject({ number: 1, error: 'deadline_exceeded', rpcs: [{ receivedUs: null, stages: null, endUs: first?.endUs }] });
  expect(last).toMatchObject({ number: 4, rpcs: [] });
  tracer.enabled = false;
});

test('only requests without another beside them count as alone', () => {
  const tracer = new Tracer();
  const [first, second] = [tracer.open(), tracer.open()];
  first?.close(null);
  second?.close(null);
  tracer.open()?.close(null);
  expect(tracer.requests().map(({ alone }) => alone)).toEqual([false, false, true]);
  tracer.enabled = false;
});

test('nothing is recorded while the tracer is off', () => {
  const tracer = new Tracer();
  tracer.enabled = false;
  expect(tracer.open()).toBe(null);
  expect([tracer.skipped, tracer.requests()]).toEqual([0, []]);
});

test('capacity and spans that are no whole numbers are refused', () => {
  expect(() => new Tracer({ capacity: 0 })).toThrow(/capacity has to be an integer/);
  expect(() => new Tracer({ spans: 1.5 })).toThrow(/spans has to be an integer/);
});

test('a request that is refused, fails, is aborted or passes its deadline leaves a closed record with its code', async () => {
  const tracer = new Tracer();
  const gate = admission();
  const run = (options: object, work: () => Promise<number>) => gate.run(options, work, tracer.open() ?? undefined).catch(() => undefined);
  await run({ deadlineMs: -1 }, async () => 1);
  await run({}, () => Promise.reject(new Error('boom')));
  const controller = new AbortController();
  const aborted = run({ signal: controller.signal }, () => never);
  controller.abort();
  await aborted;
  // A timer may be a little early by this clock, so that the length is held against the same clock outside.
  const before = performance.now() * 1000;
  await run({ deadlineMs: 50 }, () => never);
  const after = performance.now() * 1000;
  await run({}, async () => 1);
  const requests = tracer.requests();
  expect(requests.map(({ error }) => error)).toEqual(['invalid_argument', 'internal', 'aborted', 'deadline_exceeded', null]);
  for (const { startUs, endUs } of requests) expect(endUs).toBeGreaterThanOrEqual(startUs);
  const late = requests[3] as (typeof requests)[number];
  expect(late.startUs).toBeGreaterThanOrEqual(before);
  expect(late.endUs).toBeLessThanOrEqual(after);
  expect(late.endUs - late.startUs).toBeGreaterThan((after - before) / 2);
  tracer.enabled = false;
});

test('a collection during a request is cut to it', async () => {
  const tracer = new Tracer();
  const record = tracer.open();
  const keep: unknown[] = [];
  for (let n = 0; n < 3_000_000; n++) keep[n % 1000] = { n };
  record?.close(null);
  await sleep(20);
  const [request] = tracer.requests();
  expect(request?.collections.length).toBeGreaterThan(0);
  for (const { startUs, endUs } of request?.collections ?? []) {
    expect(startUs).toBeGreaterThanOrEqual(request?.startUs as number);
    expect(endUs).toBeLessThanOrEqual(request?.endUs as number);
    expect(endUs).toBeGreaterThan(startUs);
  }
  tracer.enabled = false;
});
