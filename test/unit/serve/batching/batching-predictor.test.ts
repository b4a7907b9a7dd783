import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import type { ResolvedModel } from '../../../../src/model/graph.js';
import type { PredictorStats } from '../../../../src/observe/counters.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest, Readiness } from '../../../../src/predictor/predictor.js';
import { type BatchingOptions, BatchingPredictor, type EndedRun } from '../../../../src/serve/batching/batching-predictor.js';
import { NO_STATS } from '../../../reference/no-stats.js';
import { FakeClock } from '../../rpc/fakes.js';

interface Run {
  readonly request: PredictRequest;
  readonly options: PredictOptions;
  /** By item: what the request's x says. */
  answer(more?: Partial<Prediction>): void;
  fail(error: Error): void;
}

/** Answers when a test says so. */
class Held implements Predictor {
  readonly modelHash = 'held';
  readonly model: ResolvedModel = { dense: [{ name: 'x', dim: 1 }], bags: [], layers: [], output: 0, outputDim: 1 };
  readonly runs: Run[] = [];
  closed = 0;

  predict(request: PredictRequest, options: PredictOptions = {}): Promise<Prediction> {
    const { items = 0 } = request;
    // Copied, as predictors do.
    const rows = Float32Array.from(request.dense['x'] as ArrayLike<number>);
    const users = Array.from(request.users ?? [items]);
    const perItem =
      rows.length === items ? rows : Float32Array.from(users.flatMap((count, user) => Array<number>(count).fill(rows[user]!)));
    return new Promise((resolve, reject) => {
      const prediction = { scores: perItem, items, scoreDim: 1, modelHash: 'held' };
      const kept = request.users === undefined ? request : { ...request, dense: { x: rows }, users };
      this.runs.push({ request: kept, options, answer: (more) => resolve({ ...prediction, ...more }), fail: reject });
    });
  }
  readiness(): Readiness {
    return { ready: true, missing: [] };
  }
  stats(): PredictorStats {
    return { ...NO_STATS, requests: this.runs.length, sent: 7 };
  }
  async close(): Promise<void> {
    this.closed++;
  }
}

const request = (...x: number[]): PredictRequest => ({ items: x.length, dense: { x }, sparse: {} });
const ofUser = (items: number, x: number): PredictRequest => ({ items, dense: { x: [x] }, sparse: {} });

function started(options: BatchingOptions = {}) {
  const [clock, held] = [new FakeClock(), new Held()];
  const batching = new BatchingPredictor(held, { clock, maxDelayMs: 4, maxRuns: 1, deadlineMs: 100, ...options });
  /** What became of a request, once it is known. */
  const predict = (given: PredictRequest, own: PredictOptions = {}): { outcome: number[] | string | null; error?: TerabagError } => {
    const told: { outcome: number[] | string | null; error?: TerabagError } = { outcome: null };
    batching.predict(given, own).then(
      ({ scores }) => {
        told.outcome = [...scores];
      },
      (error: TerabagError) => {
        told.outcome = error.code;
        told.error = error;
      },
    );
    return told;
  };
  const pass = async (ms: number): Promise<void> => {
    clock.pass(ms);
    // Turns of the loop in which nothing came.
    for (let n = 0; n < 3; n++) {
      clock.block(0);
      await turn();
    }
  };
  return { clock, runs: held.runs, held, batching, predict, pass };
}

test('a request that comes alone starts at once, with the arrays and the deadline that it has', () => {
  const { predict, runs } = started();
  const given = request(1, 2);
  predict(given, { deadlineMs: 30 });
  expect(runs.map((run) => [run.request, run.options.deadlineMs])).toEqual([[given, 30]]);
});

test('those that come while a run is under way run together at its end, and each gets its own scores', async () => {
  const { predict, runs, pass, batching } = started();
  const [first, second, third, fourth] = [request(1), request(2, 3), request(4), ofUser(3, 5)].map((each) => predict(each));
  await pass(1);
  expect(runs).toHaveLength(1);
  runs[0]!.answer();
  await turn();
  expect(runs).toHaveLength(2);
  expect([runs[1]!.request.items, [...runs[1]!.request.users!]]).toEqual([6, [2, 1, 3]]);
  runs[1]!.answer();
  await turn();
  expect([first, second, third, fourth].map((told) => told?.outcome)).toEqual([[1], [2, 3], [4], [5, 5, 5]]);
  const { mergedRuns, mergedRequests, mergedItems, aloneRequests, waitingRequests, delayMs } = batching.batchingStats();
  expect([mergedRuns, mergedRequests, mergedItems, aloneRequests, waitingRequests, delayMs.count]).toEqual([1, 3, 6, 1, 0, 3]);
});

