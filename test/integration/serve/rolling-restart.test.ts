import { mkdtempSync, rmSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { launchCluster, readModelSpec, writePlan } from '../../../src/index.js';
import { type ClientBody, inferBody, tensorsOf } from '../../reference/infer-body.js';
import { capacityPlan } from '../../reference/plans.js';
import { type ServeProcess, startServe } from '../../reference/serve-process.js';
import { DENSE, random, smallRequest, writeSmallModel } from '../../reference/small-model.js';

/** As a load balancer does: looks which servers are ready, sends requests to those in turn, and counts what they answer. Nothing is sent twice. */
class Balancer {
  readonly counts = new Map<string, number>();
  #stopped = false;
  #ready: readonly string[] = [];
  readonly #agent = new Agent({ keepAlive: true });

  constructor(private servers: readonly string[]) {}

  replace(before: string, after: string): void {
    this.servers = this.servers.map((url) => (url === before ? after : url));
  }

  async look(): Promise<void> {
    const ready = await Promise.all(
      this.servers.map((url) =>
        fetch(`${url}/v2/health/ready`).then(
          ({ ok }) => ok,
          () => false,
        ),
      ),
    );
    this.#ready = this.servers.filter((_, at) => ready[at]);
  }

  async run(body: ClientBody): Promise<void> {
    const looking = (async () => {
      for (; !this.#stopped; await sleep(30)) await this.look();
    })();
    const sending = Array.from({ length: 4 }, async (_, caller) => {
      for (let n = caller; !this.#stopped; n++) {
        const url = this.#ready[n % this.#ready.length];
        const outcome = url === undefined ? 'none was ready' : await this.#send(url, body);
        this.counts.set(outcome, (this.counts.get(outcome) ?? 0) + 1);
        await sleep(2);
      }
    });
    await Promise.all([looking, ...sending]);
    this.#agent.destroy();
  }

  stop(): void {
    this.#stopped = true;
  }

  #send(url: string, { body, headers }: ClientBody): Promise<string> {
    return new Promise((resolve) => {
      const sent = httpRequest(`${url}/v2/models/small/infer`, { method: 'POST', headers, agent: this.#agent }, (response) => {
        response.resume();
        response.once('end', () => resolve(String(response.statusCode)));
        response.once('error', (error) => resolve(error.message));
      });
      sent.once('error', (error) => resolve(error.message));
      sent.end(body);
    });
  }
}

test('every process of a served, replicated cluster is restarted under load, and no request fails', async () => {
  const model = await writeSmallModel(11);
  const dir = mkdtempSync(join(tmpdir(), 'terabag-rolling-'));
  const spec = await readModelSpec(model.dir);
  const single = capacityPlan(spec, 2);
  const plan = {
    ...single,
    shards: single.shards.map((shard) => ({ ...shard, endpoints: [0, 1].map((replica) => `tcp://${shard.name}-${replica}:1`) })),
  };
  const cluster = await launchCluster(plan, {
    ...{ bundle: model.dir, ephemeralPorts: true, logLevel: 'error' },
  });
  const servers: ServeProcess[] = [];
  try {
    await writePlan(join(dir, 'plan.json'), cluster.plan);
    const start = (): Promise<ServeProcess> =>
      startServe([model.dir, '--plan', join(dir, 'plan.json'), '--deadline', '5s', '--drain', '1s']);
    servers.push(await start(), await start());
    const balancer = new Balancer(servers.map(({ url }) => url));
    await expect
      .poll(async () => (await Promise.all(servers.map(({ url }) => fetch(`${url}/v2/health/ready`)))).every(({ ok }) => ok), {
        timeout: 20_000,
      })
      .toBe(true);
    await balancer.look();
    const running = balancer.run(inferBody(tensorsOf(smallRequest(random(4), 8), { dense: DENSE }), () => true));
    await sleep(300);
    const pids = cluster.shards.map(({ pid }) => pid);
    await cluster.restart();
    expect(cluster.shards.filter(({ pid }) => pids.includes(pid))).toEqual([]);
    for (const [at, server] of [...servers].entries()) {
      const next = await start();
      await expect.poll(async () => (await fetch(`${next.url}/v2/health/ready`)).ok, { timeout: 20_000 }).toBe(true);
      // In its place only when the one before is gone: half of the requests must find the other server meanwhile.
      expect(await server.end()).toBe(0);
      balancer.replace(server.url, next.url);
      servers[at] = next;
      await sleep(200);
    }
    balancer.stop();
    await running;
    expect([...balancer.counts.keys()]).toEqual(['200']);
    expect(balancer.counts.get('200')).toBeGreaterThan(200);
  } finally {
    await Promise.all(servers.map((server) => server.end()));
    await cluster.stop();
    rmSync(dir, { recursive: true });
    rmSync(model.dir, { recursive: true });
  }
});
