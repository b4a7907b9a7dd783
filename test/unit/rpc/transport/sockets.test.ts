import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { Dealer, Router } from 'zeromq';
import type { Lent } from '../../../../src/rpc/transport/buffer-pool.js';
import { connectNative, listenNative } from '../../../../src/rpc/transport/native-sockets.js';
import {
  type ClientHandlers,
  type ClientTransport,
  PEER_LIMITS,
  type Peer,
  type ServerHandler,
  type ServerTransport,
} from '../../../../src/rpc/transport/transport.js';
import { connectZeromq, listenZeromq } from '../../../../src/rpc/transport/zeromq.js';
import { rawPeer } from '../../../reference/zmtp.js';

const ANY_PORT = 'tcp://127.0.0.1:*';
const kinds = [
  {
    name: 'sockets of the addon',
    connect: connectNative,
    listen: async (...args: Parameters<typeof listenNative>) => listenNative(...args),
  },
  { name: 'sockets of zeromq.js', connect: connectZeromq, listen: listenZeromq },
];

async function until(condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 10_000; !condition(); await sleep(2)) if (Date.now() > end) throw new Error('it did not come to pass');
}

/** Blocks the thread, whose event loop then hears of nothing. */
const block = (ms: number): unknown => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

describe.each(kinds)('$name', ({ connect, listen }) => {
  const open: { close(): unknown }[] = [];
  afterEach(async () => {
    for (const socket of open.splice(0)) await socket.close();
  });
  async function server(handler: ServerHandler, endpoint = ANY_PORT): Promise<ServerTransport> {
    const transport = await listen(endpoint, handler);
    open.push(transport);
    return transport;
  }
  function client(endpoint: string, handlers: Partial<ClientHandlers> = {}): ClientTransport {
    const ignored = (): void => undefined;
    const transport = connect(endpoint, { up: ignored, down: ignored, unreachable: ignored, message: ignored, ...handlers });
    open.push(transport);
    return transport;
  }
  async function echo(): Promise<ServerTransport> {
    const transport = await server((peer, message) => {
      void transport.send(peer, [message.bytes]);
      message.release();
    });
    return transport;
  }
  async function connected(endpoint: string, message: (received: Lent) => void): Promise<ClientTransport> {
    let up = false;
    const transport = client(endpoint, { message, up: () => (up = true) });
    await until(() => up);
    return transport;
  }

  test('messages of any length come back as they are, in order, from buffers that are used again', async () => {
    const received: Buffer[] = [];
    const transport = await connected((await echo()).endpoint, (message) => {
      received.push(Buffer.from(message.bytes));
      message.release();
    });
    const length = fc.oneof(
      fc.nat(300),
      fc.integer({ min: 16 * 1024 - 1, max: 16 * 1024 + 1 }),
      fc.integer({ min: 2 ** 18, max: 2 ** 20 }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(length, fc.nat(255)), { minLength: 1, maxLength: 8 }), async (kinds) => {
        const sent = kinds.map(([bytes, value], i) => Buffer.alloc(bytes, value ^ i));
        received.length = 0;
        for (const message of sent) expect(transport.send(message)).toBe(true);
        await until(() => received.length === sent.length);
        sent.forEach((message, i) => expect(message.equals(received[i] as Buffer)).toBe(true));
      }),
      { numRuns: 60 },
    );
  });

  test('more messages than one turn of the event loop takes are all received, while others are sent', async () => {
    const received: number[] = [];
    const transport = await connected((await echo()).endpoint, (message) => {
      received.push(Buffer.from(message.bytes).readUInt32LE(0));
      message.release();
    });
    const numbers = Array.from({ length: 1000 }, (_, i) => i);
    for (const number of numbers) {
      const message = Buffer.alloc(4);
      message.writeUInt32LE(number);
      expect(transport.send(message)).toBe(true);
    }
    await until(() => received.length === numbers.length);
    expect(received).toEqual(numbers);
  });

  test('a message that is not released stays what it is', async () => {
    const kept: Lent[] = [];
    const transport = await connected((await echo()).endpoint, (message) => kept.push(message));
    const lengths = [10, 5000, 40_000];
    for (let i = 0; i < 30; i++) transport.send(Buffer.alloc(lengths[i % 3] as number, i));
    await until(() => kept.length === 30);
    kept.forEach(({ bytes }, i) => expect(Buffer.alloc(lengths[i % 3] as number, i).equals(bytes)).toBe(true));
    for (const message of [...kept, ...kept]) message.release();
  });

  test('what is sent may be changed as soon as send returns, and parts arrive as one message', async () => {
    const received: Buffer[] = [];
    const part = Buffer.alloc(100_000, 1);
    const transport = await server((peer, message) => {
      message.release();
      void transport.send(peer, [part, new Uint8Array(0), part.subarray(0, 3)]);
      part.fill(2);
    });
    const asker = await connected(transport.endpoint, (message) => received.push(Buffer.from(message.bytes)));
    const question = Buffer.from('question');
    asker.send(question);
    question.fill(0);
    await until(() => received.length === 1);
    expect(received[0]?.equals(Buffer.alloc(100_003, 1))).toBe(true);
  });

  test('a client hears of its server coming, going and coming back, and queues nothing for one that is away', async () => {
    const heard: string[] = [];
    const received: string[] = [];
    const handler: ServerHandler = (_, message) => {
      received.push(Buffer.from(message.bytes).toString());
      message.release();
    };
    const first = await listen(ANY_PORT, handler);
    const { endpoint } = first;
    const transport = client(endpoint, { up: () => heard.push('up'), down: () => heard.push('down') });
    await until(() => heard.length === 1);
    await first.close();
    await until(() => heard.includes('down'));
    expect(transport.send(Buffer.from('lost'))).toBe(false);
    await server(handler, endpoint);
    await until(() => heard.at(-1) === 'up');
    expect(transport.send(Buffer.from('kept'))).toBe(true);
    await until(() => received.length > 0);
    expect(received).toEqual(['kept']);
  });

  test('what a peer has not taken when it goes is not sent to the one that comes in its place', async () => {
    const first = new Router({ receiveHighWaterMark: 1, linger: 0 });
    await first.bind(ANY_PORT);
    const endpoint = first.lastEndpoint as string;
    const ups: number[] = [];
    const transport = client(endpoint, { up: () => ups.push(ups.length) });
    await until(() => ups.length === 1);
    // More than the kernel's buffers hold.
    for (let i = 0; i < 300; i++) transport.send(Buffer.alloc(100_000, i));
    await sleep(50);
    first.close();
    const received: string[] = [];
    const listenAgain = (): Promise<ServerTransport> =>
      server((_, message) => {
        received.push(Buffer.from(message.bytes.subarray(0, 10)).toString());
        message.release();
      }, endpoint).catch(() => sleep(20).then(listenAgain));
    await listenAgain();
    await until(() => ups.length === 2);
    expect(transport.send(Buffer.from('kept'))).toBe(true);
    await until(() => received.length > 0);
    expect(received).toEqual(['kept']);
  });

  test('sending to a peer that is gone says so, and leaves others alone', async () => {
    const peers: Peer[] = [];
    const transport = await server((peer, message) => {
      peers.push(peer);
      message.release();
    });
    const received: Buffer[] = [];
    const staying = await connected(transport.endpoint, (message) => received.push(Buffer.from(message.bytes)));
    staying.send(Buffer.from('hello'));
    await until(() => peers.length === 1);
    const leaving = await connected(transport.endpoint, () => undefined);
    leaving.send(Buffer.from('hello'));
    await until(() => peers.length === 2);
    leaving.close();
    let delivered = true;
    for (let i = 0; delivered && i < 500; i++) {
      await sleep(2);
      delivered = await transport.send(peers[1] as Peer, [Buffer.from('too late')]);
    }
    expect(delivered).toBe(false);
    expect(await transport.send('nobody', [Buffer.from('?')])).toBe(false);
    expect(await transport.send(peers[0] as Peer, [Buffer.from('still here')])).toBe(true);
    await until(() => received.length === 1);
    expect(received[0]?.toString()).toBe('still here');
  });

  test('a message of several frames is not read, nor is one of a peer that chose its name, and others are', async () => {
    const received: string[] = [];
    const transport = await server((_, message) => {
      received.push(Buffer.from(message.bytes).toString());
      message.release();
    });
    const raw = (routingId?: string): Dealer => {
      const dealer = new Dealer({ linger: 0, ...(routingId !== undefined && { routingId }) });
      dealer.connect(transport.endpoint);
      open.push(dealer);
      return dealer;
    };
    await raw().send(['one', 'two', 'three']);
    await raw().send(['', 'two']);
    await raw('chosen').send('three');
    await until(() => {
      const { strangers, cut } = transport.peerCounts();
      return strangers + cut >= 3;
    });
    await raw().send('four');
    await until(() => received.length > 0);
    expect(received).toEqual(['four']);
  });

  test.each([
    'tcp://127.0.0.1:*',
    'tcp://*:*',
    'tcp://[::1]:*',
    `ipc://${join(tmpdir(), `sockets-${process.pid}`)}`,
    `ipc://@sockets-${process.pid}`,
  ])('messages come and go over %s', async (endpoint) => {
    const transport = await server((peer, message) => {
      void transport.send(peer, [Buffer.from(message.bytes)]);
      message.release();
    }, endpoint);
    const heard: string[] = [];
    const asker = await connected(transport.endpoint.replace('0.0.0.0', '127.0.0.1').replace('[::]', '127.0.0.1'), (message) => {
      heard.push(Buffer.from(message.bytes).toString());
      message.release();
    });
    asker.send(Buffer.from('there'));
    await until(() => heard.length > 0);
    expect(heard).toEqual(['there']);
    expect(transport.peerCounts()).toMatchObject({ connections: 1, cut: 0 });
  });

  test('connections of ZMTP before 3, and of other protocols, are ended at once, and heard by nobody', async () => {
    const heard: string[] = [];
    const hear: ServerHandler = (_, message) => {
      heard.push(Buffer.from(message.bytes).toString());
      message.release();
    };
    // Nobody is cut off for silence meanwhile.
    const transport = await listen(ANY_PORT, hear, { limits: { ...PEER_LIMITS, firstMessageMs: 600_000 } });
    open.push(transport);
    const version2 = Buffer.concat([Buffer.from('ff00000000000000017f0105', 'hex'), Buffer.of(0, 0, 0, 5), Buffer.from('hello')]);
    for (const bytes of [
      // Frames of ZMTP 1, with a length and flags, whole and without an end.
      Buffer.concat([Buffer.of(1, 0, 6, 0), Buffer.from('hello')]),
      Buffer.of(200, 0, 0),
      version2,
      Buffer.from('GET / HTTP/1.1\r\nHost: shard\r\n\r\n'),
    ]) {
      const stranger = await rawPeer(transport.endpoint, bytes);
      stranger.resume().on('end', () => stranger.end());
      await until(() => stranger.destroyed);
    }
    const known = await connected(transport.endpoint, () => undefined);
    known.send(Buffer.from('known'));
    await until(() => heard.length > 0);
    expect(heard).toEqual(['known']);
  });

  test('an endpoint that cannot be used is told, and so is one that is taken', async () => {
    expect(() => client('nonsense')).toThrow();
    await expect(server(() => undefined, 'tcp://300.0.0.1:80')).rejects.toThrow();
    const { endpoint } = await server(() => undefined);
    await expect(server(() => undefined, endpoint)).rejects.toThrow();
  });

  test('a client that is closed by a handler of its own hears nothing more', async () => {
    const heard: string[] = [];
    const closing = (endpoint: string, what: keyof ClientHandlers): void => {
      const hear = (event: keyof ClientHandlers) => () => {
        heard.push(`${what}: ${event}`);
        if (event === what) transport.close();
      };
      const transport = client(endpoint, { up: hear('up'), down: hear('down'), unreachable: hear('unreachable') });
    };
    // Nobody's: a server that has closed may accept for a moment longer.
    closing('tcp://127.0.0.1:1', 'unreachable');
    const going = await server(() => undefined);
    closing(going.endpoint, 'up');
    closing(going.endpoint, 'down');
    await until(() => heard.length >= 3);
    await going.close();
    await until(() => heard.length >= 4);
    await sleep(300);
    expect(heard.sort()).toEqual(['down: down', 'down: up', 'unreachable: unreachable', 'up: up']);
  });

  test('a closed socket sends nothing, and closing again is nothing', async () => {
    const transport = await connected((await echo()).endpoint, () => undefined);
    transport.close();
    expect(transport.send(Buffer.from('late'))).toBe(false);
  });
});