test('users whose features have one row keep it', async () => {
  const { predict, runs, pass } = started();
  for (const each of [request(1), ofUser(3, 2), ofUser(2, 3), request(4)]) predict(each);
  runs[0]!.answer();
  await pass(0);
  expect([...runs[1]!.request.dense['x']!]).toEqual([2, 3, 4]);
});

test('of the requests of one turn of the event loop the first starts at once, the others together after the turn', async () => {
  const { predict, runs, clock } = started({ maxRuns: 2 });
  for (const x of [1, 2, 3]) predict(request(x));
  expect(runs).toHaveLength(1);
  clock.block(0);
  await turn();
  clock.block(0);
  expect(runs.map((run) => run.request.items)).toEqual([1, 2]);
});

test('no request waits longer than maxDelayMs, whatever else runs', async () => {
  const { predict, runs, pass } = started();
  predict(request(1));
  await pass(2);
  for (const x of [2, 3]) predict(request(x));
  await pass(3);
  expect(runs).toHaveLength(1);
  await pass(1);
  expect(runs.map((run) => run.request.items)).toEqual([1, 2]);
});

test('requests of turn after turn are collected until a turn brings none, or for as long as a run takes beside its items', async () => {
  const { predict, runs, pass, clock } = started({ maxRuns: 2, maxDelayMs: 50 });
  // 2 ms, whatever the items.
  for (let n = 0; n < 20; n++) {
    predict(ofUser(1 + (n % 4), 1));
    clock.block(2);
    runs.at(-1)!.answer();
    await pass(0);
  }
  const before = runs.length;
  const items = (): unknown[] => runs.slice(before).map((run) => run.request.items);
  for (const x of [1, 2, 3]) {
    predict(request(x));
    clock.block(0);
  }
  expect(items()).toEqual([1]);
  clock.block(0);
  expect(items()).toEqual([1, 2]);
  clock.block(2);
  for (const run of runs.slice(before)) run.answer();
  await pass(0);
  for (let x = 0; x < 5; x++) {
    predict(request(x));
    clock.block(0.75);
  }
  // The first alone, the others when the second had waited for 2 ms.
  expect(items()).toEqual([1, 2, 1, 3]);
});

test('of requests that have waited as long as they may a few runs start beside the others, no more', async () => {
  const { predict, runs, pass } = started();
  for (let x = 0; x < 9; x++) {
    predict(request(x));
    await pass(5);
  }
  expect(runs).toHaveLength(4);
  runs[0]!.answer();
  await pass(0);
  expect(runs.map((run) => run.request.items)).toEqual([1, 1, 1, 1, 5]);
});

test('a request whose deadline is near does not wait', async () => {
  const { predict, runs, pass } = started({ maxDelayMs: 50 });
  predict(request(1));
  await pass(5);
  runs[0]!.answer();
  await pass(0);
  // A run takes 5 ms: one of the deadline 14 has to start within 4.
  predict(request(2));
  predict(request(3), { deadlineMs: 14 });
  await pass(3);
  expect(runs).toHaveLength(2);
  await pass(1);
  expect(runs).toHaveLength(3);
});

test('a request whose deadline passes while it waits is refused and not run', async () => {
  const { predict, runs, pass, clock } = started({ maxDelayMs: 50 });
  predict(request(1));
  const [late, patient] = [predict(request(2), { deadlineMs: 10 }), predict(request(3))];
  // The loop stands still, and the end of the run is seen first.
  clock.block(0);
  const now = clock.now.bind(clock);
  clock.now = () => now() + 11;
  runs[0]!.answer();
  await turn();
  clock.now = now;
  expect(late.outcome).toBe('deadline_exceeded');
  expect(late.error?.message).toMatch(/before the request could start/);
  expect(runs.map((run) => [...(run.request.dense['x'] as Float32Array)])).toEqual([[1], [3]]);
  runs[1]!.answer();
  await pass(0);
  expect(patient.outcome).toEqual([3]);
});

test('a run is no larger than maxItems, nor so large that a deadline of its requests would pass', async () => {
  const { predict, runs, pass } = started({ maxItems: 5, maxDelayMs: 50 });
  predict(request(1));
  for (const x of [2, 3, 4]) predict(request(x, x));
  runs[0]!.answer();
  await pass(0);
  expect(runs.map((run) => run.request.items)).toEqual([1, 4]);
  runs[1]!.answer();
  await pass(0);
  expect(runs.map((run) => run.request.items)).toEqual([1, 4, 2]);
});

