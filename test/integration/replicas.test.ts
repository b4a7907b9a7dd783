import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, launchCluster, openLocal, type Plan, publish } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { capacityPlan } from '../reference/plans.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

let model: SmallModel;
let plan: Plan;
beforeAll(async () => {
  model = await writeSmallModel(51);
  const planned = capacityPlan(await readModelSpec(model.dir), 2);
  plan = {
    ...planned,
    shards: planned.shards.map(({ name }, shard) => ({ name, endpoints: [0, 1].map((replica) => `tcp://host-${shard}-${replica}:1`) })),
  };
});
afterAll(() => rm(model.dir, { recursive: true }));

/** The live plan with one replica of each shard alone. */
const only = (live: Plan, replica: number): Plan => ({
  ...live,
  shards: live.shards.map(({ name, endpoints }) => ({ name, endpoints: endpoints.slice(replica, replica + 1) })),
});

test('every replica is a process of its own that gives the right answers, all of a shard from one published directory', async () => {
  const request = smallRequest(random(8), 3);
  const local = await openLocal(model.dir, { deadlineMs: 10_000 });
  const { scores } = await local.predict(request);
  await local.close();
  const published = `${model.dir}/published`;
  await publish(plan, model.dir, published);
  const cluster = await launchCluster(plan, { bundle: published, ephemeralPorts: true, logLevel: 'error' });
  try {
    expect(cluster.shards.map(({ name, replica }) => `${name} ${replica}`)).toEqual(
      ['shard-0', 'shard-1'].flatMap((name) => [`${name} 0`, `${name} 1`]),
    );
    expect(new Set(cluster.shards.map(({ pid }) => pid)).size).toBe(4);
    expect(cluster.plan.shards.flatMap(({ endpoints }) => endpoints)).toEqual(cluster.shards.map(({ endpoint }) => endpoint));
    for (const replica of [0, 1]) {
      const predictor = await connect(only(cluster.plan, replica), { deadlineMs: 10_000, bundle: published });
      expect((await predictor.predict(request)).scores).toEqual(scores);
      await predictor.close();
    }
  } finally {
    await cluster.stop();
  }
});
