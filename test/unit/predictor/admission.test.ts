import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { Admission, type Admitted } from '../../../src/predictor/admission.js';

class Memory {
  worthKeeping = true;
  endPeriod(): boolean {
    return this.worthKeeping;
  }
}

const admission = (maxInFlight = 4): Admission<Memory> => new Admission(maxInFlight, () => new Memory());
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

test('no deadline comes early, not even by a part of a millisecond', async () => {
  for (let n = 0; n < 30; n++) {
    const until = performance.now() + n / 30;
    while (performance.now() < until);
    const startedAt = performance.now();
    await expect(admission().run({ deadlineMs: 3 }, () => never)).rejects.toMatchObject({ code: 'deadline_exceeded' });
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(3);
  }
});

test('an error that is due with the deadline is preferred whatever other timers there are, when the event loop was late', async () => {
  for (let n = 0; n < 5; n++) {
    // Node runs all timers of one duration together: with this one, that of the deadline comes before shorter ones.
    const older = setTimeout(() => undefined, 40);
    await sleep(15);
    // As a client of a shard: at the deadline it reads its socket in a turn of the loop, and then fails.
    const work = (): Promise<never> =>
      new Promise((_, reject) => setTimeout(() => setImmediate(() => reject(new TypeError('the shard'))), 38));
    const answer = admission().run({ deadlineMs: 40 }, work);
    const until = performance.now() + 80;
    while (performance.now() < until);
    await expect(answer).rejects.toMatchObject({ message: 'the shard' });
    clearTimeout(older);
  }
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
  expect(gate.counts.inFlight).toBe(0);
  const controller = new AbortController();
  const running = gate.run({ signal: controller.signal, deadlineMs: 10_000 }, () => never);
  controller.abort('during');
  await expect(running).rejects.toMatchObject({ code: 'aborted', cause: 'during' });
  expect(gate.counts).toMatchObject({ requests: 2, errors: 2, inFlight: 0 });
});

test('a request that was given up frees its slot at once, and its memory when its work has ended', async () => {
  for (const how of ['deadline', 'abort', 'failure'] as const) {
    const gate = admission(1);
    const work = deferred<void>();
    const controller = new AbortController();
    let first: Admitted<Memory> | undefined;
    const overs: string[] = [];
    const given = gate.run({ signal: controller.signal, deadlineMs: how === 'deadline' ? 5 : 10_000 }, (admitted) => {
      first = admitted;
      admitted.onOver = () => overs.push(how);
      return work.promise;
    });
    expect(gate.counts).toMatchObject({ inFlight: 1, lingering: 0 });
    if (how === 'abort') controller.abort();
    if (how === 'failure') first?.fail(new TerabagError('bad_message', 'as told'));
    await expect(given).rejects.toMatchObject({ code: { deadline: 'deadline_exceeded', abort: 'aborted', failure: 'bad_message' }[how] });
    expect([overs, first?.over, gate.counts.inFlight, gate.counts.lingering]).toEqual([[how], true, 0, 1]);
    const lent = (): Promise<Memory> => gate.run({}, async ({ memory }) => memory);
    const second = await lent();
    expect(second).not.toBe(first?.memory);
    work.resolve();
    await sleep(0);
    expect(gate.counts).toMatchObject({ inFlight: 0, lingering: 0, errors: 1 });
    // The latest that returned is lent first.
    expect(await lent()).toBe(first?.memory);
  }
});

test('a failure that is told before the work has returned reaches the caller', async () => {
  const work = (admitted: Admitted<Memory>): Promise<number> => {
    admitted.fail(new TerabagError('bad_message', 'as told'));
    return Promise.resolve(1);
  };
  await expect(admission().run({}, work)).rejects.toMatchObject({ code: 'bad_message' });
});

test('requests beyond the limit are refused as overloaded; those that were given up count apart, up to the same number', async () => {
  const gate = admission(2);
  const work = deferred<number>();
  const running = [gate.run({}, () => work.promise), gate.run({ deadlineMs: 5 }, () => work.promise)];
  await expect(gate.run({}, async () => 1)).rejects.toMatchObject({ code: 'overloaded', details: { inFlight: 2 } });
  await expect(running[1]).rejects.toMatchObject({ code: 'deadline_exceeded' });
  const given = gate.run({ deadlineMs: 5 }, () => work.promise);
  await expect(given).rejects.toMatchObject({ code: 'deadline_exceeded' });
  const last = gate.run({}, () => work.promise);
  expect(gate.counts).toMatchObject({ inFlight: 2, lingering: 2 });
  work.resolve(7);
  expect(await Promise.all([running[0], last])).toEqual([7, 7]);
  expect(await gate.run({}, async () => 1)).toBe(1);
});