test('requests of a higher priority go first', async () => {
  const { predict, runs, pass } = started({ maxItems: 2, maxDelayMs: 50 });
  predict(request(1));
  predict(request(2), { priority: 'low' });
  predict(request(3));
  predict(request(4), { priority: 'high' });
  runs[0]!.answer();
  await pass(0);
  expect([...(runs[1]!.request.dense['x'] as Float32Array)]).toEqual([4, 3]);
});

test('a request that is wrong is refused at once, and the others run', async () => {
  const { predict, runs, pass } = started();
  predict(request(1));
  const [bad, good] = [predict({ ...request(1, 2, 3), items: 2 }), predict(request(5))];
  await pass(1);
  expect(bad.outcome).toBe('invalid_argument');
  runs[0]!.answer();
  await pass(0);
  runs[1]!.answer();
  await pass(0);
  expect(good.outcome).toEqual([5]);
});

test('when a run of several fails, each of them runs alone, and the error is of the one that made it', async () => {
  const { predict, runs, pass, batching } = started();
  predict(request(1));
  const [bad, good] = [predict(request(2)), predict(request(3, 4))];
  runs[0]!.answer();
  await pass(0);
  runs[1]!.fail(new TerabagError('index_out_of_range', 'no such key'));
  await pass(0);
  expect(runs.slice(2).map((run) => [...(run.request.dense['x'] as Float32Array)])).toEqual([[2], [3, 4]]);
  runs[2]!.fail(new TerabagError('index_out_of_range', 'its own'));
  runs[3]!.answer();
  await pass(0);
  expect([bad.error?.message, good.outcome, batching.batchingStats().rerunRequests]).toEqual(['its own', [3, 4], 2]);
});

test('what a shard did not answer in time is not asked again near the deadline', async () => {
  const { predict, runs, pass } = started({ maxDelayMs: 1 });
  predict(request(1));
  const [near, far] = [predict(request(2)), predict(request(3), { deadlineMs: 1000 })];
  await pass(2);
  expect(runs[1]!.options.deadlineMs).toBe(99);
  await pass(90);
  runs[1]!.fail(new TerabagError('shard_unavailable', 'a shard is away'));
  await pass(0);
  expect(near.error?.message).toBe('a shard is away');
  expect(runs.slice(2).map((run) => run.request.items)).toEqual([1]);
  runs[2]!.answer();
  await pass(0);
  expect(far.outcome).toEqual([3]);
});

test('what is missing of a degraded answer is told to each', async () => {
  const { predict, runs, pass, batching, held } = started();
  predict(request(1));
  const answers = [batching.predict(request(2)), batching.predict(request(3))];
  runs[0]!.answer();
  await pass(0);
  runs[1]!.answer({ degraded: true, missingTables: ['t'] });
  for (const answer of answers) expect(await answer).toMatchObject({ degraded: true, missingTables: ['t'], items: 1, modelHash: 'held' });
  expect(batching.stats()).toMatchObject({ requests: 3, degraded: 2, inFlight: 0, sent: 7 });
  expect(held.runs).toHaveLength(2);
});

test('scores that are not finite count for the request that has them', async () => {
  const { predict, runs, pass, batching } = started();
  predict(request(1));
  for (const x of [2, 3]) predict(request(x));
  runs[0]!.answer();
  await pass(0);
  runs[1]!.answer({ scores: Float32Array.of(Number.NaN, 3) });
  await pass(0);
  expect(batching.stats().nonFinite).toBe(1);
});

test('an aborted request ends at once; its run is cancelled when nobody is left', async () => {
  const { predict, runs, pass } = started();
  predict(request(1));
  const [waiting, one, two] = [new AbortController(), new AbortController(), new AbortController()];
  const gone = predict(request(2), { signal: waiting.signal });
  const [first, second] = [predict(request(3), { signal: one.signal }), predict(request(4), { signal: two.signal })];
  waiting.abort();
  await pass(0);
  expect(gone.outcome).toBe('aborted');
  runs[0]!.answer();
  await pass(0);
  expect([...(runs[1]!.request.dense['x'] as Float32Array)]).toEqual([3, 4]);
  one.abort();
  await pass(0);
  expect([first.outcome, runs[1]!.options.signal?.aborted]).toEqual(['aborted', false]);
  two.abort();
  await pass(0);
  expect([second.outcome, runs[1]!.options.signal?.aborted]).toEqual(['aborted', true]);
});