test('a server that closes still sends what it was given, to a client that reads it after the connection has gone', async () => {
  // More messages than a turn of the event loop takes.
  const answers = [Buffer.alloc(3_000_000, 5), ...Array.from({ length: 200 }, (_, i) => Buffer.alloc(10, i))];
  const transport = listenNative(ANY_PORT, (peer, message) => {
    message.release();
    for (const answer of answers) void transport.send(peer, [answer]);
    void transport.close();
    // The client is of this thread.
    block(300);
  });
  const received: Buffer[] = [];
  let receivedWhenDown: number | null = null;
  const asker = connectNative(transport.endpoint, {
    up: () => asker.send(Buffer.from('?')),
    unreachable: () => undefined,
    down: () => (receivedWhenDown ??= received.length),
    message: (message) => received.push(Buffer.from(message.bytes)),
  });
  await until(() => receivedWhenDown !== null);
  expect(receivedWhenDown).toBe(answers.length);
  answers.forEach((answer, i) => expect(answer.equals(received[i] as Buffer)).toBe(true));
  asker.close();
});

test('a peer that comes while the event loop is blocked gets nothing of what was sent before', async () => {
  const first = new Router({ receiveHighWaterMark: 1, linger: 0 });
  await first.bind(ANY_PORT);
  const endpoint = first.lastEndpoint as string;
  const events: string[] = [];
  const asker = connectNative(endpoint, {
    up: () => events.push('up'),
    down: () => events.push('down'),
    unreachable: () => undefined,
    message: () => undefined,
  });
  await until(() => events.length === 1);
  // More than the kernel's buffers hold.
  for (let i = 0; i < 300; i++) asker.send(Buffer.alloc(100_000, i));
  await sleep(50);
  first.close();
  const received: string[] = [];
  const listenAgain = (): ServerTransport => {
    try {
      return listenNative(endpoint, (_, message) => {
        received.push(Buffer.from(message.bytes.subarray(0, 10)).toString());
        message.release();
      });
    } catch {
      block(20);
      return listenAgain();
    }
  };
  const second = listenAgain();
  block(500);
  asker.send(Buffer.from('not heard of yet'));
  await until(() => events.length === 3);
  expect(events).toEqual(['up', 'down', 'up']);
  expect(asker.send(Buffer.from('kept'))).toBe(true);
  await until(() => received.length > 0);
  expect(received).toEqual(['kept']);
  asker.close();
  await second.close();
});

