import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Admission } from '../../../src/predictor/admission.js';
import { Tracer } from '../../../src/trace/tracer.js';

const admission = (): Admission<null> => new Admission(64, () => null);
const never = new Promise<never>(() => undefined);

test('the latest requests are kept, in the order of their beginning, and those before are overwritten', () => {
  const tracer = new Tracer({ capacity: 5, spans: 4 });
  for (let n = 1; n <= 12; n++) {
    const record = tracer.open();
    record?.setHeader('items', n);
    record?.enter('check', 0, 0);
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
  const tracer = new Tracer({ capacity: 1, spans: 2 });
  const record = tracer.open();
  const first = record?.startJob('dense', 0, 0) as number;
  const second = record?.startJob('dense', 0, 0) as number;
  expect(second).toBe(-1);
  expect(record?.timesAt(second)).not.toBe(record?.timesAt(first));
  record?.slab.fill(7, record.timesAt(second), record.timesAt(second) + 5);
  record?.endJob(second, true);
  record?.endJob(first, false);
  record?.answered(record.startRpc(0, 0, 0), 1, null);
  record?.close(null);
  expect(tracer.requests()).toMatchObject([{ complete: false, jobs: [{ queuedUs: 0, onThread: false }], rpcs: [] }]);
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
  const run = (options: object, work: () => Promise<number>) => gate.run(options, work, tracer.open()).catch(() => undefined);
  await run({ deadlineMs: -1 }, async () => 1);
  await run({}, () => Promise.reject(new Error('boom')));
  const controller = new AbortController();
  const aborted = run({ signal: controller.signal }, () => never);
  controller.abort();
  await aborted;
  await run({ deadlineMs: 5 }, () => never);
  await run({}, async () => 1);
  const requests = tracer.requests();
  expect(requests.map(({ error }) => error)).toEqual(['invalid_argument', 'internal', 'aborted', 'deadline_exceeded', null]);
  for (const { startUs, endUs } of requests) expect(endUs).toBeGreaterThanOrEqual(startUs);
  const late = requests[3] as (typeof requests)[number];
  expect(late.endUs - late.startUs).toBeGreaterThanOrEqual(4900);
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
