import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp, open, readdir, rename, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { connect, openLocal, type Plan, writePlan } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { capacityPlan } from '../reference/plans.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const MAIN = new URL('../../dist/cli/main.js', import.meta.url).pathname;

let model: SmallModel;
let scores: Float32Array;
const request = smallRequest(random(8), 3);
beforeAll(async () => {
  model = await writeSmallModel(91);
  const local = await openLocal(model.dir);
  scores = (await local.predict(request)).scores;
  await local.close();
});
afterAll(() => rm(model.dir, { recursive: true }));

let dir: string;
let plan: Plan;
let children: ChildProcess[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-files-'));
  await cp(model.dir, join(dir, 'model'), { recursive: true });
  const planned = capacityPlan(await readModelSpec(model.dir), 1);
  plan = { ...planned, shards: [{ name: 'shard-0', endpoints: [`ipc://${join(dir, 'shard')}`] }] };
  await writePlan(join(dir, 'plan.json'), plan);
});
afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  children = [];
  await rm(dir, { recursive: true });
});

interface Running {
  readonly log: () => string;
  readonly exited: Promise<readonly [code: number | null, signal: string | null]>;
}

function startShard(): Running {
  const args = ['shard', join(dir, 'plan.json'), '--name', 'shard-0', '--bundle', join(dir, 'model')];
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(child);
  let text = '';
  child.stderr.on('data', (data) => {
    text += data;
  });
  return { log: () => text, exited: once(child, 'close') as unknown as Running['exited'] };
}

async function served(): Promise<Running> {
  const running = startShard();
  await expect.poll(() => running.log(), { timeout: 20_000 }).toContain('"ready"');
  return running;
}

const tableFiles = async (): Promise<string[]> =>
  (await readdir(join(dir, 'model', 'tables'))).map((file) => join(dir, 'model', 'tables', file));
const refuses = async (what: RegExp): Promise<void> => {
  const again = startShard();
  expect((await again.exited)[0]).toBe(1);
  expect(again.log()).toMatch(what);
};

test('a table file that is cut short under its mapping ends the shard with a last line that names it, and is refused afterwards', async () => {
  const { log, exited } = await served();
  const [file = ''] = await tableFiles();
  const predictor = await connect(plan, { bundle: model.dir });
  await truncate(file, 0);
  // Whatever the shard was asked, it has no right answer to it.
  await expect(predictor.predict(request, { deadlineMs: 1000 })).rejects.toMatchObject({ details: { shard: 'shard-0' } });
  await predictor.close();
  expect((await exited)[1]).toBe('SIGBUS');
  expect(log().trim().split('\n').at(-1)).toMatch(
    /^terabag: a table file was cut short while it was mapped.*SIGBUS.*tables\/.*\.safetensors$/,
  );
  expect(log()).toContain(file);
  await refuses(/bad_table|does not hold|shorter|empty/);
}, 60_000);

test('a table file that is written to where it lies ends the shard within seconds, and is refused afterwards', async () => {
  const { log, exited } = await served();
  const [file = ''] = await tableFiles();
  const handle = await open(file, 'r+');
  const { size } = await handle.stat();
  await handle.write(Buffer.of(0x41), 0, 1, size - 1);
  await handle.close();
  expect((await exited)[0]).toBe(1);
  expect(JSON.parse(log().trim().split('\n').at(-1) ?? '')).toMatchObject({
    code: 'bad_table',
    path: file,
    msg: expect.stringContaining('written to'),
  });
  await refuses(/checksum_mismatch|file is damaged/);
}, 60_000);

test('a shard whose files are replaced serves on from those that it opened, and says so', async () => {
  const { log } = await served();
  const predictor = await connect(plan, { bundle: model.dir });
  const [replaced = '', removed = ''] = await tableFiles();
  const handle = await open(`${replaced}.new`, 'w');
  await handle.write('of another version');
  await handle.close();
  await rename(`${replaced}.new`, replaced);
  await rm(removed);
  await expect.poll(async () => (await predictor.shardStats())[0]?.stats?.replacedFiles, { timeout: 10_000 }).toBe(2);
  await sleep(2500);
  expect((await predictor.predict(request, { deadlineMs: 5000 })).scores).toEqual(scores);
  expect(log().match(/a file was replaced/g)).toHaveLength(2);
  await predictor.close();
}, 60_000);