test('while native work of requests that were given up goes on, only so many more are let in', async () => {
  const gate = admission(2);
  const work = deferred<number>();
  for (let n = 0; n < 4; n++) {
    const controller = new AbortController();
    const given = gate.run({ signal: controller.signal }, () => work.promise);
    controller.abort();
    await expect(given).rejects.toMatchObject({ code: 'aborted' });
  }
  await expect(gate.run({}, async () => 1)).rejects.toMatchObject({ code: 'overloaded', details: { inFlight: 0, lingering: 4 } });
  work.resolve(7);
  await sleep(0);
  expect(await gate.run({}, async () => 1)).toBe(1);
});

test('memory of a burst is let go when nobody needs it, and what is no more worth keeping too', async () => {
  vi.useFakeTimers();
  try {
    const made: Memory[] = [];
    const gate = new Admission(64, () => {
      made.push(new Memory());
      return made.at(-1) as Memory;
    });
    const burst = async (requests: number): Promise<void> => {
      const work = deferred<void>();
      const running = Array.from({ length: requests }, () => gate.run({}, () => work.promise));
      work.resolve();
      await Promise.all(running);
    };
    await burst(10);
    await burst(10);
    expect(made.length).toBe(10);
    // Two at a time are needed through a period: the other eight go.
    vi.advanceTimersByTime(10_000);
    await burst(2);
    vi.advanceTimersByTime(10_000);
    await burst(10);
    expect(made.length).toBe(18);
    for (const memory of made) memory.worthKeeping = false;
    vi.advanceTimersByTime(10_000);
    await burst(1);
    expect(made.length).toBe(19);
    expect(vi.getTimerCount()).toBe(1);
    await gate.close();
    vi.advanceTimersByTime(10_000);
    expect(vi.getTimerCount()).toBe(0);
  } finally {
    vi.useRealTimers();
  }
});

test('options that are none are refused with their field, and hold no slot', async () => {
  const gate = admission(1);
  for (const [options, field] of [
    [{ signal: {} }, 'signal'],
    [{ signal: 'x' }, 'signal'],
    [{ deadlineMs: '5' }, 'deadlineMs'],
    [{ deadlineMs: null }, 'deadlineMs'],
    [{ deadlineMs: 5n }, 'deadlineMs'],
    [null, 'options'],
    [5, 'options'],
  ] as const)
    await expect(gate.run(options as never, () => never)).rejects.toMatchObject({ code: 'invalid_argument', details: { field } });
  expect(await gate.run({ signal: null }, async () => 1)).toBe(1);
});

test('a limit that is none is refused', () => {
  for (const maxInFlight of [0, -1, 1.5, Number.NaN, '5' as unknown as number])
    expect(() => admission(maxInFlight)).toThrow(expect.objectContaining({ code: 'invalid_argument', details: { field: 'maxInFlight' } }));
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
  const lent: Memory[] = [];
  const answers = [1, 2].map((n) =>
    gate.run({}, ({ memory }) => {
      lent.push(memory);
      expect(gate.counts.inFlight).toBe(1);
      return n;
    }),
  );
  expect(timers).not.toHaveBeenCalled();
  timers.mockRestore();
  expect(await Promise.all(answers)).toEqual([1, 2]);
  expect(lent[1]).toBe(lent[0]);
  expect(gate.counts.inFlight).toBe(0);
});

test('what work throws before it returns is a rejected promise, counted once, and gives the scratch back', async () => {
  const gate = admission(1);
  const fail = (): never => {
    throw new RangeError('boom');
  };
  await expect(gate.run({}, fail)).rejects.toMatchObject({ name: 'TerabagError', code: 'internal' });
  expect(gate.counts).toEqual({ requests: 1, errors: 1, inFlight: 0, lingering: 0 });
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
