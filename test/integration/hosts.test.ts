import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connect, openLocal, type Plan, TerabagError, writePlan } from '../../src/index.js';
import { CpuLimits, findCpuController } from '../../src/lab/hosts/cpu-limit.js';
import { HostNetwork } from '../../src/lab/hosts/host-network.js';
import { type EmulatedCluster, emulationSupport, launchOnHosts } from '../../src/lab/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { EchoHost, REPLY_BYTES } from '../reference/echo-host.js';
import { capacityPlan } from '../reference/plans.js';
import { settlesWithin } from '../reference/settles.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const support = await emulationSupport();
for (const [what, reason] of Object.entries(support))
  if (reason !== null) console.warn(`tests of emulated hosts (${what}) are skipped: ${reason}`);
/** What a timer may be late: the processes share the machine's cores with other tests. */
const SCHEDULING_MS = 150;

let model: SmallModel;
let plan: Plan;
let dir: string;
beforeAll(async () => {
  model = await writeSmallModel(61);
  plan = capacityPlan(await readModelSpec(model.dir), 2);
  dir = await mkdtemp(join(tmpdir(), 'terabag-hosts-'));
  await writePlan(join(dir, 'plan.json'), plan);
});
afterAll(async () => {
  for (const made of [dir, model.dir]) await rm(made, { recursive: true });
});

/** Control groups and interfaces that carry a launcher's pid. */
function leftBy(pid: number): string[] {
  const controller = findCpuController(readFileSync('/proc/self/mountinfo', 'utf8'), readFileSync('/proc/self/cgroup', 'utf8'));
  const groups = controller === null ? [] : readdirSync(controller.directory).filter((name) => name.startsWith(`terabag-${pid}-`));
  const interfaces = Object.keys(networkInterfaces()).filter((name) => name.startsWith(`tb${pid}-`));
  return [...groups, ...interfaces];
}

const namespaceOf = (pid: number | 'self'): string => readlinkSync(`/proc/${pid}/ns/net`);
/** Pids of the processes in a network namespace. */
function processesIn(namespace: string): number[] {
  const isIn = (pid: number): boolean => {
    try {
      return namespaceOf(pid) === namespace;
    } catch {
      return false; // It ended meanwhile.
    }
  };
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && isIn(pid));
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = performance.now() + 30_000; !holds(); await sleep(20)) if (performance.now() > end) expect.fail(`not in 30 s: ${what}`);
}

describe.skipIf(support.cpu !== null)('a CPU limit', () => {
  test('bites: a process that never waits gets its share and not more', async () => {
    const limits = await CpuLimits.open(2, 25);
    const spin =
      'const t=performance.now();while(performance.now()-t<1500);const{user,system}=process.cpuUsage();console.log((user+system)/1e3/performance.now())';
    const child = spawn(process.execPath, ['-e', spin], { stdio: ['ignore', 'pipe', 'inherit'] });
    limits.adopt(1, child.pid as number);
    let said = '';
    child.stdout.on('data', (text) => (said += text));
    await once(child, 'close');
    expect(Number(said)).toBeGreaterThan(0);
    expect(Number(said)).toBeLessThan(0.35);
    expect(limits.throttled(1)).toBeGreaterThan(10);
    expect(limits.throttled(0)).toBe(0);
    // One that ended is nothing to limit.
    limits.adopt(0, child.pid as number);
    expect(leftBy(process.pid)).toHaveLength(2);
    await limits.close();
    expect(leftBy(process.pid)).toEqual([]);
  });
});

