import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, connect, launchCluster, openLocal, type Plan, type PredictRequest } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { type DnsServer, startDnsServer, type Zone } from '../reference/dns-server.js';
import { capacityPlan } from '../reference/plans.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

let model: SmallModel;
let plan: Plan;
let request: PredictRequest;
let scores: Float32Array;
let dns: DnsServer;
beforeAll(async () => {
  model = await writeSmallModel(51);
  plan = capacityPlan(await readModelSpec(model.dir), 2);
  request = smallRequest(random(8), 3);
  const local = await openLocal(model.dir);
  scores = (await local.predict(request)).scores;
  await local.close();
  dns = await startDnsServer({});
});
afterAll(async () => {
  await dns.close();
  await rm(model.dir, { recursive: true });
});

const launch = (): Promise<Cluster> => launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error' });
const portsOf = (cluster: Cluster): string[] => cluster.shards.map(({ endpoint }) => /\d+$/.exec(endpoint)?.[0] ?? '');
const at = (endpoints: readonly string[]): Plan => ({
  ...plan,
  shards: plan.shards.map((shard, n) => ({ ...shard, endpoints: [endpoints[n] as string] })),
});

/** Until a request is answered, which has to be right. */
async function answered(predictor: { predict(request: PredictRequest): Promise<{ scores: Float32Array }> }): Promise<void> {
  let answer: Float32Array | null = null;
  await expect
    .poll(
      async () => {
        answer = await predictor.predict(request).then(
          (prediction) => prediction.scores,
          () => null,
        );
        return answer !== null;
      },
      { timeout: 20_000 },
    )
    .toBe(true);
  expect(answer).toEqual(scores);
}

test('shards are found by SRV records, again where they have moved to, and while the name server fails', async () => {
  const names = ['_shard-0._tcp.example.com', '_shard-1._tcp.example.com'];
  const zoneOf = (cluster: Cluster): Zone => ({
    'host.example.com': { A: ['127.0.0.1'] },
    ...Object.fromEntries(names.map((name, n) => [name, { SRV: [`host.example.com:${portsOf(cluster)[n]}`] }])),
  });
  const first = await launch();
  dns.zone = zoneOf(first);
  const warnings: string[] = [];
  const predictor = await connect(at(names.map((name) => `srv://${name}`)), {
    ...{ bundle: model.dir, nameServers: [dns.address], onWarning: (message) => warnings.push(message) },
  });
  try {
    await answered(predictor);
    expect(predictor.stats().unresolved).toBe(0);
    dns.zone = null;
    // Each is looked up at a time of its own.
    for (const shard of ['shard-0', 'shard-1']) {
      const warning = new RegExp(`^shard ${shard}: endpoint cannot be resolved \\(.*ESERVFAIL.*the last 1 addresses`);
      await expect.poll(() => warnings, { timeout: 20_000 }).toContainEqual(expect.stringMatching(warning));
    }
    expect(predictor.stats().unresolved).toBeGreaterThan(1);
    await answered(predictor);
    const second = await launch();
    try {
      dns.zone = zoneOf(second);
      await first.stop();
      await answered(predictor);
    } finally {
      await second.stop();
    }
  } finally {
    await predictor.close();
    await first.stop();
  }
});

test('shards are found by the A and AAAA records of a name', async () => {
  const cluster = await launch();
  const names = plan.shards.map(({ name }) => `${name}.example.com`);
  // Nobody listens on the IPv6 address.
  dns.zone = Object.fromEntries(names.map((name) => [name, { A: ['127.0.0.1'], AAAA: ['::1'] }]));
  const endpoints = names.map((name, n) => `tcp://${name}:${portsOf(cluster)[n]}`);
  const predictor = await connect(at(endpoints), { bundle: model.dir, nameServers: [dns.address] });
  try {
    await answered(predictor);
  } finally {
    await predictor.close();
    await cluster.stop();
  }
});

test('shards are found by a file, again where it says that they have moved to', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-endpoints-'));
  const paths = plan.shards.map(({ name }) => join(dir, `${name}.txt`));
  const write = (cluster: Cluster): Promise<unknown> =>
    Promise.all(
      paths.map(async (path, n) => {
        await writeFile(`${path}.new`, `# replicas\n${cluster.shards[n]?.endpoint}\n`);
        await rename(`${path}.new`, path);
      }),
    );
  const first = await launch();
  const opening = connect(at(paths.map((path) => pathToFileURL(path).href)), {
    bundle: model.dir,
    readyMs: 20_000,
    onWarning: () => undefined,
  });
  await write(first);
  const predictor = await opening;
  try {
    await answered(predictor);
    const second = await launch();
    try {
      await write(second);
      await first.stop();
      await answered(predictor);
    } finally {
      await second.stop();
    }
  } finally {
    await predictor.close();
    await first.stop();
    await rm(dir, { recursive: true });
  }
});

test('an endpoint that is not resolved in time fails with the reason, and servers that are none are refused', async () => {
  dns.zone = {};
  const nowhere = at(['tcp://a.example.com:1', 'tcp://b.example.com:1']);
  await expect(
    connect(nowhere, { bundle: model.dir, nameServers: [dns.address], readyMs: 500, onWarning: () => undefined }),
  ).rejects.toMatchObject({
    code: 'shard_unavailable',
    message: expect.stringMatching(/ENOTFOUND/),
  });
  await expect(connect(nowhere, { bundle: model.dir, nameServers: ['ns'] })).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { field: 'nameServers' },
  });
});
