import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Prediction, type PredictRequest, TerabagError } from '../../src/index.js';
import type { Case, Stage } from './case.js';
import { Load } from './load.js';
import { BACK_MS, checkBack } from './recovery.js';
import { removeModel, type ServedModel, writeServedModel } from './served-model.js';
import { runCase } from './stage.js';
import { checkPromise, failuresOf } from './under-load.js';

// The suite's own judgement: what it takes for right, and that a case that is not fails.

let model: ServedModel;
let other: ServedModel;
beforeAll(async () => {
  model = await writeServedModel(3);
  other = await writeServedModel(4);
});
afterAll(() => Promise.all([model, other].map(removeModel)));

const settings = () => ({ seed: 1, long: false, qps: 100, capacity: 200, model, support: { cpu: null, network: 'no privileges here' } });
const caseOf = (run: (stage: Stage) => Promise<void>, more: Partial<Case> = {}): Case => ({
  name: 'x',
  does: '',
  required: '',
  ...more,
  run,
});

const positionOf = (request: PredictRequest): number => model.requests.indexOf(request);
const answerOf = ({ hash, expected }: ServedModel, at: number): Prediction => {
  const scores = Float32Array.from(expected[at] as readonly number[]);
  return { scores, items: scores.length, scoreDim: 1, modelHash: hash } as Prediction;
};

/** Load on what answers as it is told, for so many requests. */
async function outcomes(answer: (at: number) => Promise<Prediction>, deadlineMs = 50): Promise<Load> {
  const predictor = { predict: (request: PredictRequest) => answer(positionOf(request)) };
  const load = new Load({ predictor, models: [model, other], qps: 500, deadlineMs });
  await sleep(100);
  await load.stop();
  return load;
}

test('answers are right when they are those of the model that they name, and wrong otherwise', async () => {
  const right = await outcomes(async (at) => answerOf(at % 2 === 0 ? model : other, at));
  expect(right.window()).toMatchObject({ failed: 0, outcomes: { right: right.window().total } });
  expect(right.window().total).toBeGreaterThan(10);
  const wrongs: readonly ((at: number) => Prediction)[] = [
    (at) => ({ ...answerOf(other, at), modelHash: model.hash }),
    (at) => ({ ...answerOf(model, at), modelHash: 'another' }),
    (at) => answerOf(model, (at + 8) % model.requests.length),
    (at) => ({ ...answerOf(model, at), scores: answerOf(model, at).scores.map((score) => score + 2e-5) }),
    (at) => ({ ...answerOf(model, at), scores: answerOf(model, at).scores.map(() => Number.NaN) }),
    (at) => ({ ...answerOf(model, at), scores: answerOf(model, at).scores.slice(1) }),
  ];
  for (const wrong of wrongs) {
    const load = await outcomes(async (at) => wrong(at));
    expect(load.window().outcomes).toEqual({ wrong: load.window().total });
  }
});

test('errors count by their code, what is no TerabagError and what never ends by their own names, and what failed makes P99 infinite', async () => {
  const typed = await outcomes(async (at) => {
    if (at % 10 === 0) throw new TerabagError('overloaded', 'x');
    return answerOf(model, at);
  });
  const { right, failed, p50, p99 } = typed.window();
  expect([failed > 0, right > failed, Number.isFinite(p50), p99]).toEqual([true, true, true, Number.POSITIVE_INFINITY]);
  expect(failuresOf(typed.window())).toBe(`${failed} overloaded`);
  const untyped = await outcomes(() => Promise.reject(new Error('x')));
  expect(untyped.window().outcomes).toEqual({ untyped: untyped.window().total });
  const hung = await outcomes(() => new Promise<never>(() => undefined));
  expect(hung.window().outcomes).toEqual({ hung: hung.window().total });
});

test('requests that end after their deadline are late, unless the event loop stood still', async () => {
  const late = await outcomes(async (at) => sleep(300, answerOf(model, at)));
  expect(late.late).toBe(late.window().total);
  const stalled = await outcomes(async (at) => {
    await sleep(1);
    if (at === 0) for (const until = performance.now() + 400; performance.now() < until; );
    return answerOf(model, at);
  });
  expect(stalled.late).toBe(0);
});

test.each([true, false])(
  'a case fails when right answers come back later than promised, in the long form (%s) as in the short',
  async (long) => {
    const back = async (afterMs: number): Promise<string> => {
      const overAt = performance.now();
      const predictor = {
        predict: async (request: PredictRequest) => {
          if (performance.now() < overAt + afterMs) throw new TerabagError('shard_unavailable', 'x');
          return answerOf(model, positionOf(request));
        },
      };
      const load = new Load({ predictor, models: [model], qps: 500, deadlineMs: 50 });
      await sleep(afterMs + 300);
      await load.stop();
      const { verdict } = await runCase(
        caseOf(async (stage) => checkBack(stage, load, overAt, 'it healed')),
        { ...settings(), long },
      );
      return verdict;
    };
    expect(await Promise.all([back(BACK_MS - 300), back(BACK_MS + 100)])).toEqual(['holds', 'fails']);
  },
);

test('a case fails by what it expects, throws, leaves unfinished or undone, and by a promise that nobody waits for', async () => {
  const verdict = async (run: (stage: Stage) => Promise<void>, more?: Partial<Case>) => {
    const { verdict: told, failures } = await runCase(caseOf(run, more), settings());
    return [told, ...failures];
  };
  expect(await verdict(async (stage) => stage.expect(true, 'x'))).toEqual(['holds']);
  expect(await verdict(async (stage) => stage.expect(false, '3 of 4 failed'))).toEqual(['fails', '3 of 4 failed']);
  expect(await verdict(() => Promise.reject(new Error('thrown')))).toEqual(['fails', 'thrown']);
  expect(await verdict(async () => sleep(5000), { boundMs: 50 })).toEqual(['fails', 'took longer than 0.05 s to run']);
  expect(await verdict(async (stage) => stage.defer(() => Promise.reject(new Error('not stopped'))))).toEqual(['fails', 'not stopped']);
  for (const load of [await outcomes(() => Promise.reject(new Error('x'))), await outcomes(async (at) => sleep(300, answerOf(model, at)))])
    expect((await verdict(async (stage) => checkPromise(stage, load)))[0]).toBe('fails');
});

test('what a case started is undone whichever way it ends, the latest first; what it needs and is not there is said', async () => {
  const undone: number[] = [];
  await runCase(
    caseOf(async (stage) => {
      for (const number of [1, 2, 3]) stage.defer(() => undone.push(number));
      throw new Error('x');
    }),
    settings(),
  );
  expect(undone).toEqual([3, 2, 1]);
  const skipped = await runCase(
    caseOf(() => Promise.reject(new Error('ran')), { needs: ['network'] }),
    settings(),
  );
  expect(skipped).toMatchObject({ verdict: 'skipped', seen: expect.stringMatching(/^skipped: needs root.*no privileges here$/) });
});
