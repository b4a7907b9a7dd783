import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp, readdir, readFile, rm, truncate } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, connect, launchCluster, openLocal, type Plan, type ShardedPredictor, writePlan } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { capacityPlan } from '../reference/plans.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const DEADLINE_MS = 1_000;

let model: SmallModel;
let plan: Plan;
let dir: string;
beforeAll(async () => {
  model = await writeSmallModel(51);
  plan = capacityPlan(await readModelSpec(model.dir), 2);
  dir = await mkdtemp(join(tmpdir(), 'terabag-supervision-'));
});
afterAll(async () => {
  await rm(model.dir, { recursive: true });
  await rm(dir, { recursive: true });
});

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

/** A port that nobody listens on. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** The plan at free ports, in a file of its own. */
async function planFile(name: string): Promise<{ readonly path: string; readonly placed: Plan }> {
  const shards = await Promise.all(plan.shards.map(async (shard) => ({ ...shard, endpoints: [`tcp://127.0.0.1:${await freePort()}`] })));
  const [path, placed] = [join(dir, `${name}.json`), { ...plan, shards }];
  await writePlan(path, placed);
  return { path, placed };
}

interface Event {
  readonly shard: string;
  readonly what: string;
  readonly detail: string;
}

/** `terabag up`, with what it has said so far. */
function up(path: string, ...options: string[]): { readonly child: ChildProcess; readonly events: Event[]; readonly stderr: () => string } {
  const args = [main, 'up', path, '--bundle', model.dir, '--json', '--log-level', 'error', ...options];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const events: Event[] = [];
  createInterface({ input: child.stdout as NonNullable<typeof child.stdout> }).on('line', (line) => events.push(JSON.parse(line)));
  let stderr = '';
  child.stderr?.on('data', (piece) => {
    stderr += String(piece);
  });
  return { child, events, stderr: () => stderr };
}

const pidsOf = (events: readonly Event[]): number[] =>
  [...(events.find(({ what }) => what === 'up')?.detail ?? '').matchAll(/pid (\d+)/g)].map(([, pid]) => Number(pid));
const said = (events: readonly Event[], what: string): number => events.filter((event) => event.what === what).length;

/** Until the shards are up. */
async function started(launched: ReturnType<typeof up>): Promise<number[]> {
  await expect.poll(() => said(launched.events, 'up'), { timeout: 30_000 }).toBe(1);
  return pidsOf(launched.events);
}

/** Requests one after the other on several ways, until it is ended; every answer is checked. */
async function underLoad(predictor: ShardedPredictor, use: () => Promise<void>): Promise<{ answered: number; failures: string[] }> {
  const request = smallRequest(random(8), 3);
  const local = await openLocal(model.dir, { deadlineMs: 10_000 });
  const { scores } = await local.predict(request);
  await local.close();
  const failures: string[] = [];
  let answered = 0;
  let isOver = false;
  const ask = async (): Promise<void> => {
    while (!isOver) {
      try {
        expect((await predictor.predict(request, { deadlineMs: DEADLINE_MS })).scores).toEqual(scores);
        answered++;
      } catch (error) {
        failures.push((error as Error).message);
      }
    }
  };
  const asking = Array.from({ length: 4 }, ask);
  try {
    await use();
  } finally {
    isOver = true;
    await Promise.all(asking);
  }
  return { answered, failures };
}

async function launched(use: (cluster: Cluster, predictor: ShardedPredictor, events: string[]) => Promise<void>): Promise<void> {
  const events: string[] = [];
  const cluster = await launchCluster(plan, {
    ...{ bundle: model.dir, ephemeralPorts: true, logLevel: 'error' },
    onEvent: ({ shard, what }) => events.push(`${shard} ${what}`),
  });
  const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
  try {
    await use(cluster, predictor, events);
  } finally {
    await predictor.close();
    await cluster.stop();
  }
}

