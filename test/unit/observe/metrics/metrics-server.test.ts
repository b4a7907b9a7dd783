import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { MetricsServer, type MetricsServerOptions } from '../../../../src/observe/metrics/metrics-server.js';

const open: MetricsServer[] = [];
afterEach(async () => {
  for (const server of open.splice(0)) await server.close();
});

async function* pieces(...texts: readonly string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

async function listening(options: Partial<MetricsServerOptions> = {}): Promise<MetricsServer> {
  const server = await MetricsServer.listen({
    ...{ host: '127.0.0.1', port: 0, ready: () => true, pieces: () => pieces('a 1\n', 'b 2\n') },
    ...options,
  });
  open.push(server);
  return server;
}

async function socketTo({ url }: MetricsServer): Promise<Socket> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  await once(socket, 'connect');
  return socket;
}

/** All that comes until the connection ends. */
async function received(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (data) => (text += data));
  await once(socket, 'close');
  return text;
}

test('metrics come in the text format, and health as kserve parses it', async () => {
  let ready = false;
  const { url } = await listening({ ready: () => ready });
  const metrics = await fetch(`${url}/metrics?from=there`);
  expect([metrics.status, metrics.headers.get('content-type')]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8']);
  expect(await metrics.text()).toBe('a 1\nb 2\n');
  const health = async (path: string) => {
    const answer = await fetch(`${url}/v2/health/${path}`);
    return [answer.status, answer.headers.get('content-type'), await answer.json()];
  };
  expect(await health('live')).toEqual([200, 'application/json', { live: true }]);
  expect(await health('ready')).toEqual([503, 'application/json', { ready: false }]);
  ready = true;
  expect(await health('ready')).toEqual([200, 'application/json', { ready: true }]);
});

test('other paths and methods are refused; HEAD has no body', async () => {
  const { url } = await listening();
  expect((await fetch(`${url}/v2`)).status).toBe(404);
  const posted = await fetch(`${url}/metrics`, { method: 'POST', body: 'x'.repeat(10_000) });
  expect([posted.status, posted.headers.get('allow'), posted.headers.get('connection')]).toEqual([405, 'GET, HEAD', 'close']);
  const head = await fetch(`${url}/metrics`, { method: 'HEAD' });
  expect([head.status, await head.text()]).toEqual([200, '']);
});

test('a header that is too long ends the connection', async () => {
  const socket = await socketTo(await listening());
  socket.write(`GET /metrics HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(10_000)}\r\n\r\n`);
  expect(await received(socket)).toMatch(/^HTTP\/1.1 431 /);
});

test('an answer whose text fails in the middle is cut off, and the next one is whole', async () => {
  const texts = [
    (async function* () {
      yield Buffer.from('a 1\n');
      throw new Error('as told');
    })(),
    pieces('b 2\n'),
  ];
  const { url } = await listening({ pieces: () => texts.shift() as AsyncGenerator<Uint8Array> });
  await expect(fetch(`${url}/metrics`).then((answer) => answer.text())).rejects.toThrow();
  expect(await (await fetch(`${url}/metrics`)).text()).toBe('b 2\n');
});

test('no more is made than its reader takes, and nothing once it is gone', async () => {
  let made = 0;
  let ended = false;
  const endless = async function* () {
    try {
      for (;;) {
        made++;
        yield Buffer.alloc(2 ** 16, 'a');
      }
    } finally {
      ended = true;
    }
  };
  const server = await listening({ pieces: endless });
  const socket = await socketTo(server);
  socket.pause();
  socket.write('GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n');
  let before = -1;
  // Until the buffers between both are full.
  while (made === 0 || made !== before) {
    before = made;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  expect(made).toBeLessThan(1000);
  expect((await fetch(`${server.url}/v2/health/live`)).status).toBe(200);
  socket.destroy();
  while (!ended) await new Promise((resolve) => setTimeout(resolve, 10));
});

test('an address that is taken is refused by its name', async () => {
  const { url } = await listening();
  const port = Number(new URL(url).port);
  await expect(MetricsServer.listen({ host: '127.0.0.1', port, ready: () => true, pieces: () => pieces() })).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { endpoint: `127.0.0.1:${port}` },
  });
});
