import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { Router } from 'zeromq';
import type { NativePeerLimits } from '../../../../src/engine/native.js';
import { connectNative, listenNative } from '../../../../src/rpc/transport/native-sockets.js';
import {
  type ClientHandlers,
  type ClientTransport,
  type Listening,
  PEER_LIMITS,
  type Peer,
  type ServerHandler,
} from '../../../../src/rpc/transport/transport.js';
import { flood, frame, frameWithMore, greeting, rawDealer, rawPeer } from '../../../reference/zmtp.js';

const ANY_PORT = 'tcp://127.0.0.1:*';
const MIB = 1024 * 1024;
const dir = mkdtempSync(join(tmpdir(), 'hostile-'));
const open: { close(): unknown }[] = [];
const raw: Socket[] = [];
afterEach(async () => {
  for (const socket of raw.splice(0)) socket.destroy();
  for (const socket of open.splice(0)) await socket.close();
});
afterAll(() => rm(dir, { recursive: true }));

interface Server {
  readonly transport: Listening;
  readonly received: { peer: Peer; text: string }[];
  readonly refusals: string[];
  readonly gone: Peer[];
}

function server(limits: Partial<NativePeerLimits> = {}, endpoint = ANY_PORT, answer: ServerHandler = () => undefined): Server {
  const received: Server['received'] = [];
  const refusals: string[] = [];
  const gone: Peer[] = [];
  const handler: ServerHandler = (peer, message) => {
    received.push({ peer, text: Buffer.from(message.bytes).toString('latin1', 0, 20) });
    answer(peer, message);
    message.release();
  };
  const transport = listenNative(endpoint, handler, {
    limits: { ...PEER_LIMITS, ...limits },
    onRefused: (reason) => refusals.push(reason),
    onGone: (peer) => gone.push(peer),
  });
  open.push(transport);
  return { transport, received, refusals, gone };
}

function client(endpoint: string, handlers: Partial<ClientHandlers> = {}, limits: Partial<NativePeerLimits> = {}): ClientTransport {
  const ignored = (): void => undefined;
  const all = { up: ignored, down: ignored, unreachable: ignored, message: ignored, ...handlers };
  const transport = connectNative(endpoint, all, {}, undefined, { ...PEER_LIMITS, firstMessageMs: 0, ...limits });
  open.push(transport);
  return transport;
}

/** One that is served all the while: sends a number, and waits until it was received. */
async function wellBehaved({ transport, received }: Server): Promise<() => Promise<void>> {
  let up = (): void => undefined;
  const isUp = new Promise<void>((resolve) => (up = resolve));
  const asker = client(transport.endpoint, { up });
  await isUp;
  let number = 0;
  return async () => {
    const text = `well ${number++}`;
    expect(asker.send(Buffer.from(text))).toBe(true);
    await expect.poll(() => received.some((message) => message.text === text), { timeout: 5000 }).toBe(true);
  };
}

async function dealer(of: Server): Promise<Socket> {
  const socket = await rawDealer(of.transport.endpoint);
  raw.push(socket);
  return socket;
}

/** Until the other side has cut it off. */
const ended = async (socket: Socket): Promise<void> => {
  if (!socket.destroyed) await once(socket, 'close', { signal: AbortSignal.timeout(10_000) });
};

