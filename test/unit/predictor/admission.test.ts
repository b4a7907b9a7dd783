import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { Admission } from '../../../src/predictor/admission.js';
import type { Scratch } from '../../../src/predictor/scratch.js';

const admission = (maxInFlight = 4): Admission<null> => new Admission(maxInFlight, () => null);
const never = new Promise<never>(() => undefined);

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let settle: [(value: T) => void, (error: Error) => void] | undefined;
  const promise = new Promise<T>((resolve, reject) => {
    settle = [resolve, reject];
  });
  return { promise, resolve: settle![0], reject: settle![1] };
}

test('work that does not end is given up at the deadline', async () => {
  const startedAt = performance.now();
  await expect(admission().run({ deadlineMs: 30 }, () => never)).rejects.toMatchObject({
    code: 'deadline_exceeded',
    details: { deadlineMs: 30 },
  });
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(29);
});

test('an error of the work that is due with the deadline is preferred, since it names what failed', async () => {
  for (let n = 0; n < 20; n++) {
    const work = async (): Promise<never> => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      throw new TypeError('the shard');
    };
    // The timers are both due when the loop gets to look at them.
    const answer = admission().run({ deadlineMs: 5 }, work);
    const until = performance.now() + 8;
    while (performance.now() < until);
    await expect(answer).rejects.toMatchObject({ code: 'internal', message: 'the shard' });
  }
});

test('an abort before or during the work ends it at once', async () => {
  const gate = admission();
  await expect(gate.run({ signal: AbortSignal.abort('before') }, () => never)).rejects.toMatchObject({ code: 'aborted', cause: 'before' });
  expect(gate.inFlight).toBe(0);
  const controller = new AbortController();
  const running = gate.run({ signal: controller.signal, deadlineMs: 10_000 }, () => never);
  controller.abort('during');
  await expect(running).rejects.toMatchObject({ code: 'aborted', cause: 'during' });
  expect(gate.counts).toEqual({ requests: 2, errors: 2 });
});

test('a scratch is lent again only when the work has ended, not when the caller was told', async () => {
  const gate = admission();
  const work = deferred<void>();
  let first: Scratch | undefined;
  const late = gate.run({ deadlineMs: 5 }, (scratch) => {
    first = scratch;
    return work.promise;
  });
  await expect(late).rejects.toMatchObject({ code: 'deadline_exceeded' });
  const lent = (): Promise<Scratch> => gate.run({}, async (scratch) => scratch);
  expect(gate.inFlight).toBe(1);
  expect(await lent()).not.toBe(first);
  work.resolve();
  await sleep(0);
  expect(gate.inFlight).toBe(0);
  expect([await lent()].concat(await Promise.all([lent(), lent()]))).toContain(first);
});

test('requests beyond the limit are refused as overloaded, also those whose callers were already told', async () => {
  const gate = admission(2);
  const work = deferred<number>();
  const running = [gate.run({}, () => work.promise), gate.run({ deadlineMs: 5 }, () => work.promise)];
  await expect(running[1]).rejects.toMatchObject({ code: 'deadline_exceeded' });
  await expect(gate.run({}, async () => 1)).rejects.toMatchObject({ code: 'overloaded', details: { inFlight: 2 } });
  work.resolve(7);
  expect(await running[0]).toBe(7);
  expect(await gate.run({}, async () => 1)).toBe(1);
});

test('whatever work throws becomes a TerabagError with its cause', async () => {
  const cause = new RangeError('boom');
  await expect(admission().run({}, () => Promise.reject(cause))).rejects.toMatchObject({ name: 'TerabagError', code: 'internal', cause });
});

test('close refuses new requests and waits for all that run, for every caller of close', async () => {
  const gate = admission();
  const work = deferred<number>();
  const running = gate.run({}, () => work.promise);
  const closed: number[] = [];
  const closing = [1, 2].map((n) => gate.close().then(() => closed.push(n)));
  await expect(gate.run({}, async () => 1)).rejects.toMatchObject({ code: 'closed' });
  await sleep(5);
  expect(closed).toEqual([]);
  work.resolve(3);
  expect(await running).toBe(3);
  await Promise.all(closing);
  await gate.close();
});

test('work that is done on return is answered without a timer, and its scratch is lent to the next', async () => {
  const timers = vi.spyOn(globalThis, 'setTimeout');
  const gate = admission(1);
  const lent: Scratch[] = [];
  const answers = [1, 2].map((n) =>
    gate.run({}, (scratch) => {
      lent.push(scratch);
      expect(gate.inFlight).toBe(1);
      return n;
    }),
  );
  expect(timers).not.toHaveBeenCalled();
  timers.mockRestore();
  expect(await Promise.all(answers)).toEqual([1, 2]);
  expect(lent[1]).toBe(lent[0]);
  expect(gate.inFlight).toBe(0);
});

test('what work throws before it returns is a rejected promise, counted once, and gives the scratch back', async () => {
  const gate = admission(1);
  const fail = (): never => {
    throw new RangeError('boom');
  };
  await expect(gate.run({}, fail)).rejects.toMatchObject({ name: 'TerabagError', code: 'internal' });
  expect(gate.counts).toEqual({ requests: 1, errors: 1 });
  expect(await gate.run({}, () => 3)).toBe(3);
});

test('a request whose work aborts it is aborted', async () => {
  const controller = new AbortController();
  const work = (): Promise<never> => {
    controller.abort('within');
    return never;
  };
  await expect(admission().run({ signal: controller.signal }, work)).rejects.toMatchObject({ code: 'aborted', cause: 'within' });
});
