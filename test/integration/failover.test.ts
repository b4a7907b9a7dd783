import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Router } from 'zeromq';
import { kernelFingerprint } from '../../src/engine/kernels.js';
import { type Cluster, connect, launchCluster, openLocal, type Plan, type PredictRequest, type ShardedPredictor } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { servedVersionOf } from '../../src/plan/file/plan.js';
import { decodeClientMessage } from '../../src/rpc/codec.js';
import type { ClientMessage, ShardMessage } from '../../src/rpc/messages.js';
import { encodeShardMessage, pooledAnswer } from '../reference/messages.js';
import { capacityPlan } from '../reference/plans.js';
import { DIM, random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

/** Requests a second, of several that run at once: far below capacity, also on a machine that does much else. */
const EVERY_MS = 2;
/** Longer than any pause of a loaded machine, and shorter than a shard takes to start. */
const DEADLINE_MS = 5000;

let model: SmallModel;
let plan: Plan;
let asked: { request: PredictRequest; scores: Float32Array }[];
beforeAll(async () => {
  model = await writeSmallModel(57);
  const planned = capacityPlan(await readModelSpec(model.dir), 2);
  plan = {
    ...planned,
    shards: planned.shards.map(({ name }, shard) => ({ name, endpoints: [0, 1].map((replica) => `tcp://host-${shard}-${replica}:1`) })),
  };
  const local = await openLocal(model.dir);
  const next = random(8);
  asked = [];
  for (let n = 0; n < 50; n++) {
    const request = smallRequest(next, 3);
    asked.push({ request, scores: (await local.predict(request)).scores });
  }
  await local.close();
});
afterAll(() => rm(model.dir, { recursive: true }));

/** What became of requests that were asked at a steady rate, whatever became of those before them. */
interface Load {
  readonly requests: number;
  readonly failures: readonly unknown[];
}

/** Asks until work is done; every answer has to have the bits of the local predictor. */
async function under(predictor: ShardedPredictor, work: () => Promise<void>): Promise<Load> {
  const failures: unknown[] = [];
  const running: Promise<void>[] = [];
  let going = true;
  const loading = (async () => {
    for (let n = 0; going; n++) {
      const { request, scores } = asked[n % asked.length]!;
      running.push(
        predictor.predict(request, { deadlineMs: DEADLINE_MS }).then(
          (prediction) => expect(prediction.scores).toEqual(scores),
          (error: unknown) => void failures.push(error),
        ),
      );
      await sleep(EVERY_MS);
    }
  })();
  try {
    await work();
  } finally {
    going = false;
    await loading;
  }
  await Promise.all(running);
  return { requests: running.length, failures };
}

async function replicated(
  restart: boolean,
  use: (running: { cluster: Cluster; predictor: ShardedPredictor; ready: () => number }) => Promise<void>,
): Promise<void> {
  let ready = 0;
  const cluster = await launchCluster(plan, {
    ...{ bundle: model.dir, ephemeralPorts: true, logLevel: 'error', restart },
    onEvent: ({ what }) => what === 'ready' && ready++,
  });
  try {
    const predictor = await connect(cluster.plan, { bundle: model.dir });
    try {
      await use({ cluster, predictor, ready: () => ready });
    } finally {
      await predictor.close();
    }
  } finally {
    await cluster.stop();
  }
}

test.each(['SIGKILL', 'SIGTERM'] as const)(
  'a replica that gets %s under load fails no request, and is used again once it is back',
  async (signal) => {
    await replicated(true, async ({ cluster, predictor, ready }) => {
      const { requests, failures } = await under(predictor, async () => {
        await sleep(200);
        cluster.kill('shard-0', signal);
        await expect.poll(ready, { timeout: 20_000 }).toBe(5);
        await sleep(300);
        // Both have to be able to do all of it.
        cluster.kill('shard-0', signal, 1);
        await expect.poll(ready, { timeout: 20_000 }).toBe(6);
        await sleep(300);
      });
      expect(failures).toEqual([]);
      expect(requests).toBeGreaterThan(100);
      expect(predictor.stats()).toMatchObject({ errors: 0, lost: 2 });
    });
  },
);

test('a replica that is stopped under load fails no request, which others answer meanwhile, and is used again when it goes on', async () => {
  await replicated(false, async ({ cluster, predictor }) => {
    const { failures } = await under(predictor, async () => {
      await sleep(200);
      cluster.kill('shard-1', 'SIGSTOP');
      try {
        // Until it counts as gone, and for a while after that.
        await expect.poll(() => predictor.stats().lost, { timeout: 20_000 }).toBe(1);
        await sleep(300);
      } finally {
        cluster.kill('shard-1', 'SIGCONT');
      }
      await sleep(500);
    });
    expect(failures).toEqual([]);
    // None waited for it until its deadline.
    expect(predictor.stats()).toMatchObject({ errors: 0, lost: 1 });
    cluster.kill('shard-1', 'SIGKILL', 1);
    for (const { request, scores } of asked) expect((await predictor.predict(request, { deadlineMs: DEADLINE_MS })).scores).toEqual(scores);
  });
});

/** A replica that says what the test wants. */
async function falseReplica(
  say: (message: Extract<ClientMessage, { kind: 'pool' }>) => ShardMessage[],
): Promise<{ endpoint: string; asked: () => number; close: () => Promise<void> }> {
  const router = new Router({ linger: 0 });
  await router.bind('tcp://127.0.0.1:*');
  const version = servedVersionOf(plan);
  let requests = 0;
  const answers = (message: ClientMessage): ShardMessage[] => {
    if (message.kind === 'hello') return [{ kind: 'welcome', shard: 'shard-0', version, kernels: kernelFingerprint(), state: 'ready' }];
    if (message.kind !== 'pool') return [];
    requests++;
    return say(message);
  };
  const serving = (async () => {
    for await (const [peer, bytes] of router)
      for (const answer of answers(decodeClientMessage(bytes as Buffer))) await router.send([peer as Buffer, encodeShardMessage(answer)]);
  })();
  return {
    endpoint: router.lastEndpoint as string,
    asked: () => requests,
    async close() {
      router.close();
      await serving;
    },
  };
}

test.each<[string, (message: Extract<ClientMessage, { kind: 'pool' }>) => ShardMessage[]]>([
  ['vectors of another length', (message) => [pooledAnswer(message, new Uint8Array(DIM * 4 - 4))]],
  ['vectors with a wrong checksum', (message) => [{ ...pooledAnswer(message, new Uint8Array(6 * DIM * 4)), checksum: 7 }]],
  ["another request's vectors", (message) => [pooledAnswer({ ...message, id: message.id + 1 }, new Uint8Array(6 * DIM * 4))]],
  ['errors', ({ id }) => [{ kind: 'error', id, code: 'internal', message: 'broken', details: {} }]],
  ['nothing', () => []],
])('a replica that answers %s never harms a request while another is sound', async (_, say) => {
  const sound = await launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error', restart: false });
  const liar = await falseReplica(say);
  try {
    const [first, ...others] = sound.plan.shards;
    const mixed = { ...sound.plan, shards: [{ ...first!, endpoints: [liar.endpoint, first!.endpoints[0]!] }, ...others] };
    const predictor = await connect(mixed, { bundle: model.dir });
    try {
      for (let n = 0; n < 4; n++)
        for (const { request, scores } of asked)
          expect((await predictor.predict(request, { deadlineMs: DEADLINE_MS })).scores).toEqual(scores);
      expect(liar.asked()).toBeGreaterThan(0);
    } finally {
      await predictor.close();
    }
  } finally {
    await liar.close();
    await sound.stop();
  }
});
