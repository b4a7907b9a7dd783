import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { KINDS } from '../../../src/observe/layout.js';
import { METERED_STAGES, PredictorMeter } from '../../../src/observe/predictor-meter.js';
import type { Stages } from '../../../src/observe/stages.js';
import { Tracer } from '../../../src/observe/tracer.js';

const bags = (...lengths: number[]) => lengths.map((length) => ({ input: { indices: new Int32Array(length) } }));
const stage = (meter: PredictorMeter, name: (typeof METERED_STAGES)[number]) => meter.stages[METERED_STAGES.indexOf(name)]!;
const seconds = (meter: PredictorMeter) => Object.fromEntries(METERED_STAGES.map((name) => [name, stage(meter, name).sum]));

async function answered(stages: Stages): Promise<void> {
  stages.hold();
  stages.enter(KINDS.check);
  stages.setItems(7, bags(3, 0, 5));
  stages.enter(KINDS.partition);
  await sleep(10);
  stages.leave();
  stages.startRpc(0, 0, 0);
  stages.startRpc(0, 0, 1);
  const own = stages.runJob(KINDS.pool, 0, 0, () => undefined);
  const layers = stages.runJob(KINDS.dense, 0, 0, () => sleep(20));
  await sleep(40);
  stages.enter(KINDS.place);
  stages.leave();
  await Promise.all([own, layers]);
  stages.enter(KINDS.finish);
  stages.letGo();
  stages.close(null);
}

test('a meter sums what each stage of an answered request takes, its items and lookups', async () => {
  const meter = new PredictorMeter();
  await answered(meter.open());
  expect([...meter.codes]).toEqual([['ok', 1]]);
  expect([meter.items.count, meter.items.sum, meter.lookups]).toEqual([1, 7, 8]);
  const spent = seconds(meter);
  expect(spent['partition']).toBeGreaterThan(0.009);
  expect(spent['dense']).toBeGreaterThan(0.019);
  expect(spent['shards']).toBeGreaterThan(0.039);
  expect(meter.durations.sum).toBeGreaterThan(0.049);
  for (const [name, sum] of Object.entries(spent)) expect({ name, within: sum <= meter.durations.sum }).toEqual({ name, within: true });
  expect(meter.stages.map(({ count }) => count)).toEqual(METERED_STAGES.map(() => 1));
});

test('stages that a request did not come to are not counted, and neither is what failed, but by its code', () => {
  const meter = new PredictorMeter();
  const local = meter.open();
  local.enter(KINDS.check);
  local.enter(KINDS.finish);
  local.close(null);
  const refused = meter.open();
  refused.enter(KINDS.check);
  refused.setItems(3, bags(9));
  refused.close('overloaded');
  refused.close('internal');
  expect([...meter.codes]).toEqual([
    ['ok', 1],
    ['overloaded', 1],
  ]);
  expect([meter.durations.count, meter.items.count, meter.lookups]).toEqual([1, 1, 0]);
  expect(METERED_STAGES.filter((name) => stage(meter, name).count > 0)).toEqual(['admission', 'check', 'finish']);
});

test('the time of shards is that of their rounds, without what lies between', async () => {
  const meter = new PredictorMeter();
  const stages = meter.open();
  for (const round of [0, 1]) {
    stages.startRpc(0, round, 0);
    stages.enter(KINDS.place, 0, round);
    stages.leave();
    await sleep(20);
  }
  stages.close(null);
  expect(stage(meter, 'shards').sum).toBeLessThan(0.01);
});

test('what works on for a request that has ended is none of the next one that is measured', async () => {
  const meter = new PredictorMeter();
  const late = meter.open();
  late.hold();
  const work = late.runJob(KINDS.dense, 0, 0, () => sleep(30));
  late.close('deadline_exceeded');
  const next = meter.open();
  expect(next).not.toBe(late);
  await work;
  next.close(null);
  expect(stage(meter, 'dense').count).toBe(0);
  late.letGo();
  expect(meter.open()).toBe(late);
});

test('a tracer beside it is told the same', async () => {
  const [meter, tracer] = [new PredictorMeter(), new Tracer({ capacity: 1 })];
  await answered(meter.open(tracer.open()!));
  const [request] = tracer.requests();
  expect(request).toMatchObject({ items: 7, error: null });
  expect(request?.jobs.map(({ kind }) => kind)).toEqual(['pool', 'dense']);
  expect(request?.rpcs.length).toBe(2);
  expect(meter.durations.count).toBe(1);
  tracer.enabled = false;
});
