import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openLocal, type Predictor, type ServingServer, serve } from '../../../src/index.js';
import { RemotePredictor } from '../../../src/lab/endpoint/remote-predictor.js';
import { runOpenLoopLoad } from '../../../src/lab/load/open-loop-load.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';
import { validRequest } from '../../reference/small-requests.js';

let model: SmallModel;
let predictor: Predictor;
let server: ServingServer;
let remote: RemotePredictor;
beforeAll(async () => {
  model = await writeSmallModel(7);
  predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
  server = await serve([{ name: 'small', version: '3', predictor }], { http: '127.0.0.1:0' });
  remote = await RemotePredictor.open({ url: server.url, model: 'small', timing: true });
});
afterAll(async () => {
  remote?.close();
  await server?.close();
  await predictor.close();
  await rm(model.dir, { recursive: true });
});

/** Answers metadata of no inputs, and what handle does with each other request. */
async function stranger(handle: Parameters<typeof createServer>[1] & object): Promise<{ readonly url: string; readonly server: Server }> {
  const strange = createServer((request, response) => {
    if (request.method === 'GET') response.end('{"inputs": []}');
    else request.resume().once('end', () => handle(request, response));
  });
  strange.listen(0, '127.0.0.1');
  await once(strange, 'listening');
  return { url: `http://127.0.0.1:${(strange.address() as AddressInfo).port}`, server: strange };
}

const request = smallRequest(random(5), 5);
const anything = { dense: {}, sparse: {} };

test('a served model gives the bits of predict, in whatever form ids are given', async () => {
  await fc.assert(
    fc.asyncProperty(validRequest({ minItems: 1, minIds: 0 }), async ({ items, request: given }) => {
      const { scores, scoreDim } = await predictor.predict(given);
      expect(await remote.predict(given)).toMatchObject({ scores, scoreDim, items, modelVersion: '3', degraded: false });
    }),
    { numRuns: 50 },
  );
});

test('the server tells what its stages took, which add up to less than all of it, and only when it is asked', async () => {
  const startedAt = performance.now();
  const { stages } = await remote.predict(request);
  const roundTrip = performance.now() - startedAt;
  const { total, read, decode, predict, encode } = stages!;
  expect(predict).toBeGreaterThan(0);
  expect(read + decode + predict + encode).toBeLessThanOrEqual(total + 0.005);
  expect(total).toBeLessThan(roundTrip);
  const silent = await RemotePredictor.open({ url: server.url, model: 'small', version: '3' });
  expect((await silent.predict(request)).stages).toBe(null);
  silent.close();
});

test('errors have the codes and details of predict', async () => {
  const broken = structuredClone(request);
  (broken.sparse['sum']!.indices as Int32Array)[0] = 9999;
  const local = await predictor.predict(broken).catch((error) => error);
  expect(await remote.predict(broken).catch((error) => error)).toMatchObject({
    name: 'TerabagError',
    code: local.code,
    message: local.message,
    details: local.details,
  });
  await expect(remote.predict({ ...request, sparse: {} })).rejects.toMatchObject({ code: 'invalid_argument' });
  await expect(remote.predict({ ...request, dense: { dense: [1, 2, 3] } })).rejects.toMatchObject({ details: { field: 'dense' } });
  const half = { ...request, sparse: { ...request.sparse, sum: { indices: [0.5], offsets: [0, 1] } } };
  await expect(remote.predict(half)).rejects.toMatchObject({ code: 'invalid_argument', details: { bag: 'sum' } });
  await expect(RemotePredictor.open({ url: server.url, model: 'large' })).rejects.toMatchObject({ code: 'not_found' });
  await expect(RemotePredictor.open({ url: server.url, model: 'small', version: '4' })).rejects.toMatchObject({ code: 'not_found' });
  await expect(RemotePredictor.open({ url: 'http://127.0.0.1:1', model: 'small' })).rejects.toMatchObject({ code: 'shard_unavailable' });
  for (const url of ['localhost', 'ftp://127.0.0.1', '127.0.0.1:8000'])
    await expect(RemotePredictor.open({ url, model: 'small' })).rejects.toMatchObject({ code: 'invalid_argument' });
});