test('when too many wait, one of a higher priority or of a caller with fewer goes in place of another', async () => {
  const { predict, batching } = started({ maxInFlight: 4 });
  predict(request(0), { caller: 'a' });
  const flood = [1, 2, 3, 4].map((x) => predict(request(x), { caller: 'a' }));
  const other = predict(request(5), { caller: 'b' });
  const urgent = predict(request(6), { caller: 'a', priority: 'high' });
  const low = predict(request(7), { caller: 'c', priority: 'low' });
  await turn();
  expect(flood.map(({ outcome }) => outcome)).toEqual([null, 'overloaded', 'overloaded', 'overloaded']);
  expect([other.outcome, urgent.outcome, low.outcome]).toEqual([null, null, 'overloaded']);
  expect(batching.batchingStats().droppedRequests).toBe(2);
});

test('a large request, of which a run costs little beside its items, starts at once', async () => {
  const { predict, runs, pass, clock } = started({ maxDelayMs: 50 });
  // 1 ms and 1 ms an item: nothing is won from 15 items on.
  for (let n = 0; n < 20; n++) {
    const items = 1 + (n % 4);
    predict(ofUser(items, 1));
    clock.block(1 + items);
    runs.at(-1)!.answer();
    await pass(0);
  }
  const before = runs.length;
  predict(request(1));
  predict(ofUser(14, 2));
  predict(ofUser(16, 3));
  expect(runs.slice(before).map((run) => run.request.items)).toEqual([1, 16]);
});

test('each run that ends is told', async () => {
  const told: EndedRun[] = [];
  const { predict, runs, pass } = started({ onRun: (run) => told.push(run) });
  predict(request(1));
  for (const x of [2, 3]) predict(request(x));
  await pass(1);
  runs[0]!.answer();
  await turn();
  await pass(2);
  runs[1]!.fail(new TerabagError('internal', 'x'));
  await pass(0);
  expect(told.slice(0, 2)).toMatchObject([
    { requests: 1, items: 1, ms: 1, error: null },
    { requests: 2, items: 2, ms: 2, error: { code: 'internal' } },
  ]);
});

test('without a delay, and for an ONNX model, every request is run alone, and so is one of several users', async () => {
  for (const [options, onnx] of [
    [{ maxDelayMs: 0 }, undefined],
    [{}, {}],
  ] as const) {
    const [clock, held] = [new FakeClock(), new Held()];
    Object.assign(held.model, { onnx });
    const batching = new BatchingPredictor(held, { clock, ...options });
    for (const x of [1, 2, 3]) void batching.predict(request(x));
    expect(held.runs).toHaveLength(3);
  }
  const { predict, runs } = started();
  predict(request(1));
  predict({ ...request(1, 2, 3), users: [1, 2] });
  expect(runs).toHaveLength(2);
});

test('close waits for those that wait, refuses others, and closes the predictor that runs them', async () => {
  const { predict, runs, pass, batching, held } = started();
  const [first, second] = [predict(request(1)), predict(request(2))];
  const closed = batching.close();
  expect(predict(request(3))).toMatchObject({ outcome: null });
  await pass(0);
  expect(held.closed).toBe(0);
  runs[0]!.answer();
  await pass(0);
  runs[1]!.answer();
  await closed;
  expect([first.outcome, second.outcome, held.closed]).toEqual([[1], [2], 1]);
  await expect(batching.predict(request(4))).rejects.toMatchObject({ code: 'closed' });
});

test('options that are none are refused', async () => {
  for (const options of [{ maxDelayMs: -1 }, { maxDelayMs: Number.NaN }, { maxItems: 0 }, { maxRuns: 1.5 }])
    expect(() => new BatchingPredictor(new Held(), options)).toThrow(expect.objectContaining({ code: 'invalid_argument' }));
  const { batching } = started();
  for (const options of [{ priority: 'urgent' }, { caller: 7 }])
    await expect(batching.predict(request(1), options as unknown as PredictOptions)).rejects.toMatchObject({ code: 'invalid_argument' });
});

test('no timer is left when nothing waits', async () => {
  const { predict, runs, pass, clock } = started();
  predict(request(1));
  for (const x of [2, 3]) predict(request(x));
  runs[0]!.answer();
  await pass(0);
  runs[1]!.answer();
  await pass(0);
  expect(clock.numTimers).toBe(0);
});
