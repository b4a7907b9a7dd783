import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, launchCluster, openLocal, type Predictor, readModelSpec, writePlan } from '../../../src/index.js';
import { inferBody, readAnswer, tensorsOf } from '../../reference/infer-body.js';
import { capacityPlan } from '../../reference/plans.js';
import { type ServeProcess, startServe } from '../../reference/serve-process.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';

const main = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url));
let model: SmallModel;
let predictor: Predictor;
let cluster: Cluster;
let dir: string;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-serve-'));
  model = await writeSmallModel(9);
  predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
  cluster = await launchCluster(capacityPlan(await readModelSpec(model.dir), 2), {
    bundle: model.dir,
    ephemeralPorts: true,
    logLevel: 'error',
  });
  await writePlan(join(dir, 'plan.json'), cluster.plan);
});
afterAll(async () => {
  await cluster.stop();
  await predictor.close();
  rmSync(dir, { recursive: true });
  rmSync(model.dir, { recursive: true });
});

const request = smallRequest(random(2), 4);
async function inferred(
  url: string,
  name = 'small',
): Promise<{ readonly status: number; readonly scores?: Float32Array; readonly version: string }> {
  const { body, headers } = inferBody(tensorsOf(request, { dense: DENSE }), () => true, { parameters: { binary_data_output: true } });
  const response = await fetch(`${url}/v2/models/${name}/infer`, { method: 'POST', body, headers });
  const { json, outputs } = await readAnswer(response);
  return { status: response.status, version: json.model_version, ...(outputs['scores'] && { scores: outputs['scores'] }) };
}
const ready = async (url: string): Promise<boolean> => (await fetch(`${url}/v2/health/ready`)).ok;

async function served(args: readonly string[], use: (server: ServeProcess) => Promise<void>): Promise<void> {
  const server = await startServe([...args, '--drain', '0s', '--deadline', '10s']);
  try {
    await expect.poll(() => ready(server.url), { timeout: 20_000 }).toBe(true);
    await use(server);
  } finally {
    expect(await server.end()).toBe(0);
  }
}

test('a sharded model gives the bits of the local one, is not ready while a shard is away, and is again when it is back', async () => {
  await served([model.dir, '--plan', join(dir, 'plan.json')], async ({ url }) => {
    expect(await inferred(url)).toEqual({ status: 200, version: '1', scores: (await predictor.predict(request)).scores });
    cluster.kill('shard-1', 'SIGKILL');
    await expect.poll(() => ready(url), { timeout: 20_000 }).toBe(false);
    expect(await (await fetch(`${url}/v2/models/small/ready`)).json()).toMatchObject({
      ready: false,
      reasons: [expect.stringContaining('shard-1')],
    });
    await expect.poll(() => ready(url), { timeout: 20_000 }).toBe(true);
    expect((await inferred(url)).status).toBe(200);
  });
});

test('it is live before the shards are, and answers once they come', async () => {
  const spec = await readModelSpec(model.dir);
  const nobody = {
    ...cluster.plan,
    shards: cluster.plan.shards.map((shard, at) => ({ ...shard, endpoints: [`tcp://127.0.0.1:${at + 1}`] })),
  };
  await writePlan(join(dir, 'nobody.json'), nobody);
  const server = await startServe([
    `other=${model.dir}`,
    '--plan',
    `other=${join(dir, 'nobody.json')}`,
    '--drain',
    '0s',
    '--deadline',
    '300ms',
  ]);
  expect((await fetch(`${server.url}/v2/health/live`)).status).toBe(200);
  await expect.poll(async () => (await fetch(`${server.url}/v2/models/other`)).status, { timeout: 20_000 }).toBe(200);
  expect(await ready(server.url)).toBe(false);
  expect([503, 504]).toContain((await inferred(server.url, 'other')).status);
  expect(await server.end()).toBe(0);
  expect(spec.name).toBe('small');
});

test('models of a repository, and named ones beside them, each with its versions', async () => {
  const repository = join(dir, 'models');
  for (const version of ['1', '2']) {
    mkdirSync(join(repository, 'ads'), { recursive: true });
    cpSync(model.dir, join(repository, 'ads', version), { recursive: true });
  }
  cpSync(join(dir, 'plan.json'), join(repository, 'ads', '2', 'plan.json'));
  await served([`ranker:7=${model.dir}`, '--repository', repository, '--allow-repository-control'], async ({ url }) => {
    expect(await (await fetch(`${url}/v2/models`)).json()).toEqual({ models: ['ads', 'ranker'] });
    expect(await inferred(url, 'ads')).toMatchObject({ status: 200, version: '2' });
    expect(await inferred(url, 'ranker')).toMatchObject({ status: 200, version: '7' });
    cpSync(model.dir, join(repository, 'ads', '10'), { recursive: true });
    expect((await fetch(`${url}/v2/repository/models/ads/load`, { method: 'POST', body: '{}' })).status).toBe(200);
    expect(await inferred(url, 'ads')).toMatchObject({ status: 200, version: '10' });
  });
});

test('workers share the socket and count together; one that dies is replaced, and all end with the primary', async () => {
  await served([model.dir, '--workers', '2'], async ({ url, child, said }) => {
    const workers = (): number[] =>
      execFileSync('ps', ['-o', 'pid=', '--ppid', String(child.pid)], { encoding: 'utf8' })
        .trim()
        .split(/\s+/)
        .map(Number);
    const counted = async (): Promise<number> => {
      const { model_stats } = (await (await fetch(`${url}/v2/models/stats`)).json()) as { model_stats: [{ execution_count: number }] };
      return model_stats[0].execution_count;
    };
    const before = workers();
    expect(before).toHaveLength(2);
    for (let n = 0; n < 20; n++) expect((await inferred(url)).status).toBe(200);
    expect(await counted()).toBe(20);
    process.kill(before[0] as number, 'SIGKILL');
    await expect.poll(() => said.join('\n'), { timeout: 10_000 }).toMatch(/worker \d+ ended \(SIGKILL\); another is started/);
    await expect.poll(workers, { timeout: 20_000 }).toHaveLength(2);
    expect((await inferred(url)).status).toBe(200);
  });
});

test.each([
  [[], /name a model, or --repository/],
  [['./model', '--dedup'], /--dedup need the shards of a --plan/],
  [['./model', '--key', 'k'], /need the shards of a --plan/],
  [['./model', '--tls-cert', 'c.pem'], /--tls-cert and --tls-key need each other/],
  [['./model', '--workers', '0'], /integer, 1 or more/],
] as const)('wrong usage: terabag serve %j', (args, message) => {
  const { status, stderr } = spawnSync(process.execPath, [main, 'serve', ...args], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
});

test('plans that name no model, models that are named twice, and no model at all are said at once', () => {
  const run = (...args: string[]) => spawnSync(process.execPath, [main, 'serve', ...args], { encoding: 'utf8' });
  expect(run(model.dir, '--plan', 'x=plan.json')).toMatchObject({
    status: 2,
    stderr: expect.stringMatching(/--plan plan\.json has to name one of the models.*small:1/),
  });
  expect(run(model.dir, model.dir)).toMatchObject({ status: 2, stderr: expect.stringMatching(/small version 1 is named twice/) });
  expect(run(join(dir, 'nowhere'))).toMatchObject({ status: 1, stderr: expect.stringMatching(/no bundle here.*\(bad_model\)/) });
});