describe.skipIf(support.network !== null)('a network', () => {
  async function withEcho(options: Parameters<typeof HostNetwork.open>[1], use: (echo: EchoHost, network: HostNetwork) => Promise<void>) {
    const network = await HostNetwork.open(2, options);
    try {
      const echo = await EchoHost.start(network, 2);
      await use(echo, network).finally(() => echo.stop());
    } finally {
      await network.close();
    }
    expect(leftBy(process.pid)).toEqual([]);
  }

  test('delays each way', async () => {
    await withEcho({ delayMs: 20, jitterMs: 5 }, async (echo) => {
      const trips = await echo.roundTrips(30);
      expect(trips).toHaveLength(30);
      expect(Math.min(...trips)).toBeGreaterThanOrEqual(30);
      expect(Math.min(...trips)).toBeLessThan(50 + SCHEDULING_MS);
      expect(Math.max(...trips) - Math.min(...trips)).toBeGreaterThan(2);
    });
  });

  test('loses as many frames as it was asked to, and says so', async () => {
    await withEcho({ delayMs: 0, lossPercent: 10 }, async (echo, network) => {
      const count = 1500;
      const came = await echo.exchange(count, 20 + SCHEDULING_MS, 50);
      const kept = 0.9 ** 2;
      expect(Math.abs(came - count * kept)).toBeLessThan(5 * Math.sqrt(count * kept * (1 - kept)));
      const { accepted, lost, delivered, overflowed, malformed, refused } = await network.counters();
      // Every datagram that did not come back was lost once; beside them only few frames go about: those that ask for addresses.
      expect(lost - (count - came)).toBeGreaterThanOrEqual(0);
      expect(lost - (count - came)).toBeLessThan(20);
      expect(accepted).toBe(delivered + lost);
      expect([overflowed, malformed, refused]).toEqual([0, 0, 0]);
    });
  });

  test('carries more than it was asked to lose nothing of', async () => {
    await withEcho({ delayMs: 1 }, async (echo, network) => {
      const took = await echo.replies(20);
      expect(took).toHaveLength(20);
      const { accepted, lost, overflowed, refused } = await network.counters();
      expect(accepted).toBeGreaterThan((20 * REPLY_BYTES) / 1500);
      expect([lost, overflowed, refused]).toEqual([0, 0, 0]);
    });
  });

  test('changes the conditions of one way while it runs, and of no other', async () => {
    await withEcho({ delayMs: 1 }, async (echo, network) => {
      const [there, back, beside] = [
        [0, 2],
        [2, 0],
        [0, 1],
      ].map(([from = 0, to = 0]) => ({ from, to }));
      const cut = { delayMs: 1, lossPercent: 100 };
      await network.setPaths([{ ...beside!, path: cut }]);
      expect(await echo.exchange(10, 2000)).toBe(10);
      const lost = async (): Promise<number> => (await network.counters()).lost;
      for (const way of [there!, back!]) {
        const before = await lost();
        await network.setPaths([{ ...way, path: cut }]);
        expect(await echo.exchange(10, SCHEDULING_MS)).toBe(0);
        // On the way back what comes is lost as often as what goes is on the way there, and answered by nobody.
        expect((await lost()) - before).toBeGreaterThanOrEqual(10);
        await network.setPaths([{ ...way, path: { delayMs: 25 } }]);
      }
      const trips = await echo.roundTrips(5);
      expect(trips).toHaveLength(5);
      expect(Math.min(...trips)).toBeGreaterThanOrEqual(50);
    });
  });

  test('whose switch was killed has no counters, and says that it ended', async () => {
    const network = await HostNetwork.open(1, { delayMs: 0 });
    const pid = Number(/\/proc\/(\d+)\//.exec(network.enter(1).join(' '))?.[1]);
    process.kill(pid, 'SIGKILL');
    await until('the switch has ended', () => !existsSync(`/proc/${pid}/exe`));
    // Asked before and after this process has learnt of the end.
    for (let asked = 0; asked < 2; asked++) {
      const error = await network.counters().catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(TerabagError);
      expect(error).toMatchObject({ code: 'closed', details: { pid }, message: expect.stringContaining(`ended: ${pid}, `) });
    }
    await network.close();
  });

  test('a launch without the privileges is refused with the reason, and leaves nothing', async () => {
    const up = [
      main,
      'up',
      join(dir, 'plan.json'),
      '--bundle',
      model.dir,
      '--free-ports',
      join(dir, 'live.json'),
      '--network-delay',
      '1ms',
    ];
    const { status, stderr, error } = spawnSync('setpriv', ['--bounding-set', '-net_admin,-sys_admin', process.execPath, ...up], {
      encoding: 'utf8',
    });
    if (error !== undefined) return console.warn('not tested without privileges: there is no setpriv (Debian: apt-get install util-linux)');
    expect(stderr).toMatch(/hosts cannot be emulated here: network: .*not permitted.*\(unsupported\)/s);
    expect(status).toBe(1);
  });
});

test('addresses that nobody could know are a wrong usage, and so are hosts of shards that run already', () => {
  const up = spawnSync(process.execPath, [main, 'up', 'plan.json', '--bundle', 'x', '--network-delay', '1ms'], { encoding: 'utf8' });
  expect([up.status, up.stderr]).toEqual([2, expect.stringContaining('--free-ports')]);
  const bench = spawnSync(process.execPath, [main, 'bench', '--bundle', 'x', '--serial', '--host-cpu', '50'], { encoding: 'utf8' });
  expect([bench.status, bench.stderr]).toEqual([2, expect.stringContaining('--launch')]);
});

describe.skipIf(support.cpu !== null || support.network !== null)('a cluster on emulated hosts', () => {
  async function launched(use: (cluster: EmulatedCluster) => Promise<void>, restart = false): Promise<void> {
    const hosts = { cpuPercent: 50, network: { delayMs: 2, jitterMs: 1, lossPercent: 1, seed: 5 } };
    const cluster = await launchOnHosts(plan, { bundle: model.dir, logLevel: 'error', restart, hosts });
    let namespaces: string[];
    try {
      namespaces = cluster.shards.map(({ pid }) => namespaceOf(pid));
      expect(new Set([...namespaces, namespaceOf('self')]).size).toBe(3);
      await use(cluster);
    } finally {
      await cluster.stop();
    }
    expect(leftBy(process.pid)).toEqual([]);
    for (const namespace of namespaces) expect(processesIn(namespace)).toEqual([]);
  }

  test('answers the same bits, each request by its deadline, through delay and loss', async () => {
    const local = await openLocal(model.dir, { deadlineMs: 10_000 });
    await launched(async (cluster) => {
      for (const { endpoint } of cluster.shards) expect(endpoint).toMatch(/^tcp:\/\/198\.1[89]\.\d+\.\d+:\d+$/);
      const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
      const next = random(3);
      let answered = 0;
      for (let number = 0; number < 100; number++) {
        const request = smallRequest(next, 40);
        const startedAt = performance.now();
        const asked = predictor.predict(request, { deadlineMs: 1000 });
        expect(await settlesWithin(1000 + 100, asked)).toBe(true);
        const outcome = await asked.catch((error: unknown) => error);
        const tookMs = performance.now() - startedAt;
        if (outcome instanceof TerabagError) {
          expect(['deadline_exceeded', 'shard_unavailable']).toContain(outcome.code);
          continue;
        }
        expect(outcome).toMatchObject({ scores: (await local.predict(request)).scores });
        expect(tookMs).toBeGreaterThanOrEqual(2);
        answered++;
      }
      expect(answered).toBeGreaterThan(90);
      expect((await cluster.networkCounters())?.lost).toBeGreaterThan(0);
      await predictor.close();
    });
    await local.close();
  });

  test('starts a shard that died again on its host', async () => {
    await launched(async (cluster) => {
      const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
      const before = cluster.shards[1] as EmulatedCluster['shards'][number];
      const namespace = namespaceOf(before.pid);
      cluster.kill('shard-1', 'SIGKILL');
      await until('another process', () => ![0, before.pid].includes(cluster.shards[1]?.pid ?? 0));
      const { pid } = cluster.shards[1] as EmulatedCluster['shards'][number];
      await until('it enters its host', () => processesIn(namespace).includes(pid));
      expect(readFileSync(`/proc/${pid}/cgroup`, 'utf8')).toMatch(new RegExp(`terabag-${process.pid}-`));
      await predictor.predict(smallRequest(random(3), 4), { deadlineMs: 20_000 });
      await predictor.close();
    }, true);
  });

  test('leaves nothing when its launcher is killed: processes, interfaces and namespaces end, and the next launch removes the groups', async () => {
    const flags = [
      '--free-ports',
      join(dir, 'killed.json'),
      '--host-cpu',
      '50%',
      '--network-delay',
      '1ms',
      '--network-loss',
      '0.1',
      '--json',
    ];
    const launcher: ChildProcess = spawn(process.execPath, [main, 'up', join(dir, 'plan.json'), '--bundle', model.dir, ...flags], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const pid = launcher.pid as number;
    let shards: number[] = [];
    for await (const line of createInterface({ input: launcher.stdout! })) {
      const { what, detail } = JSON.parse(line) as { what: string; detail: string };
      if (what !== 'up') continue;
      shards = [...detail.matchAll(/pid (\d+)/g)].map(([, number]) => Number(number));
      break;
    }
    expect(shards).toHaveLength(2);
    expect(leftBy(pid)).toHaveLength(3);
    const namespaces = shards.map(namespaceOf);
    // One of the shards hangs, and cannot end by itself.
    process.kill(shards[0] as number, 'SIGSTOP');
    launcher.kill('SIGKILL');
    await once(launcher, 'exit');
    await until('the other shard ends', () => !existsSync(`/proc/${shards[1]}`));
    await until('the interface is gone', () => leftBy(pid).every((name) => name.startsWith('terabag-')));
    await launched(async () => {
      expect(leftBy(pid)).toEqual([]);
      await until('the shard that hung is gone', () => !existsSync(`/proc/${shards[0]}`));
    });
    for (const namespace of namespaces) expect(processesIn(namespace)).toEqual([]);
  });
});
