import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { connect as connectSocket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { launchCluster, readModelSpec, writePlan } from '../../src/index.js';
import type { BagsInput, PredictRequest } from '../../src/predictor/predictor.js';
import { capacityPlan } from '../reference/plans.js';
import { random, referenceScores, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const service = join(root, 'examples', 'ranking-service', 'server.ts');
let model: SmallModel;

beforeAll(async () => {
  model = await writeSmallModel(5);
});
afterAll(() => rm(model.dir, { recursive: true }));

interface Service {
  readonly child: ChildProcess;
  readonly port: number;
}

/** Starts the example as its README does, on a free port. */
async function start(...args: string[]): Promise<Service> {
  const child = spawn(process.execPath, ['--import', 'tsx', service, '--bundle', model.dir, '--port', '0', ...args], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`the service ended with ${code} before it listened`);
  });
  const [line] = await Promise.race([once(createInterface(child.stdout!), 'line') as Promise<[string]>, ended]);
  ended.catch(() => undefined);
  return { child, port: (JSON.parse(line.replace(/^ranking at /, '')) as { port: number }).port };
}

async function end({ child }: Service): Promise<unknown> {
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  const [code] = await exited;
  return code;
}

const bodyOf = (request: PredictRequest): string =>
  JSON.stringify({
    candidates: Array.from({ length: request.items ?? 0 }, (_, item) => `item-${item}`),
    features: {
      dense: Object.fromEntries(Object.entries(request.dense).map(([name, values]) => [name, Array.from(values)])),
      sparse: Object.fromEntries(
        Object.entries(request.sparse).map(([name, { indices, offsets, weights }]) => [
          name,
          { indices: Array.from(indices as Int32Array), offsets, ...(weights && { weights: Array.from(weights) }) },
        ]),
      ),
    },
  });

async function rank(port: number, body: string): Promise<{ status: number; answer: Record<string, unknown> }> {
  const response = await fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body });
  return { status: response.status, answer: (await response.json()) as Record<string, unknown> };
}

async function expectRanked(port: number): Promise<void> {
  const request = smallRequest(random(8), 9);
  const { status, answer } = await rank(port, bodyOf(request));
  expect(status).toBe(200);
  const expected = referenceScores(model, request, 9).map((score, item) => ({ candidate: `item-${item}`, score }));
  const ranking = answer['ranking'] as typeof expected;
  expect(ranking.map(({ candidate }) => candidate)).toEqual(
    expected.toSorted((a, b) => b.score - a.score).map(({ candidate }) => candidate),
  );
  for (const { candidate, score } of ranking) expect(score).toBeCloseTo(expected.find((entry) => entry.candidate === candidate)!.score, 5);
}

test('the ranking service ranks candidates by the score of the model, and tells a caller what is wrong with a request', async () => {
  const running = await start();
  try {
    await expectRanked(running.port);
    const request = smallRequest(random(8), 3);
    const outOfRange = { ...request, sparse: { ...request.sparse, sum: { indices: [50], offsets: [0, 1] } satisfies BagsInput } };
    expect(await rank(running.port, bodyOf(outOfRange))).toMatchObject({
      status: 400,
      answer: { code: 'index_out_of_range', details: { table: 't0' } },
    });
    expect(await rank(running.port, '{')).toMatchObject({ status: 400, answer: { code: 'invalid_argument' } });
  } finally {
    expect(await end(running)).toBe(0);
  }
});

test('the ranking service asks the shards of a plan', async () => {
  const cluster = await launchCluster(capacityPlan(await readModelSpec(model.dir), 2), { bundle: model.dir, ephemeralPorts: true });
  try {
    const plan = join(model.dir, 'live-plan.json');
    await writePlan(plan, cluster.plan);
    const running = await start('--plan', plan);
    try {
      await expectRanked(running.port);
      for (const { name } of cluster.shards) cluster.kill(name, 'SIGSTOP');
      const { status, answer } = await rank(running.port, bodyOf(smallRequest(random(8), 3)));
      expect([503, 504]).toContain(status);
      expect(answer).toMatchObject({ details: { shard: expect.stringMatching(/^shard-\d$/) } });
    } finally {
      for (const { name } of cluster.shards) cluster.kill(name, 'SIGCONT');
      expect(await end(running)).toBe(0);
    }
  } finally {
    await cluster.stop();
  }
});

test('on SIGTERM the ranking service takes no new connection, answers what it has begun to read, and ends', async () => {
  const { child, port } = await start();
  const body = bodyOf(smallRequest(random(8), 4));
  // A connection that never asks for anything does not keep the service from ending.
  const idle = connectSocket(port, '127.0.0.1').on('error', () => undefined);
  await once(idle, 'connect');
  const sent = httpRequest({ port, host: '127.0.0.1', method: 'POST', headers: { 'content-length': Buffer.byteLength(body) } });
  sent.write(body.slice(0, 10));
  await once(sent, 'socket').then(([socket]) => (socket.connecting ? once(socket, 'connect') : undefined));
  // Connections are accepted in order: when this one has its answer, the others are accepted.
  await rank(port, body);
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  while (!(await isRefused(port)));
  sent.end(body.slice(10));
  const [response] = await once(sent, 'response');
  expect(response.statusCode).toBe(200);
  expect(JSON.parse(await text(response))).toMatchObject({ ranking: { length: 4 } });
  expect(await exited).toEqual([0, null]);
});

async function isRefused(port: number): Promise<boolean> {
  const socket = connectSocket(port, '127.0.0.1');
  const connected = await once(socket, 'connect').catch(() => null);
  socket.destroy();
  return connected === null;
}

test('the README shows the service that is tested here', () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  expect(readme).toContain(`\`\`\`ts\n${readFileSync(service, 'utf8')}\`\`\``);
});