test('a client comes back to a port at which a stranger spoke', async () => {
  let calls = 0;
  // The greeting of ZMTP 3 with a mechanism that nobody has: libzmq gives up.
  const greeting = Buffer.alloc(64);
  greeting.set([0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3]);
  greeting.write('STRANGE', 12);
  const stranger = createServer((connection) => {
    calls++;
    connection
      .on('error', () => undefined)
      .resume()
      .end(greeting);
  });
  await new Promise<void>((resolve) => stranger.listen(0, '127.0.0.1', resolve));
  const endpoint = `tcp://127.0.0.1:${(stranger.address() as AddressInfo).port}`;
  let ups = 0;
  const asker = connectNative(endpoint, { up: () => ups++, down: () => undefined, unreachable: () => undefined, message: () => undefined });
  await until(() => calls > 0);
  await new Promise((resolve) => stranger.close(resolve));
  const transport = listenNative(endpoint, (_, message) => message.release());
  await until(() => ups === 1);
  asker.close();
  await transport.close();
});

test('a worker that ends with open sockets of the addon, and messages on their way, leaves the process alive', async () => {
  const transport = listenNative(ANY_PORT, (peer, message) => {
    for (let i = 0; i < 20; i++) void transport.send(peer, [message.bytes]);
    message.release();
  });
  const code = `
    const { workerData, parentPort } = require('node:worker_threads');
    require('zeromq');
    const { Socket } = require(workerData.addon);
    const socket = new Socket(workerData.options, () => {
      const bytes = socket.receive();
      if (bytes > 0) globalThis.kept = socket.lend();
      socket.send('', Buffer.alloc(50_000));
    }, () => {
      socket.send('', Buffer.alloc(50_000));
      if (workerData.stays) parentPort.postMessage('connected');
    });
    socket.connect(workerData.endpoint);
    // Sockets of clients alone do not keep it.
    if (workerData.stays) setInterval(() => undefined, 1000);`;
  const options = { router: false, ipv6: false, highWaterMark: 100, maxMessageBytes: 2 ** 20, handshakeMs: 1000 };
  const times = { backlog: 0, tcpMaxRetransmitMs: 1000, connectMs: 1000, keys: null, limits: PEER_LIMITS };
  const workerData = {
    addon: process.env['TERABAG_ADDON'] ?? new URL('../../../../native/build/Release/terabag.node', import.meta.url).pathname,
    endpoint: transport.endpoint,
    options: { ...options, ...times },
  };
  for (let round = 0; round < 5; round++) {
    const worker = new Worker(code, { eval: true, workerData: { ...workerData, stays: true } });
    // A slow machine may take long to start it.
    await once(worker, 'message');
    await sleep(20 * round);
    expect(await worker.terminate()).toBe(1);
    const ending = new Worker(code, { eval: true, workerData: { ...workerData, stays: false } });
    expect(await once(ending, 'exit')).toEqual([0]);
  }
  await transport.close();
});