test('a token goes with each request', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'terabag-token-'));
  const tokenFile = join(dir, 'tokens');
  writeFileSync(tokenFile, 'secret-of-the-test\n');
  const guarded = await serve(predictor, { http: '127.0.0.1:0', name: 'small', tokenFile });
  const known = await RemotePredictor.open({ url: guarded.url, model: 'small', token: 'secret-of-the-test' });
  expect((await known.predict(request)).items).toBe(5);
  await expect(RemotePredictor.open({ url: guarded.url, model: 'small' })).rejects.toThrow('bearer token');
  known.close();
  await guarded.close();
  rmSync(dir, { recursive: true });
});

test('a request ends at its deadline, which the server is told in microseconds', async () => {
  const told: unknown[] = [];
  const { url, server: silent } = await stranger(() => undefined);
  silent.on('request', (incoming: IncomingMessage) => {
    const length = Number(incoming.headers['inference-header-content-length']);
    if (incoming.method === 'POST')
      incoming.once('data', (chunk: Buffer) => told.push(JSON.parse(chunk.toString('utf8', 0, length)).parameters.timeout));
  });
  const waiting = await RemotePredictor.open({ url, model: 'any' });
  await expect(waiting.predict(anything, { deadlineMs: 50.5 })).rejects.toMatchObject({ code: 'deadline_exceeded' });
  expect(told).toEqual([50_500]);
  const abort = new AbortController();
  const aborted = expect(waiting.predict(anything, { deadlineMs: 60_000, signal: abort.signal })).rejects.toMatchObject({
    code: 'aborted',
  });
  abort.abort();
  await aborted;
  await expect(waiting.predict(anything, { signal: abort.signal })).rejects.toMatchObject({ code: 'aborted' });
  // Resolves only when all gave their connections up.
  await new Promise((resolve) => silent.close(resolve));
  waiting.close();
});

test('a request that meets a connection which was closed while idle is sent again; one that fails in the middle is not', async () => {
  const sockets: Socket[] = [];
  let answered = 0;
  let cut = false;
  const { url, server: restless } = await stranger((_, response) => {
    if (cut) response.destroy();
    else response.end(`{"outputs": [], "model_version": "${++answered}"}`);
  });
  restless.on('connection', (socket: Socket) => sockets.push(socket));
  const client = await RemotePredictor.open({ url, model: 'any' });
  expect((await client.predict(anything)).modelVersion).toBe('1');
  // Reset, so that the client's end does not learn of it before it writes.
  for (const socket of sockets) socket.resetAndDestroy();
  expect((await client.predict(anything)).modelVersion).toBe('2');
  cut = true;
  await expect(client.predict(anything)).rejects.toMatchObject({ code: 'shard_unavailable' });
  client.close();
  restless.closeAllConnections();
  await new Promise((resolve) => restless.close(resolve));
});

test.each([
  [503, 'text/html', '<html>busy', 'overloaded'],
  [404, 'application/json', '{"error": "no such model"}', 'not_found'],
  [504, 'application/json', '{}', 'deadline_exceeded'],
  [500, 'application/json', '{"error": "it broke", "code": "bad_table"}', 'bad_table'],
  [418, 'application/json', 'null', 'internal'],
  [200, 'text/html', '<html>', 'bad_message'],
  [200, 'application/json', '{"outputs": [{"name": "scores", "shape": [2, 1], "parameters": {"binary_data_size": 8}}]}', 'bad_message'],
])('what other servers answer becomes a code: %d %s %s', async (status, type, body, code) => {
  const { url, server: other } = await stranger((_, response) => response.writeHead(status, { 'content-type': type }).end(body));
  const client = await RemotePredictor.open({ url, model: 'any' });
  await expect(client.predict(anything)).rejects.toMatchObject({ name: 'TerabagError', code });
  client.close();
  await new Promise((resolve) => other.close(resolve));
});

test('the load generator drives a served model as it does a predictor', async () => {
  const answers: number[] = [];
  const run = await runOpenLoopLoad({
    ...{ predictor: remote, requests: [request], deadlineMs: 5000, warmUpMs: 100, durationMs: 400 },
    arrivals: { process: 'poisson', qps: 100, seed: 1 },
    onAnswer: (_, ms) => answers.push(ms),
  });
  expect(run.errors).toEqual({});
  expect(run.latency.count).toBeGreaterThan(10);
  expect(answers.length).toBe(run.latency.count);
});