describe.skipIf(process.platform !== 'linux')('sockets of the addon', () => {
  test('a message that never ends is cut off at the budget, of a stranger at once, and others are served', async () => {
    const of = server({ unreadBytes: 16 * MIB });
    const ask = await wellBehaved(of);
    await ask();
    const stranger = await flood(await dealer(of), frameWithMore(Buffer.alloc(60_000)));
    const known = await dealer(of);
    known.write(frame(Buffer.from('hello')));
    await expect.poll(() => of.received.some(({ text }) => text === 'hello')).toBe(true);
    const sent = await flood(known, frameWithMore(Buffer.alloc(60_000)));
    await ask();
    expect(sent).toBeGreaterThan(16 * MIB);
    expect(of.transport.peerCounts().cut).toBe(2);
    expect(of.refusals.at(-1)).toMatch(/^bytes that are no message: /);
    // What comes within a sweep of a tenth of a second, on a loopback, and what the system buffers.
    for (const bytes of [stranger, sent]) expect(bytes).toBeLessThan(400 * MIB);
  });

  test('frames that take far more memory than bytes are cut off before the budget of bytes', async () => {
    const of = server();
    const known = await dealer(of);
    known.write(frame(Buffer.from('hello')));
    await expect.poll(() => of.received.length).toBe(1);
    const sent = await flood(known, Buffer.concat(Array.from({ length: 20_000 }, () => frameWithMore(Buffer.alloc(0)))));
    expect(of.transport.peerCounts().cut).toBe(1);
    expect(of.refusals.join()).toContain('take memory');
    expect(sent).toBeLessThan(100 * MIB);
  });

  test('whole messages of any length and number are received, however many bytes in all', async () => {
    const of = server({ unreadBytes: 32 * MIB, silentBytes: 100_000 });
    const known = await dealer(of);
    known.write(frame(Buffer.from('hello')));
    await expect.poll(() => of.received.length).toBe(1);
    const bytes = [0, 1, 255, 256, 70_000, 4 * MIB];
    const messages = 300;
    for (let n = 0; n < messages; n++) {
      if (!known.write(frame(Buffer.alloc(bytes[n % bytes.length] as number)))) await once(known, 'drain');
      // This process is the reader, too: what it has not read yet must not count against the sender.
      while (n - of.received.length > 12) await new Promise((resolve) => setImmediate(resolve));
    }
    await expect.poll(() => of.received.length, { timeout: 20_000 }).toBe(1 + messages);
    expect(of.refusals).toEqual([]);
  });

  test('all connections together have a budget, and the one that takes most is cut off', async () => {
    const of = server({ unreadProcessBytes: 6 * MIB });
    const small = await dealer(of);
    const large = await dealer(of);
    for (const socket of [small, large]) socket.write(frame(Buffer.from('hello')));
    await expect.poll(() => of.received.length).toBe(2);
    small.write(frameWithMore(Buffer.alloc(2 * MIB)));
    large.write(frameWithMore(Buffer.alloc(5 * MIB)));
    await ended(large);
    await sleep(300);
    expect(small.destroyed).toBe(false);
    expect(of.transport.peerCounts()).toMatchObject({ cut: 1, connections: 1 });
  });

  test('a client that does not read is refused answers beyond its budget, then cut off; the room that is left is told', async () => {
    const of = server({ unsentBytes: 8 * MIB, stalledMs: 500 });
    const ask = await wellBehaved(of);
    const lazy = await dealer(of);
    lazy.write(frame(Buffer.from('hello')));
    await expect.poll(() => of.received.length).toBe(1);
    lazy.pause();
    const { peer } = of.received[0]!;
    const { transport } = of;
    // One of any length.
    expect(transport.room(peer)).toBeGreaterThan(200 * MIB);
    const answer = Buffer.alloc(MIB);
    let delivered = 0;
    while (delivered < 100 && (await transport.send(peer, [answer]))) {
      delivered++;
      // What the system's buffers take is not held.
      await sleep(2);
    }
    expect(delivered).toBeGreaterThanOrEqual(8);
    expect(delivered).toBeLessThan(30);
    expect(transport.room(peer)).toBeLessThan(MIB);
    await ask();
    await expect.poll(() => of.refusals.join(), { timeout: 5000 }).toContain('answers are not read');
    await expect.poll(() => of.gone, { timeout: 5000 }).toEqual([peer]);
    expect(transport.room(peer)).toBe(0);
    expect(await transport.send(peer, [answer])).toBe(false);
  });

  test('a client that reads is sent more than its budget in all', async () => {
    const answers = 200;
    const peers: Peer[] = [];
    const of = server({ unsentBytes: 4 * MIB }, ANY_PORT, (from) => peers.push(from));
    let bytes = 0;
    let up = false;
    const asker = client(of.transport.endpoint, {
      up: () => (up = true),
      message: (message) => {
        bytes += message.bytes.byteLength;
        message.release();
      },
    });
    await expect.poll(() => up).toBe(true);
    asker.send(Buffer.from('hello'));
    await expect.poll(() => peers.length).toBe(1);
    const peer = peers[0] as Peer;
    // Servers greet before they answer: to its client one that has not said a message is a stranger, with the budget of one.
    await of.transport.send(peer, [Buffer.alloc(1)]);
    await expect.poll(() => bytes).toBe(1);
    for (let n = 0; n < answers; n++) {
      while (!(await of.transport.send(peer, [Buffer.alloc(MIB)]))) await sleep(1);
    }
    await expect.poll(() => bytes, { timeout: 10_000 }).toBe(1 + answers * MIB);
    expect(of.refusals).toEqual([]);
  });

  test('of connections that say nothing the oldest are cut off, and a flood of them displaces nobody who does', async () => {
    const of = server({ silentConnections: 10, connections: 20, firstMessageMs: 600_000 });
    const ask = await wellBehaved(of);
    await ask();
    // At once: several are accepted within a millisecond, and the later ones get the descriptors of those that were cut.
    const flood = Array.from({ length: 60 }, (_, n) => rawPeer(of.transport.endpoint, n % 2 === 0 ? greeting() : Buffer.alloc(0)));
    const silent = await Promise.all(flood);
    raw.push(...silent);
    for (const socket of silent) socket.resume();
    await expect.poll(() => silent.filter(({ destroyed }) => destroyed).length, { timeout: 5000 }).toBeGreaterThanOrEqual(50);
    await ask();
    expect(silent.map(({ destroyed }, n) => (destroyed ? -1 : n)).filter((n) => n >= 0)).toEqual([50, 51, 52, 53, 54, 55, 56, 57, 58, 59]);
    expect(of.gone).toEqual([]);
  });

  test('a connection that says nothing is cut off after a while', async () => {
    const of = server({ firstMessageMs: 1500 });
    const ask = await wellBehaved(of);
    await ask();
    const silent = [await rawPeer(of.transport.endpoint), await rawPeer(of.transport.endpoint, greeting()), await dealer(of)];
    raw.push(...silent);
    for (const socket of silent) socket.resume();
    await expect.poll(() => silent.every(({ destroyed }) => destroyed), { timeout: 8000 }).toBe(true);
    await expect.poll(() => of.refusals.join(), { timeout: 5000 }).toContain('no message within 1500 ms');
    await ask();
    expect(of.gone).toEqual([]);
  });

  test('beyond the number of connections the latest is cut off, when all have spoken', async () => {
    const of = server({ connections: 5 });
    const first: Socket[] = [];
    for (let n = 0; n < 5; n++) {
      const socket = await dealer(of);
      socket.write(frame(Buffer.from(`known ${n}`)));
      await expect.poll(() => of.received.length).toBe(n + 1);
      first.push(socket);
    }
    const late = await rawPeer(of.transport.endpoint);
    late.resume();
    raw.push(late);
    await ended(late);
    expect(first.filter(({ destroyed }) => destroyed)).toEqual([]);
    expect(of.transport.peerCounts()).toMatchObject({ connections: 5, cut: 1 });
  });

  test('a peer cannot choose its name, nor take that of another', async () => {
    const of = server();
    const ask = await wellBehaved(of);
    await ask();
    const name = Buffer.from(of.received[0]!.peer, 'latin1');
    for (const wanted of [name, Buffer.from('main'), Buffer.alloc(255, 7)]) {
      const thief = await rawDealer(of.transport.endpoint, wanted);
      raw.push(thief);
      thief.write(frame(Buffer.from('theft')));
      await sleep(50);
    }
    await ask();
    expect(of.received.filter(({ text }) => text === 'theft')).toEqual([]);
    expect(new Set(of.received.map(({ peer }) => peer)).size).toBe(1);
  });

  test('bytes that are no ZMTP 3 are handed to nobody', async () => {
    const of = server();
    const ask = await wellBehaved(of);
    // ZMTP 1 without a greeting, frames with a length and flags; ZMTP 2; another protocol.
    const version1 = Buffer.concat([Buffer.of(1, 0), Buffer.of(6, 0), Buffer.from('hello')]);
    const version2 = Buffer.concat([
      Buffer.from('ff00000000000000017f0105', 'hex'),
      Buffer.of(0, 0),
      Buffer.of(0, 5),
      Buffer.from('hello'),
    ]);
    for (const bytes of [version1, version2, Buffer.from('GET / HTTP/1.1\r\nHost: shard\r\n\r\n')])
      raw.push(await rawPeer(of.transport.endpoint, bytes));
    await sleep(200);
    await ask();
    expect(of.received.filter(({ text }) => !text.startsWith('well'))).toEqual([]);
    expect(of.transport.peerCounts().strangers).toBeGreaterThan(0);
  });

  test('a Unix socket is flooded for a second at most', async () => {
    const of = server({}, `ipc://${join(dir, 'flooded')}`);
    const ask = await wellBehaved(of);
    await ask();
    const known = await dealer(of);
    known.write(frame(Buffer.from('hello')));
    await expect.poll(() => of.received.some(({ text }) => text === 'hello')).toBe(true);
    await flood(known, frameWithMore(Buffer.alloc(60_000)));
    await ask();
    expect(of.transport.peerCounts().cut).toBe(1);
  });

  test('a false server that never ends a message, sends several frames, or does not read, costs a client its budget', async () => {
    const router = new Router({ linger: 0, receiveHighWaterMark: 1 });
    await router.bind(ANY_PORT);
    open.push(router);
    const heard: string[] = [];
    const victim = client(
      router.lastEndpoint as string,
      { up: () => heard.push('up'), down: () => heard.push('down'), message: () => heard.push('message') },
      { unsentBytes: 4 * MIB, unreadBytes: 8 * MIB },
    );
    await expect.poll(() => heard).toEqual(['up']);
    let sent = 0;
    while (sent < 100 && victim.send(Buffer.alloc(MIB))) {
      sent++;
      await sleep(2);
    }
    expect(sent).toBeLessThan(40);
    const [peer] = await router.receive();
    await router.send([peer as Buffer, 'one', 'two']);
    await expect.poll(() => heard).toContain('down');
    expect(heard).not.toContain('message');
  });
});
