import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { writePlan } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { canReceive, NotifyReceiver } from '../reference/notify-receiver.js';
import { capacityPlan } from '../reference/plans.js';
import { type SmallModel, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let model: SmallModel;
let dir: string;
let planPath: string;
beforeAll(async () => {
  model = await writeSmallModel(61);
  dir = await mkdtemp(join(tmpdir(), 'terabag-service-'));
  planPath = join(dir, 'plan.json');
  const plan = capacityPlan(await readModelSpec(model.dir), 2);
  await writePlan(planPath, { ...plan, shards: plan.shards.map((shard) => ({ ...shard, endpoints: [`ipc://${dir}/${shard.name}`] })) });
});
afterAll(async () => {
  await rm(model.dir, { recursive: true });
  await rm(dir, { recursive: true });
});

let child: ChildProcess | null = null;
let receiver: NotifyReceiver | null = null;
afterEach(async () => {
  child?.kill('SIGKILL');
  await receiver?.close();
});

/** As systemd starts a unit with Type=notify and WatchdogSec. */
async function start(
  name: string,
  args: readonly string[],
  watchdogUs: number,
): Promise<{ child: ChildProcess; receiver: NotifyReceiver }> {
  const address = join(dir, name);
  receiver = await NotifyReceiver.listen(address);
  const env = { ...process.env, NOTIFY_SOCKET: address, WATCHDOG_USEC: String(watchdogUs) };
  child = spawn(process.execPath, [main, ...args], { env, stdio: 'ignore' });
  return { child, receiver };
}

const within = { timeout: 60_000, interval: 20 };

test.skipIf(!canReceive)('a shard is ready once it listens, gives signs of life while its loop runs, and says that it drains', async () => {
  const args = ['shard', planPath, '--name', 'shard-0', '--bundle', model.dir];
  const { child, receiver } = await start('shard', args, 400_000);
  await vi.waitFor(() => expect(receiver.notices.length).toBeGreaterThanOrEqual(3), within);
  expect(receiver.texts[0]).toBe(`READY=1\nSTATUS=serving shard-0 at ipc://${dir}/shard-0`);
  expect(new Set(receiver.texts.slice(1))).toEqual(new Set(['WATCHDOG=1']));
  // What stands still is silent.
  child.kill('SIGSTOP');
  const before = receiver.notices.length;
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  expect(receiver.notices.length).toBeLessThanOrEqual(before + 1);
  child.kill('SIGCONT');
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  expect(await exited).toEqual([0, null]);
  await vi.waitFor(() => expect(receiver.texts.at(-1)).toBe('STOPPING=1\nSTATUS=draining'), within);
});

test.skipIf(!canReceive)('a shard that refuses what it is given never says that it is ready', async () => {
  const { child, receiver } = await start('refused', ['shard', planPath, '--name', 'none', '--bundle', model.dir], 400_000);
  expect(await once(child, 'exit')).toEqual([1, null]);
  expect(receiver.notices).toEqual([]);
});

test.skipIf(!canReceive)('up is ready when all its shards are, which themselves say nothing', async () => {
  const { child, receiver } = await start('up', ['up', planPath, '--bundle', model.dir], 60_000_000);
  await vi.waitFor(() => expect(receiver.notices.length).toBeGreaterThanOrEqual(1), within);
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  expect(await exited).toEqual([0, null]);
  await vi.waitFor(() => expect(receiver.notices.length).toBeGreaterThanOrEqual(2), within);
  expect(receiver.texts).toEqual(['READY=1\nSTATUS=serving 2 replicas', 'STOPPING=1\nSTATUS=draining']);
});
