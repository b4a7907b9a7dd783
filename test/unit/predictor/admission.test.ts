import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import type { Clock } from '../../../src/clock.js';
import { TerabagError } from '../../../src/errors.js';
import { Admission, type AdmissionOptions, type Admitted } from '../../../src/predictor/admission.js';

class Memory {
  worthKeeping = true;
  endPeriod(): boolean {
    return this.worthKeeping;
  }
}

/** Patient, so that a busy machine fails no test that is about something else. */
const admission = (maxInFlight = 4, options: AdmissionOptions = {}): Admission<Memory> =>
  new Admission(() => new Memory(), { maxInFlight, deadlineMs: 10_000, ...options });
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
    const gate = new Admission(() => {
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

test('a limit or a deadline that is none is refused', () => {
  for (const field of ['maxInFlight', 'maxInFlightBytes', 'deadlineMs'] as const)
    for (const value of [0, -1, Number.NaN, '5' as unknown as number, ...(field === 'deadlineMs' ? [2 ** 31] : [1.5])])
      expect(() => admission(4, { [field]: value })).toThrow(expect.objectContaining({ code: 'invalid_argument', details: { field } }));
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
  expect(gate.counts).toMatchObject({ requests: 1, errors: 1, overloaded: 0, inFlight: 0, lingering: 0 });
  expect(await gate.run({}, () => 3)).toBe(3);
});

test('a request that does not fit is let in when room is made for it', async () => {
  const inside: Admitted<Memory>[] = [];
  const asked: unknown[] = [];
  const gate = admission(1, {
    makeRoom: (options) => {
      asked.push(options);
      if (options.priority !== 'high') return false;
      inside[0]?.fail(new TerabagError('overloaded', 'gave way'));
      return true;
    },
  });
  const first = gate.run({}, (admitted) => {
    inside.push(admitted);
    return never;
  });
  await expect(gate.run({}, () => 1)).rejects.toMatchObject({ code: 'overloaded' });
  expect(await gate.run({ priority: 'high' }, () => 2)).toBe(2);
  await expect(first).rejects.toMatchObject({ message: 'gave way' });
  expect(asked).toEqual([{}, { priority: 'high' }]);
});

test('a request whose work aborts it is aborted', async () => {
  const controller = new AbortController();
  const work = (): Promise<never> => {
    controller.abort('within');
    return never;
  };
  await expect(admission().run({ signal: controller.signal }, work)).rejects.toMatchObject({ code: 'aborted', cause: 'within' });
});

/** Time passes when a test says so. */
class SteppedTime implements Clock {
  #now = 0;
  readonly #timers = new Set<{ readonly at: number; readonly call: () => void }>();

  now(): number {
    return this.#now;
  }
  after(ms: number, call: () => void): () => void {
    const timer = { at: this.#now + ms, call };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }
  every(): () => void {
    return () => undefined;
  }
  afterPolling(call: () => void): void {
    this.after(0, call);
  }
  /** One ms after another, with what follows from each. */
  async pass(ms: number): Promise<void> {
    for (const until = this.#now + ms; this.#now < until; ) {
      this.#now++;
      for (let due = this.#due(); due !== undefined; due = this.#due()) {
        this.#timers.delete(due);
        due.call();
      }
      await null;
      await null;
    }
  }
  get timers(): number {
    return this.#timers.size;
  }
  #due() {
    return [...this.#timers].find(({ at }) => at <= this.#now);
  }
}

test('a request that names no deadline has that of the admission, 100 ms by default, on its clock', async () => {
  for (const deadlineMs of [undefined, 40]) {
    const clock = new SteppedTime();
    const gate = new Admission(() => new Memory(), { deadlineMs, clock });
    const ends: (string | number)[] = [];
    const told = (error: TerabagError): void => void ends.push(error.code, clock.now());
    gate.run({}, () => never).catch(told);
    gate.run({ deadlineMs: 7 }, () => never).catch(told);
    await clock.pass(200);
    expect(ends).toEqual(['deadline_exceeded', 7, 'deadline_exceeded', deadlineMs ?? 100]);
    expect(clock.timers).toBe(0);
  }
});

/** Answers one request a ms, in order; asks for as many a ms. */
async function overload(gate: Admission<Memory>, clock: SteppedTime, asksPerMs: number, ms: number) {
  const outcomes = { answered: 0, overloaded: 0, deadline_exceeded: 0 };
  let refusal: TerabagError | null = null;
  const queue: (() => void)[] = [];
  for (let at = 0; at < ms; at++) {
    for (let ask = 0; ask < asksPerMs; ask++)
      gate
        .run({ deadlineMs: 50 }, () => new Promise<void>((resolve) => void queue.push(resolve)))
        .then(
          () => outcomes.answered++,
          (error: TerabagError) => {
            outcomes[error.code as 'overloaded']++;
            if (error.code === 'overloaded') refusal = error;
          },
        );
    await clock.pass(1);
    queue.shift()?.();
  }
  return { ...outcomes, refusal: refusal as TerabagError | null };
}

test('of more requests than can be answered by their deadlines, others are refused at once', async () => {
  const clock = new SteppedTime();
  const gate = admission(1024, { clock });
  await overload(gate, clock, 4, 2000);
  const { concurrencyLimit, overloaded: before } = gate.counts;
  expect(concurrencyLimit).toBeLessThan(50);
  const { answered, overloaded, deadline_exceeded, refusal } = await overload(gate, clock, 4, 1000);
  expect(answered).toBeGreaterThan(950);
  expect(deadline_exceeded).toBeLessThan(10);
  expect(gate.counts.overloaded - before).toBe(overloaded);
  expect(refusal).toMatchObject({ details: { inFlight: expect.any(Number), limit: expect.any(Number), deadlineMs: 50 } });
  // It would cost ten times all else of a refusal.
  expect(refusal?.stack).not.toContain('\n    at ');
  // Who can wait may.
  expect(await gate.run({ deadlineMs: 10_000 }, async () => 1)).toBe(1);
});

test('requests that fail otherwise than by their deadline say nothing of the load', async () => {
  const clock = new SteppedTime();
  const gate = admission(1024, { clock });
  for (let n = 0; n < 500; n++) {
    const failing = gate.run({ deadlineMs: 50 }, () => Promise.reject(new TerabagError('shard_unavailable', 'away')));
    await clock.pass(1);
    await expect(failing).rejects.toMatchObject({ code: 'shard_unavailable' });
  }
  expect(gate.counts.concurrencyLimit).toBe(1024);
});

test('nor do requests that waited while a shard was away, and were answered when it was back', async () => {
  for (const away of [true, false]) {
    const clock = new SteppedTime();
    const gate = admission(1024, { clock });
    await gate.run({ deadlineMs: 1000 }, () => Promise.resolve());
    const back = deferred<void>();
    const waiting = Array.from({ length: 200 }, () => gate.run({ deadlineMs: 1000 }, () => back.promise));
    await clock.pass(900);
    if (away) {
      const failing = gate.run({ deadlineMs: 50 }, () => Promise.reject(new TerabagError('shard_unavailable', 'away')));
      await expect(failing).rejects.toMatchObject({ code: 'shard_unavailable' });
    }
    back.resolve();
    await Promise.all(waiting);
    expect(gate.counts.concurrencyLimit === 1024).toBe(away);
  }
});

test('bytes of requests in flight are bounded; one that is larger than all is let in alone', async () => {
  const gate = admission(10, { maxInFlightBytes: 100 });
  const work = deferred<void>();
  const holding = (bytes: number): Promise<void> =>
    gate.run({}, (admitted) => {
      admitted.hold(bytes);
      return work.promise;
    });
  const refused = { code: 'overloaded', details: { maxInFlightBytes: 100 } };
  const alone = holding(1000);
  await expect(holding(1)).rejects.toMatchObject(refused);
  expect(gate.counts).toMatchObject({ inFlight: 1, inFlightBytes: 1000, overloaded: 1 });
  work.resolve();
  await alone;
  expect(gate.counts).toMatchObject({ inFlight: 0, inFlightBytes: 0 });
  const later = deferred<void>();
  const running = [60, 40].map((bytes) =>
    gate.run({}, (admitted) => {
      admitted.hold(bytes);
      return later.promise;
    }),
  );
  // Nothing is done for a request that can hold nothing.
  await expect(gate.run({}, () => expect.fail('was let in'))).rejects.toMatchObject(refused);
  later.resolve();
  await Promise.all(running);
  expect(await gate.run({}, (admitted) => admitted.hold(100))).toBeUndefined();
  expect(gate.counts.inFlightBytes).toBe(0);
});

test('bytes of a request that was given up count until its work has ended', async () => {
  const gate = admission(10, { maxInFlightBytes: 100 });
  const work = deferred<void>();
  const given = gate.run({ deadlineMs: 5 }, (admitted) => {
    admitted.hold(100);
    return work.promise;
  });
  await expect(given).rejects.toMatchObject({ code: 'deadline_exceeded' });
  expect(gate.counts).toMatchObject({ inFlight: 0, lingering: 1, inFlightBytes: 100 });
  await expect(gate.run({}, async () => 1)).rejects.toMatchObject({ code: 'overloaded' });
  work.resolve();
  await sleep(0);
  expect(await gate.run({}, async () => 1)).toBe(1);
});