test('SIGTERM of a shard that has no replica, under load, fails no request: its successor takes over', () =>
  launched(async (cluster, predictor, events) => {
    const before = cluster.shards[0]?.pid as number;
    const { answered, failures } = await underLoad(predictor, async () => {
      cluster.kill('shard-0', 'SIGTERM');
      await expect.poll(() => alive(before), { timeout: 20_000 }).toBe(false);
      await expect.poll(() => events.filter((event) => event === 'shard-0 ready').length, { timeout: 20_000 }).toBe(2);
      await sleep(300);
    });
    expect(failures).toEqual([]);
    expect(answered).toBeGreaterThan(20);
    expect(events.slice(2)).toEqual(['shard-0 replacing', 'shard-0 exited', 'shard-0 ready']);
  }));

test('a restart of all shards under load fails no request', () =>
  launched(async (cluster, predictor) => {
    const before = cluster.shards.map(({ pid }) => pid);
    const { failures } = await underLoad(predictor, async () => {
      await cluster.restart();
      await sleep(300);
    });
    expect(failures).toEqual([]);
    expect(before.map(alive)).toEqual([false, false]);
    expect(cluster.shards.map(({ pid }) => alive(pid))).toEqual([true, true]);
  }));

test('a second launch of the same shards is refused before it reads a table, and names the first; killed, that leaves nothing in the way', async () => {
  const { path, placed } = await planFile('twice');
  const first = up(path);
  const pids = await started(first);
  const second = up(path);
  expect((await once(second.child, 'exit'))[0]).toBe(1);
  expect(second.events).toEqual([]);
  expect(second.stderr()).toMatch(
    new RegExp(`process ${first.child.pid} watches the same shards already: tcp://127.0.0.1:\\d+ and 1 more`),
  );
  const one = spawnSync(process.execPath, [main, 'shard', path, '--name', 'shard-1', '--bundle', model.dir], { encoding: 'utf8' });
  expect(one).toMatchObject({ status: 1, stderr: expect.stringContaining(`EADDRINUSE): ${placed.shards[1]?.endpoints[0]}`) });
  first.child.kill('SIGKILL');
  const third = up(path);
  const others = await started(third);
  await expect.poll(() => pids.map(alive), { timeout: 10_000 }).toEqual([false, false]);
  third.child.kill('SIGTERM');
  expect((await once(third.child, 'exit'))[0]).toBe(0);
  expect(others.map(alive)).toEqual([false, false]);
});

test('SIGTERM ends a launch that waits for an endpoint', async () => {
  const { path, placed } = await planFile('waiting');
  const taken = createServer().listen(Number(new URL(placed.shards[0]?.endpoints[0] ?? '').port), '127.0.0.1');
  await once(taken, 'listening');
  const { child, events, stderr } = up(path, '--drain', '1m');
  try {
    await sleep(1_000);
    expect(child.exitCode).toBeNull();
    child.kill('SIGTERM');
    expect(await Promise.race([once(child, 'exit'), sleep(5_000, 'waits on')])).toEqual([1, null]);
    expect(stderr()).toMatch(/the launch was aborted \(aborted\)/);
    expect(events).toEqual([]);
  } finally {
    child.kill('SIGKILL');
    taken.close();
  }
});

