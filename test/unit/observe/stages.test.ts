import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { KINDS } from '../../../src/observe/layout.js';
import { NO_STAGES, type Stages } from '../../../src/observe/stages.js';
import { Tracer } from '../../../src/observe/tracer.js';

/** What a predictor does for a request, whoever listens. */
async function tell(stages: Stages): Promise<void> {
  stages.setItems(7, []);
  stages.enter(KINDS.check);
  expect(stages.runJob(KINDS.pool, 1, 2, () => undefined)).toBeUndefined();
  stages.leave();
  await stages.runJob(KINDS.dense, 1, 2, () => sleep(5));
  expect(() =>
    stages.runJob(KINDS.pool, 0, 0, () => {
      throw new RangeError('as told');
    }),
  ).toThrow('as told');
  await expect(stages.runJob(KINDS.pool, 0, 0, () => Promise.reject(new RangeError('later')))).rejects.toThrow('later');
  stages.startRpc(1, 2, 3);
  stages.hold();
  stages.enter(KINDS.finish);
  stages.close('internal');
  stages.letGo();
}

test('a record stamps what it is told of, each job until it has ended', async () => {
  const tracer = new Tracer({ capacity: 1 });
  await tell(tracer.open() as Stages);
  const [request] = tracer.requests();
  expect(request).toMatchObject({ items: 7, error: 'internal', rpcs: [{ batch: 1, round: 2 }] });
  expect(request?.phases.map(({ kind }) => kind)).toEqual(['admission', 'check', 'finish']);
  const [pool, dense] = request?.jobs ?? [];
  expect([pool, dense]).toMatchObject([
    { kind: 'pool', batch: 1, round: 2 },
    { kind: 'dense', batch: 1, round: 2 },
  ]);
  expect(pool?.endUs).toBeLessThanOrEqual(dense?.startUs as number);
  expect((dense?.endUs as number) - (dense?.startUs as number)).toBeGreaterThanOrEqual(4000);
  tracer.enabled = false;
});

test('without a record jobs run all the same, and are asked for no times', async () => {
  await tell(NO_STAGES);
  const asked: unknown[] = [];
  await NO_STAGES.runJob(KINDS.pool, 0, 0, (times) => {
    asked.push(times);
    return undefined;
  });
  expect([asked, NO_STAGES.startRpc(0, 0, 0)]).toEqual([[null], null]);
});
