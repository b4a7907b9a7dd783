import { expect, test } from 'vitest';
import { SeededRandom } from './random.js';
import { scenarioOf } from './scenario.js';
import { Scheduler } from './scheduler.js';
import { shrink } from './shrink.js';
import { simulate } from './simulation.js';

/** npm run simulate runs as many as it is told. */
const SEEDS = 12;
const REQUESTS = 500;

test.each(Array.from({ length: SEEDS }, (_, seed) => seed))('no invariant breaks, whatever fails: seed %i', async (seed) => {
  const { violation, requests } = await simulate(scenarioOf(seed, REQUESTS));
  expect(violation).toBeNull();
  expect(requests).toBeGreaterThan(REQUESTS / 10);
});

test('a seed gives the same run again, and another seed another one', async () => {
  const [one, again, other] = [
    await simulate(scenarioOf(7, 300)),
    await simulate(scenarioOf(7, 300), true),
    await simulate(scenarioOf(8, 300)),
  ];
  expect(again.hash).toBe(one.hash);
  expect(again.steps).toBe(one.steps);
  expect(other.hash).not.toBe(one.hash);
});

test('a scenario that fails is shrunk to what makes it fail', async () => {
  const scenario = scenarioOf(3, 200);
  // A client that is given less time than answers take misses every deadline; of what fails it tells nothing wrong, unless it is told to.
  const broken = {
    ...scenario,
    settings: { ...scenario.settings, spared: true },
    requests: scenario.requests.map((request) => ({ ...request, deadlineMs: 1.5 })),
  };
  const { violation } = await simulate(broken);
  expect(violation?.invariant).toBe('failover');
  const shrunk = await shrink(broken, { invariant: 'failover', budgetMs: 20_000 });
  expect(shrunk.outcome.violation?.invariant).toBe('failover');
  expect(shrunk.scenario.requests.length + shrunk.scenario.faults.length).toBeLessThanOrEqual(2);
  expect(shrunk.outcome.trace.join('\n')).toContain('asks');
});

test('steps happen in the order of their times, and settle their promises before the next', async () => {
  const scheduler = new Scheduler();
  const random = new SeededRandom(1);
  const happened: number[] = [];
  let settled = 0;
  for (let step = 0; step < 1000; step++)
    scheduler.at(random.below(50), () => {
      expect(settled).toBe(happened.length);
      happened.push(scheduler.now);
      void Promise.resolve()
        .then(() => undefined)
        .then(() => settled++);
    });
  await scheduler.run(() => false);
  expect(happened).toHaveLength(1000);
  expect(happened).toEqual([...happened].sort((a, b) => a - b));
});
