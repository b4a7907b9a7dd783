import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpsRequest } from 'node:https';
import { connect as connectSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openLocal, type Predictor, type ServeOptions, type ServingServer, serve, TerabagError } from '../../../src/index.js';
import { serveModels } from '../../../src/serve/serve.js';
import type { ModelSource } from '../../../src/serve/served-model.js';
import { inferBody, tensorsOf } from '../../reference/infer-body.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';

let model: SmallModel;
let predictor: Predictor;
const scratch = mkdtempSync(join(tmpdir(), 'terabag-serve-'));
beforeAll(async () => {
  model = await writeSmallModel(8);
  predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
});
afterAll(async () => {
  await predictor.close();
  rmSync(model.dir, { recursive: true });
  rmSync(scratch, { recursive: true });
});

const body = inferBody(tensorsOf(smallRequest(random(1), 2), { dense: DENSE }), () => true);
const infer = (url: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${url}/v2/models/model/infer`, { method: 'POST', body: body.body, headers: { ...body.headers, ...headers } });

async function serving(options: ServeOptions, use: (server: ServingServer) => Promise<void>, served: Predictor = predictor): Promise<void> {
  const server = await serve(served, { http: '127.0.0.1:0', ...options });
  try {
    await use(server);
  } finally {
    await server.close();
  }
}

/** Answers once it is told to. */
function held(): { readonly predictor: Predictor; readonly release: () => void; readonly asked: Promise<void> } {
  let release = (): void => undefined;
  let ask = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  const asked = new Promise<void>((resolve) => (ask = resolve));
  const waiting: Predictor = {
    ...{ modelHash: predictor.modelHash, model: predictor.model, readiness: () => predictor.readiness(), stats: () => predictor.stats() },
    predict: async (request, options) => {
      const prediction = predictor.predict(request, options);
      ask();
      await released;
      return prediction;
    },
    close: async () => undefined,
  };
  return { predictor: waiting, release, asked };
}

test('closing: not ready at once, requests are still answered, those in flight end, and then nothing listens', async () => {
  const { predictor: waiting, release, asked } = held();
  const server = await serve(waiting, { http: '127.0.0.1:0', drainMs: 300 });
  const inFlight = infer(server.url);
  await asked;
  const closing = server.close();
  expect(server.ready).toBe(false);
  expect((await fetch(`${server.url}/v2/health/ready`)).status).toBe(503);
  const late = await fetch(`${server.url}/v2/models/model`);
  expect([late.status, late.headers.get('connection')]).toEqual([200, 'close']);
  await sleep(500);
  let closed = false;
  void closing.then(() => (closed = true));
  await sleep(50);
  expect(closed).toBe(false);
  release();
  expect((await inFlight).status).toBe(200);
  await closing;
  await expect(fetch(`${server.url}/v2/health/live`)).rejects.toThrow();
});

test('it listens while models are opened, says what is missing, and serves those that can be opened', async () => {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  const sources: ModelSource[] = [
    {
      name: 'good',
      version: '1',
      open: async () => {
        await opened;
        return openLocal(model.dir);
      },
    },
    { name: 'bad', version: '1', open: () => Promise.reject(new TerabagError('bad_model', 'no such layer')) },
  ];
  const warnings: string[] = [];
  const server = await serveModels(async () => sources, { http: '127.0.0.1:0', onWarning: (message) => warnings.push(message) });
  const status = async (path: string): Promise<number> => (await fetch(server.url + path)).status;
  expect(await Promise.all(['/v2/health/live', '/v2/health/ready', '/v2/models/good/ready', '/v2/models/good'].map(status))).toEqual([
    200, 503, 503, 503,
  ]);
  open();
  await server.opened;
  expect(await Promise.all(['/v2/health/ready', '/v2/models/good/ready', '/v2/models/good', '/v2/models/bad/ready'].map(status))).toEqual([
    503, 200, 200, 503,
  ]);
  expect(await (await fetch(`${server.url}/v2/models/bad/ready`)).json()).toEqual({
    name: 'bad',
    ready: false,
    reasons: ['no such layer'],
  });
  expect(warnings).toEqual(['model bad version 1: no such layer']);
  await server.close();
});

test('clients load and unload versions where that is allowed: requests go to the latest, and those in flight are answered', async () => {
  const versions = new Set(['9', '10']);
  const find = async (): Promise<ModelSource[]> =>
    [...versions].map((version) => ({ name: 'model', version, open: () => openLocal(model.dir) }));
  const server = await serveModels(find, { http: '127.0.0.1:0', repositoryControl: true });
  await server.opened;
  const change = async (what: string): Promise<number> =>
    (await fetch(`${server.url}/v2/repository/models/${what}`, { method: 'POST', body: '{}' })).status;
  const version = async (): Promise<string> => ((await (await infer(server.url)).json()) as { model_version: string }).model_version;
  const index = async (): Promise<unknown> => (await fetch(`${server.url}/v2/repository/index`, { method: 'POST' })).json();
  expect(await version()).toBe('10');
  versions.delete('10');
  versions.add('11');
  expect(await index()).toContainEqual({ name: 'model', version: '11', state: 'UNAVAILABLE', reason: 'not loaded' });
  expect(await change('model/load')).toBe(200);
  expect(await version()).toBe('11');
  expect(await index()).toEqual(['11', '9'].map((each) => ({ name: 'model', version: each, state: 'READY', reason: '' })));
  expect(await change('other/load')).toBe(404);
  expect(await change('model/unload')).toBe(200);
  expect((await infer(server.url)).status).toBe(404);
  expect((await fetch(`${server.url}/v2/health/ready`)).status).toBe(503);
  expect(await change('model/load')).toBe(200);
  expect(await version()).toBe('11');
  await server.close();
});

test('requests need a token of the file, which is read anew; health needs none', async () => {
  const tokenFile = join(scratch, 'tokens');
  writeFileSync(tokenFile, '# the ranking service\nfirst-token\n');
  await serving({ tokenFile }, async ({ url }) => {
    const status = async (authorization?: string): Promise<number> =>
      (await infer(url, authorization === undefined ? {} : { authorization })).status;
    expect(await Promise.all([status(), status('Bearer wrong'), status('Basic first-token'), status('Bearer first-token')])).toEqual([
      401, 401, 401, 200,
    ]);
    expect((await fetch(`${url}/v2/health/ready`)).status).toBe(200);
    expect((await fetch(`${url}/v2`)).status).toBe(401);
    writeFileSync(tokenFile, 'second-token\nthird-token\n');
    await expect.poll(() => status('Bearer third-token'), { timeout: 10_000 }).toBe(200);
    expect(await status('Bearer first-token')).toBe(401);
  });
  writeFileSync(tokenFile, '\n');
  await expect(serve(predictor, { http: '127.0.0.1:0', tokenFile })).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { path: tokenFile },
  });
});

test('pages of other origins may call only where that is said', async () => {
  const allowed = async (url: string, origin: string): Promise<string | null> =>
    (await fetch(`${url}/v2`, { headers: { origin } })).headers.get('access-control-allow-origin');
  await serving({}, async ({ url }) => {
    expect(await allowed(url, 'https://a.example')).toBeNull();
    expect((await fetch(`${url}/v2/models/model/infer`, { method: 'OPTIONS', headers: { origin: 'https://a.example' } })).status).toBe(405);
  });
  await serving({ corsOrigin: 'https://a.example' }, async ({ url }) => {
    expect([await allowed(url, 'https://a.example'), await allowed(url, 'https://b.example')]).toEqual(['https://a.example', null]);
    expect((await fetch(`${url}/v2/models/model/infer`, { method: 'OPTIONS', headers: { origin: 'https://a.example' } })).status).toBe(204);
  });
});

test('a client that is slow with its header, or with its body, loses its connection; so does one too many', async () => {
  await serving({ headersMs: 500, requestMs: 1500, maxConnections: 3 }, async ({ url }) => {
    const port = Number(new URL(url).port);
    const closes = (text: string): Promise<string> =>
      new Promise((resolve) => {
        let answered = '';
        const socket = connectSocket(port, '127.0.0.1', () => socket.write(text));
        socket.on('data', (chunk) => (answered += chunk)).on('error', () => undefined);
        socket.on('close', () => resolve(answered.split('\r\n')[0] as string));
      });
    const header = closes('POST /v2/models/model/infer HTTP/1.1\r\nhost: x\r\n');
    const sending = closes('POST /v2/models/model/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{');
    expect(await Promise.all([header, sending])).toEqual(['HTTP/1.1 408 Request Timeout', expect.stringMatching(/408|^$/)]);
    const idle = [1, 2, 3].map(() => connectSocket(port, '127.0.0.1'));
    await Promise.all(idle.map((socket) => new Promise((resolve) => socket.once('connect', resolve))));
    expect(await closes('GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n')).toBe('');
    for (const socket of idle) socket.destroy();
    await expect.poll(async () => (await fetch(`${url}/v2`).catch(() => null))?.status, { timeout: 10_000 }).toBe(200);
  });
});

function openssl(...words: string[]): boolean {
  try {
    execFileSync('openssl', words, { cwd: scratch, stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
const HAS_OPENSSL = openssl('version');

test.skipIf(!HAS_OPENSSL)('TLS, and certificates of clients where roots of theirs are given (skipped without openssl)', async () => {
  const file = (name: string): string => join(scratch, name);
  const certificate = (name: string, root: string): void => {
    openssl(
      'req',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-keyout',
      `${name}.key`,
      '-subj',
      `/CN=${name}`,
      '-out',
      `${name}.csr`,
    );
    writeFileSync(file('ext'), 'subjectAltName=IP:127.0.0.1\n');
    openssl(
      'x509',
      '-req',
      '-in',
      `${name}.csr`,
      '-CA',
      `${root}.crt`,
      '-CAkey',
      `${root}.key`,
      '-CAcreateserial',
      '-days',
      '2',
      '-extfile',
      'ext',
      '-out',
      `${name}.crt`,
    );
  };
  for (const root of ['root', 'other'])
    openssl(
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-keyout',
      `${root}.key`,
      '-subj',
      `/CN=${root}`,
      '-days',
      '2',
      '-out',
      `${root}.crt`,
    );
  certificate('server', 'root');
  certificate('client', 'root');
  certificate('stranger', 'other');
  const { readFileSync } = await import('node:fs');
  const status = (url: string, client: string | null): Promise<number | string> =>
    new Promise((resolve) => {
      const own = client === null ? {} : { cert: readFileSync(file(`${client}.crt`)), key: readFileSync(file(`${client}.key`)) };
      const asked = httpsRequest(`${url}/v2/health/live`, { ca: readFileSync(file('root.crt')), ...own, agent: false }, (response) => {
        response.resume();
        resolve(response.statusCode as number);
      });
      asked.on('error', () => resolve('refused'));
      asked.end();
    });
  const tls = { cert: file('server.crt'), key: file('server.key') };
  await serving({ tls }, async ({ url }) => {
    expect(url).toMatch(/^https:/);
    expect(await status(url, null)).toBe(200);
  });
  await serving({ tls: { ...tls, clientCa: file('root.crt') } }, async ({ url }) => {
    expect([await status(url, null), await status(url, 'stranger'), await status(url, 'client')]).toEqual(['refused', 'refused', 200]);
  });
  await expect(serve(predictor, { http: '127.0.0.1:0', tls: { ...tls, key: file('none') } })).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { field: 'tls.key' },
  });
});

test('an address that is none, or is taken, is refused', async () => {
  await expect(serve(predictor, { http: 'here' })).rejects.toMatchObject({ code: 'invalid_argument', details: { field: 'http' } });
  await expect(serve(predictor, { http: '127.0.0.1:70000' })).rejects.toMatchObject({ code: 'invalid_argument' });
  await serving({}, async ({ url }) => {
    const taken = serve(predictor, { http: new URL(url).host });
    await expect(taken).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(/^cannot listen at .*EADDRINUSE/),
    });
  });
});

test('a client that goes away aborts its request', async () => {
  let aborted = false;
  const { predictor: waiting, asked, release } = held();
  const watching: Predictor = {
    ...waiting,
    predict: (request, options) => {
      options?.signal?.addEventListener('abort', () => (aborted = true));
      return waiting.predict(request, options);
    },
  };
  await serving(
    {},
    async ({ url }) => {
      const gone = new AbortController();
      const request = fetch(`${url}/v2/models/model/infer`, {
        method: 'POST',
        body: body.body,
        headers: body.headers,
        signal: gone.signal,
      });
      await asked;
      gone.abort();
      await expect(request).rejects.toThrow();
      await expect.poll(() => aborted).toBe(true);
      release();
    },
    watching,
  );
});
