import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { native } from '../../src/engine/native.js';
import { type Cluster, launchCluster, readModelSpec } from '../../src/index.js';
import { capacityPlan } from '../reference/plans.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

let model: SmallModel;
let cluster: Cluster;
beforeAll(async () => {
  model = await writeSmallModel(91);
  cluster = await launchCluster(capacityPlan(await readModelSpec(model.dir), 2), {
    bundle: model.dir,
    ephemeralPorts: true,
    logLevel: 'error',
  });
});
afterAll(async () => {
  await cluster?.stop();
  await rm(model.dir, { recursive: true });
});

const plain = (_key: string, value: unknown): unknown => (ArrayBuffer.isView(value) ? Array.from(value as Float32Array) : value);
const MOST_MS = 8000;
/** The sockets of zeromq.js keep a process alive until they are closed. */
const SHARDED_ENDS = process.env['TERABAG_SOCKETS'] !== 'zeromq.js' && native.socketsAvailable();
const KINDS: readonly ('local' | 'sharded')[] = SHARDED_ENDS ? ['local', 'sharded'] : ['local'];

/** Runs a program that has a predictor and a request, and never closes the predictor; what it printed, once it has ended by itself. */
async function run(kind: 'local' | 'sharded', program: string): Promise<{ code: number | null; lines: string[] }> {
  const request = JSON.stringify(smallRequest(random(4), 3), plain);
  const script = `
    import { connect, openLocal } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
    const bundle = ${JSON.stringify(model.dir)};
    const predictor = await ${kind === 'local' ? 'openLocal(bundle)' : `connect(${JSON.stringify(cluster.plan)}, { deadlineMs: 10_000, bundle })`};
    const request = ${request};
    ${program}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let printed = '';
  child.stdout.on('data', (chunk: Buffer) => {
    printed += chunk.toString();
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), MOST_MS);
  const [code] = (await once(child, 'close')) as [number | null];
  clearTimeout(timer);
  return { code, lines: printed.trim().split('\n') };
}

test.each(KINDS)('a process with a %s predictor that is not closed ends when it has nothing else to do', async (kind) => {
  expect(await run(kind, 'console.log((await predictor.predict(request)).items);')).toEqual({ code: 0, lines: ['3'] });
});

test.each(KINDS)('a process with a %s predictor waits for requests that run, and for nothing after', async (kind) => {
  const program = `
    predictor.predict(request).then(({ items }) => console.log(items));
    process.on('exit', () => console.log('ends'));`;
  expect(await run(kind, program)).toEqual({ code: 0, lines: ['3', 'ends'] });
});

test.skipIf(KINDS.length < 2)('a process waits for a shard that stalls until the deadline, and ends then', async () => {
  try {
    const program = `
      process.kill(${cluster.shards[1]?.pid}, 'SIGSTOP');
      predictor.predict(request, { deadlineMs: 300 }).catch(({ code }) => console.log(code));`;
    expect(await run('sharded', program)).toEqual({ code: 0, lines: ['deadline_exceeded'] });
  } finally {
    cluster.kill('shard-1', 'SIGCONT');
  }
});