test('two launches that would write one file of free ports are refused, too', async () => {
  const { path } = await planFile('live');
  const first = up(path, '--free-ports', join(dir, 'live-plan.json'));
  await started(first);
  const second = up(path, '--free-ports', join(dir, 'live-plan.json'));
  expect((await once(second.child, 'exit'))[0]).toBe(1);
  expect(second.stderr()).toMatch(/watches the same shards already: .*live-plan\.json/);
  const other = up(path, '--free-ports', join(dir, 'other-plan.json'));
  await started(other);
  for (const { child } of [first, other]) {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
});

test('a killed launcher leaves no shard behind: not under load, not one that starts, and a stopped one only until it goes on', async () => {
  const { path, placed } = await planFile('killed');
  const first = up(path);
  const pids = await started(first);
  const predictor = await connect(placed, { deadlineMs: 10_000, bundle: model.dir });
  const requests = Array.from({ length: 50 }, () => predictor.predict(smallRequest(random(8), 3)).catch(() => null));
  process.kill(pids[0] as number, 'SIGSTOP');
  first.child.kill('SIGKILL');
  await expect.poll(() => alive(pids[1] as number), { timeout: 10_000 }).toBe(false);
  process.kill(pids[0] as number, 'SIGCONT');
  await expect.poll(() => alive(pids[0] as number), { timeout: 10_000 }).toBe(false);
  await Promise.all(requests);
  await predictor.close();
  // At whatever moment of their start it is killed.
  for (const ms of [150, 250, 350, 500, 800]) {
    const starting = up(path, '--free-ports', join(dir, 'killed-plan.json'));
    await sleep(ms);
    const children = await childrenOf(starting.child.pid as number);
    starting.child.kill('SIGKILL');
    await expect.poll(() => children.some(alive), { timeout: 10_000 }).toBe(false);
  }
});

async function childrenOf(pid: number): Promise<number[]> {
  const listed = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  return listed.split(' ').filter(Boolean).map(Number);
}

test('SIGHUP replaces the processes one after the other with the plan as it is then, and what they refuse changes nothing', async () => {
  const { path, placed } = await planFile('hangup');
  const launching = up(path);
  const before = await started(launching);
  await writePlan(path, { ...placed, epoch: 3 });
  launching.child.kill('SIGHUP');
  await expect.poll(() => said(launching.events, 'restarted'), { timeout: 30_000 }).toBe(1);
  expect(before.map(alive)).toEqual([false, false]);
  expect(launching.events.filter(({ what }) => what === 'ready' || what === 'exited').map(({ shard, what }) => `${shard} ${what}`)).toEqual(
    expect.arrayContaining(['shard-0 exited', 'shard-0 ready', 'shard-1 exited', 'shard-1 ready']),
  );
  const request = smallRequest(random(8), 3);
  const predictor = await connect({ ...placed, epoch: 3 }, { deadlineMs: 10_000, bundle: model.dir });
  expect((await predictor.predict(request)).scores.length).toBe(3);
  await writePlan(path, { ...placed, model: { ...placed.model, hash: 'f'.repeat(64) } });
  launching.child.kill('SIGHUP');
  await expect.poll(() => said(launching.events, 'restart refused'), { timeout: 30_000 }).toBe(1);
  expect(launching.events.find(({ what }) => what === 'restart refused')).toMatchObject({
    code: 'model_mismatch',
    details: { shard: 'shard-0' },
  });
  expect((await predictor.predict(request)).scores.length).toBe(3);
  await predictor.close();
  launching.child.kill('SIGTERM');
  expect((await once(launching.child, 'exit'))[0]).toBe(0);
});

test('a shard whose file is cut short under it is not started again when it falls, and says why', async () => {
  const cut = await mkdtemp(join(tmpdir(), 'terabag-cut-'));
  await cp(model.dir, cut, { recursive: true });
  const refused: unknown[] = [];
  const cluster = await launchCluster(plan, {
    ...{ bundle: cut, ephemeralPorts: true, logLevel: 'silent', residency: 'map' },
    onEvent: ({ what, error }) => what === 'refused' && refused.push(error?.code),
  });
  try {
    // As written in place; a file that takes another's place leaves the mapping alone.
    for (const file of await readdir(join(cut, 'tables'))) await truncate(join(cut, 'tables', file), 0);
    for (const { name } of cluster.shards) cluster.kill(name, 'SIGBUS');
    await expect.poll(() => refused.length, { timeout: 20_000 }).toBe(2);
    expect(new Set(refused)).toEqual(new Set(['bad_table']));
  } finally {
    await cluster.stop();
    await rm(cut, { recursive: true });
  }
});
