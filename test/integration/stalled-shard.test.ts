import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, launchCluster, type Plan } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { capacityPlan } from '../reference/plans.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const STALL_MS = 300;
const DEADLINE_MS = 100;

let model: SmallModel;
let plan: Plan;
beforeAll(async () => {
  model = await writeSmallModel(61);
  plan = capacityPlan(await readModelSpec(model.dir), 1);
});
afterAll(async () => {
  await rm(model.dir, { recursive: true });
});

// With populate, native code answers small requests where they are received; with map, all go through JavaScript.
test.each(['populate', 'map'] as const)(
  'a shard that stood still pools nothing that expired meanwhile, and all else right: %s',
  async (residency) => {
    const cluster = await launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'silent', restart: false, residency });
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
    const [shard] = cluster.plan.shards;
    const ask = (deadlineMs: number): Promise<number[] | string> =>
      predictor.predict(smallRequest(random(5), 3), { deadlineMs }).then(
        ({ scores }) => [...scores],
        ({ code }: { code: string }) => code,
      );
    const executed = async (): Promise<{ executed: number; expired: number }> => {
      const [{ stats } = { stats: null }] = await predictor.shardStats();
      return { executed: stats!.requests - stats!.errors, expired: stats!.expired };
    };
    try {
      const right = await ask(10_000);
      expect(right).toHaveLength(3);
      for (let stall = 1; stall <= 2; stall++) {
        const before = await executed();
        cluster.kill(shard!.name, 'SIGSTOP');
        const expiring = Array.from({ length: 20 }, () => ask(DEADLINE_MS));
        const patient = Array.from({ length: 3 }, () => ask(10_000));
        await sleep(STALL_MS);
        expect(await Promise.all(expiring)).toEqual(Array(20).fill('deadline_exceeded'));
        cluster.kill(shard!.name, 'SIGCONT');
        expect(await Promise.all(patient)).toEqual(Array(3).fill(right));
        const after = await executed();
        expect(after).toEqual({ executed: before.executed + 3, expired: before.expired + 20 });
        // Heartbeats that waited, too, are not taken for the measure of the clocks.
        expect(await ask(DEADLINE_MS * 10)).toEqual(right);
      }
    } finally {
      cluster.kill(shard!.name, 'SIGCONT');
      await predictor.close();
      await cluster.stop();
    }
  },
);