test('sockets of the addon go on after a handler that throws, and leave nothing behind when they are closed', () => {
  const code = `
    import { setTimeout as sleep } from 'node:timers/promises';
    import { connectTo, listenOn } from ${JSON.stringify(new URL('../../../../dist/rpc/transport/sockets.js', import.meta.url).href)};
    const thrown = [];
    process.on('uncaughtException', (error) => thrown.push(error.message));
    const received = [];
    const server = await listenOn('tcp://127.0.0.1:*', (_, message) => {
      received.push(message.bytes[0]);
      message.release();
      if (received.length === 1) throw new Error('the first');
    });
    const owners = [];
    for (let n = 0; n < 40; n++) {
      await new Promise((resolve) => {
        const handlers = { up: resolve, down: () => undefined, message: () => undefined };
        const socket = connectTo(server.endpoint, handlers);
        owners.push(new WeakRef(handlers), socket);
      });
      owners.at(-1).send(Buffer.of(n));
    }
    for (let tries = 0; received.length < 40 && tries < 1000; tries++) await sleep(5);
    for (let at = 1; at < owners.length; at += 2) owners[at].close();
    const left = owners.filter((owner) => owner instanceof WeakRef);
    owners.length = 0;
    for (let tries = 0; tries < 50 && left.some((owner) => owner.deref() !== undefined); tries++) {
      await sleep(5);
      gc();
    }
    console.log(JSON.stringify({ thrown, received: received.length, left: left.filter((owner) => owner.deref() !== undefined).length }));
    await server.close();`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', '--input-type=module', '-e', code], { encoding: 'utf8' });
  expect(stderr).toBe('');
  // The engine may keep the last of a loop in a register.
  const { thrown, received, left } = JSON.parse(stdout);
  expect({ thrown, received }).toEqual({ thrown: ['the first'], received: 40 });
  expect(left).toBeLessThan(5);
});
