import { chmodSync, copyFileSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect as connectTcp, createServer } from 'node:net';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { Dealer } from 'zeromq';
import { connectNative, listenNative } from '../../../../src/rpc/transport/native-sockets.js';
import {
  fromZ85,
  readClientKeys,
  readKeyFile,
  readPublicKeys,
  readServerKeys,
  type SecurityOptions,
  toZ85,
} from '../../../../src/rpc/transport/security.js';
import { connectWith, listenOn } from '../../../../src/rpc/transport/sockets.js';
import type { ClientTransport, Listening, SocketListenOptions } from '../../../../src/rpc/transport/transport.js';
import { connectZeromq, listenZeromq } from '../../../../src/rpc/transport/zeromq.js';
import { writeKey } from '../../../reference/keys.js';
import { rawDealer, ready } from '../../../reference/zmtp.js';

const dir = mkdtempSync(join(tmpdir(), 'keys-'));
afterAll(() => rmSync(dir, { recursive: true }));
const shard = writeKey(dir, 'shard');
const otherShard = writeKey(dir, 'other-shard');
const main = writeKey(dir, 'main');
const stranger = writeKey(dir, 'stranger');
const file = (name: string, text: string): string => {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
};
/** As programs replace files. */
const replace = (path: string, text: string, mode?: number): void => {
  writeFileSync(`${path}.new`, text, { mode });
  renameSync(`${path}.new`, path);
};

describe('keys', () => {
  test('Z85 is that of its specification, and what is none is told', () => {
    const bytes = Buffer.from('864fd26fb559f75b', 'hex');
    expect(toZ85(bytes)).toBe('HelloWorld');
    expect(Buffer.from(fromZ85('HelloWorld') as Uint8Array)).toEqual(bytes);
    for (const none of ['Hello World', 'Hell', '#####', 'Héllo']) expect(fromZ85(none)).toBe(null);
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (key) => {
        expect(Buffer.from(fromZ85(toZ85(key)) as Uint8Array)).toEqual(Buffer.from(key));
      }),
    );
  });

  test('files of keys are read, with names and comments, also of keys that begin with a number sign', () => {
    expect(readKeyFile(main.key)).toMatchObject({ publicKey: main.publicKey });
    const sharp = `#${main.publicKey.slice(1, 5)}${main.publicKey.slice(5)}`;
    const path = file('several.pub', `# who may connect\n\n${main.publicKey} main\n  ${sharp}\n${main.publicKey}\r\n`);
    if (fromZ85(sharp) !== null) expect(readPublicKeys(path, 'allow')).toEqual([main.publicKey, sharp]);
    expect(readPublicKeys(file('none.pub', '# nobody\n'), 'allow')).toEqual([]);
  });

  test('a key file that others may read, that is damaged, or whose halves do not belong together is refused by name', () => {
    const open = join(dir, 'open.key');
    copyFileSync(main.key, open);
    const wrong = (text: string): string => {
      const path = join(dir, 'wrong.key');
      rmSync(path, { force: true });
      writeFileSync(path, text, { mode: 0o600 });
      return path;
    };
    const [, publicLine = '', secretLine = ''] = /^(.*)\n(.*)\n$/.exec(readFileSync(main.key, 'utf8')) ?? [];
    const halves = `public ${stranger.publicKey}\n${secretLine}\n`;
    for (const [text, says] of [
      [`${publicLine}\n`, 'secret KEY'],
      [secretLine, 'public KEY'],
      [`${publicLine}\n${publicLine}\n${secretLine}`, 'public KEY'],
      [`${publicLine}x\n${secretLine}`, 'public KEY'],
      [halves, 'not that of its secret key'],
    ] as const)
      expect(() => readKeyFile(wrong(text))).toThrowError(
        expect.objectContaining({
          code: 'invalid_argument',
          message: expect.stringContaining(says),
          details: expect.objectContaining({ field: 'security.key' }),
        }),
      );
    for (const mode of [0o644, 0o604, 0o602, 0o610]) {
      chmodSync(open, mode);
      expect(() => readKeyFile(open)).toThrowError(expect.objectContaining({ message: expect.stringContaining('chmod 600') }));
    }
    expect(() => readKeyFile(join(dir, 'absent.key'))).toThrowError(
      expect.objectContaining({ message: expect.stringContaining('ENOENT') }),
    );
    expect(() => readPublicKeys(file('bad.pub', `${main.publicKey}\nnonsense\n`), 'allow')).toThrowError(/line 2/);
  });

  test('half of what an end needs is refused with the other half', () => {
    const refused = (read: () => unknown, field: string): void =>
      expect(read).toThrowError(expect.objectContaining({ code: 'invalid_argument', details: { field: `security.${field}` } }));
    refused(() => readServerKeys({ key: shard.key }), 'allow');
    refused(() => readServerKeys({ allow: main.pub }), 'key');
    refused(() => readClientKeys({ key: main.key }), 'shardKey');
    refused(() => readClientKeys({ shardKey: shard.pub }), 'key');
    expect(readServerKeys({})).toBe(null);
    expect(readClientKeys({ insecure: true })).toBe(null);
  });
});

describe('listening', () => {
  const outside = Object.values(networkInterfaces())
    .flat()
    .find((address) => address?.family === 'IPv4' && !address.internal)?.address;

  test.each(['tcp://*:*', 'tcp://0.0.0.0:*', 'tcp://[::]:*', ...(outside === undefined ? [] : [`tcp://${outside}:*`])])(
    'where others can connect is refused without keys, unless it is wanted: %s',
    async (endpoint) => {
      const ignored = (): void => undefined;
      await expect(listenOn(endpoint, ignored)).rejects.toMatchObject({
        code: 'invalid_argument',
        details: { field: 'endpoint', endpoint },
        message: expect.stringContaining('--insecure'),
      });
      for (const security of [{ insecure: true }, { key: shard.key, allow: main.pub }])
        await (await listenOn(endpoint, ignored, { security })).close();
    },
  );

  test.each(['tcp://127.0.0.1:*', 'tcp://127.8.9.1:*', 'tcp://localhost:*', 'tcp://lo:*', `ipc://${join(dir, 'here')}`])(
    'on this machine alone needs no keys: %s',
    async (endpoint) => (await listenOn(endpoint, () => undefined)).close(),
  );
});

test('keys of main that cannot be read anew are told once, whatever number of shards there is', async () => {
  const shardKey = file('unreadable.pub', `${shard.publicKey}\n`);
  const warnings: string[] = [];
  const connectTo = connectWith({ key: main.key, shardKey }, (message) => warnings.push(message));
  const nothing = (): void => undefined;
  const handlers = { up: nothing, down: nothing, unreachable: nothing, message: nothing };
  const clients = [1, 2].map((port) => connectTo(`tcp://127.0.0.1:${port}`, handlers));
  try {
    replace(shardKey, 'no key\n');
    await expect.poll(() => warnings, { timeout: 5000 }).toEqual([expect.stringMatching(/keys stay as they were: shardKey has to have/)]);
    await sleep(300);
    expect(warnings).toHaveLength(1);
  } finally {
    for (const client of clients) client.close();
  }
});

const NATIVE = 'sockets of the addon';
const kinds = [
  {
    name: NATIVE,
    connect: connectNative,
    listen: async (...args: Parameters<typeof listenNative>) => listenNative(...args),
  },
  { name: 'sockets of zeromq.js', connect: connectZeromq, listen: listenZeromq },
];
// Each kind of server with each kind of client.
const pairs = kinds.flatMap((server) =>
  kinds.map((client) => ({
    name: `${server.name}, asked by ${client.name}`,
    server: server.name,
    listen: server.listen,
    connect: client.connect,
  })),
);

describe.each(pairs)('$name', ({ server, listen, connect }) => {
  const open: { close(): unknown }[] = [];
  afterEach(async () => {
    for (const socket of open.splice(0)) await socket.close();
  });

  async function echo(security: SecurityOptions, options: SocketListenOptions = {}): Promise<Listening> {
    const transport: Listening = await listen(
      'tcp://127.0.0.1:*',
      (peer, message) => {
        void transport.send(peer, [message.bytes]);
        message.release();
      },
      { ...options, security },
    );
    open.push(transport);
    return transport;
  }

  interface Asker {
    readonly transport: ClientTransport;
    readonly heard: string[];
    readonly answers: string[];
  }
  function asker(endpoint: string, security: SecurityOptions): Asker {
    const heard: string[] = [];
    const answers: string[] = [];
    const transport = connect(
      endpoint,
      {
        up: () => heard.push('up'),
        down: () => heard.push('down'),
        unreachable: () => heard.push('unreachable'),
        message: (message) => {
          answers.push(Buffer.from(message.bytes).toString('latin1', 0, 40));
          message.release();
        },
      },
      security,
    );
    open.push(transport);
    return { transport, heard, answers };
  }
  /** As main does, which sends again what a connection has lost. */
  async function answeredWithin(ms: number, { transport, heard, answers }: Asker, text: string): Promise<void> {
    for (const until = Date.now() + ms; answers.at(-1)?.trim() !== text; await sleep(2)) {
      expect(Date.now()).toBeLessThan(until);
      const ups = heard.filter((what) => what === 'up').length;
      if (heard.at(-1) === 'up' && asked.get(transport) !== `${text} ${ups}` && transport.send(Buffer.from(text.padEnd(40))))
        asked.set(transport, `${text} ${ups}`);
    }
  }
  const asked = new WeakMap<ClientTransport, string>();
  async function answered({ transport, heard, answers }: Asker, text = 'question'): Promise<void> {
    await expect.poll(() => heard.at(-1), { timeout: 5000 }).toBe('up');
    expect(transport.send(Buffer.from(text.padEnd(40)))).toBe(true);
    await expect.poll(() => answers.at(-1)?.trim(), { timeout: 5000 }).toBe(text);
  }

  test('who has an allowed key is answered, over a wire on which nothing can be read', async () => {
    const server = await echo({ key: shard.key, allow: main.pub });
    await answered(asker(server.endpoint, { key: main.key, shardKey: shard.pub }));
    expect(server.peerCounts()).toMatchObject({ strangers: 0, connections: 1 });
  });

  test('strangers are refused, counted, and told why; main refuses a shard with another key', async () => {
    const reasons: string[] = [];
    const server = await echo({ key: shard.key, allow: main.pub }, { onRefused: (reason) => reasons.push(reason) });
    const refused: [SecurityOptions, string][] = [
      [{ key: stranger.key, shardKey: shard.pub }, 'EACCES'],
      [{ key: main.key, shardKey: otherShard.pub }, 'EKEYREJECTED'],
    ];
    for (const [security, reason] of refused) {
      const { heard, transport } = asker(server.endpoint, security);
      await expect.poll(() => heard.length, { timeout: 5000 }).toBeGreaterThan(1);
      expect(heard).not.toContain('up');
      expect(await transport.explain()).toBe(reason);
      transport.close();
    }
    const bare = asker(server.endpoint, {});
    (await rawDealer(server.endpoint)).destroy();
    await sleep(300);
    expect(bare.heard).not.toContain('up');
    expect(server.peerCounts().strangers).toBeGreaterThanOrEqual(3);
    expect(reasons.join('\n')).toMatch(/key|handshake|protocol/);
    await answered(asker(server.endpoint, { key: main.key, shardKey: shard.pub }));
  });

  test('a list of who is let in that has nobody is warned of', async () => {
    const reasons: string[] = [];
    await echo({ key: shard.key, allow: file('nobody.pub', '# nobody yet\n') }, { onRefused: (reason) => reasons.push(reason) });
    expect(reasons).toEqual([expect.stringMatching(/^allow has no public key, nobody is let in: .*nobody\.pub$/)]);
  });

  test("each connection of a stranger counts once, also when its descriptor is soon another one's", async ({ skip }) => {
    if (server !== NATIVE) skip('zeromq.js tells of events, of which a connection may have several');
    const listening = await echo({ key: shard.key, allow: main.pub });
    const { hostname: host, port } = new URL(listening.endpoint);
    for (let n = 0; n < 30; n++) {
      const socket = connectTcp({ host, port: Number(port) }).on('error', () => undefined);
      socket.write('GET / HTTP/1.1\r\n\r\n');
      await new Promise((resolve) => socket.once('close', resolve).resume());
    }
    await expect.poll(() => listening.peerCounts().strangers, { timeout: 3000 }).toBeGreaterThanOrEqual(30);
    let attempts = 0;
    for (let n = 0; n < 4; n++) {
      const denied = asker(listening.endpoint, { key: stranger.key, shardKey: shard.pub });
      await expect.poll(() => denied.heard.length, { timeout: 5000 }).toBeGreaterThan(0);
      attempts += denied.heard.length;
      denied.transport.close();
    }
    await sleep(500);
    expect(listening.peerCounts()).toMatchObject({ cut: 0, connections: 0 });
    expect(listening.peerCounts().strangers).toBeGreaterThanOrEqual(30 + attempts);
    // Each may have been trying once more when it was closed.
    expect(listening.peerCounts().strangers).toBeLessThanOrEqual(34 + attempts);
  });

  test('a client with keys sends nothing to a server without', async () => {
    const server = await echo({});
    const { heard, transport } = asker(server.endpoint, { key: main.key, shardKey: shard.pub });
    await expect.poll(() => heard.length, { timeout: 5000 }).toBeGreaterThan(0);
    expect(heard).not.toContain('up');
    expect(transport.send(Buffer.from('secret'))).toBe(false);
  });

  test('keys are changed while requests run, and each is answered', async () => {
    const files = (name: string): { key: string; allow: string; shardKey: string; mainKey: string } => ({
      key: join(dir, `${name}-shard.key`),
      allow: join(dir, `${name}-allow`),
      shardKey: join(dir, `${name}-shards`),
      mainKey: join(dir, `${name}-main.key`),
    });
    const { key, allow, shardKey, mainKey } = files(`rotation-${Math.random()}`);
    replace(key, readFileSync(shard.key, 'utf8'), 0o600);
    replace(mainKey, readFileSync(main.key, 'utf8'), 0o600);
    replace(allow, `${main.publicKey}\n`);
    replace(shardKey, `${shard.publicKey}\n`);
    const server = await echo({ key, allow });
    const first = asker(server.endpoint, { key: mainKey, shardKey });
    await answered(first);
    // The new keys are let in beside the old ones, before anybody has them.
    replace(allow, `${main.publicKey} old\n${stranger.publicKey} new\n`);
    replace(shardKey, `${shard.publicKey} old\n${otherShard.publicKey} new\n`);
    await sleep(700);
    replace(key, readFileSync(otherShard.key, 'utf8'), 0o600);
    replace(mainKey, readFileSync(stranger.key, 'utf8'), 0o600);
    let requests = 0;
    for (const until = Date.now() + 1500; Date.now() < until; requests++) await answeredWithin(1000, first, `during ${requests}`);
    expect(requests).toBeGreaterThan(100);
    // The shard's new key ends its connections, and so may main's new one.
    expect([2, 3]).toContain(first.heard.filter((what) => what === 'up').length);
    // Who comes now meets the new key of the shard, with main's new one; the other order of keys costs an attempt.
    const second = asker(server.endpoint, { key: mainKey, shardKey });
    await answered(second, 'second');
    // Old keys go, and who still has one.
    const late = asker(server.endpoint, { key: main.key, shardKey: otherShard.pub });
    await answered(late, 'late');
    replace(shardKey, `${otherShard.publicKey} new\n`);
    replace(allow, `${stranger.publicKey} new\n`);
    await expect.poll(() => late.heard, { timeout: 10_000 }).toContain('down');
    await answeredWithin(2000, first, 'after');
    await answered(asker(server.endpoint, { key: mainKey, shardKey }), 'third');
    const old = asker(server.endpoint, { key: main.key, shardKey: otherShard.pub });
    await expect.poll(() => old.heard.length, { timeout: 5000 }).toBeGreaterThan(1);
    expect(old.heard).not.toContain('up');
  }, 30_000);

  test('a file that is damaged while it runs changes nothing, and is told', async () => {
    const allow = join(dir, `damaged-${Math.random()}`);
    replace(allow, `${main.publicKey}\n`);
    const reasons: string[] = [];
    const server = await echo({ key: shard.key, allow }, { onRefused: (reason) => reasons.push(reason) });
    replace(allow, 'nonsense\n');
    await expect.poll(() => reasons.join(), { timeout: 5000 }).toContain('keys stay as they were');
    await answered(asker(server.endpoint, { key: main.key, shardKey: shard.pub }));
  });
});

test('what no key of libzmq is, is refused before it is connected to', () => {
  const handlers = { up: () => undefined, down: () => undefined, unreachable: () => undefined, message: () => undefined };
  for (const connect of [connectNative, connectZeromq])
    expect(() => connect('tcp://127.0.0.1:1', handlers, { key: main.key })).toThrowError(
      expect.objectContaining({ details: { field: 'security.shardKey' } }),
    );
  // An application may use zeromq.js beside it.
  new Dealer().close();
});

test.skipIf(process.platform !== 'linux')(
  'connections whose encrypted messages are not sound are closed, and leave no descriptor behind',
  async () => {
    const server = listenNative('tcp://127.0.0.1:*', (_, message) => message.release(), { security: { key: shard.key, allow: main.pub } });
    // Passes on what both sides say until the client is connected, then says what is no message.
    let spoil = (): void => undefined;
    const between = createServer((client) => {
      const upstream = connectTcp(Number(new URL(server.endpoint).port), '127.0.0.1');
      client.pipe(upstream).pipe(client);
      for (const end of [client, upstream]) end.on('error', () => undefined);
      upstream.on('close', () => client.destroy());
      spoil = () => {
        client.unpipe(upstream);
        upstream.end(ready('DEALER'));
      };
    });
    await new Promise<void>((resolve) => between.listen(0, '127.0.0.1', resolve));
    const endpoint = `tcp://127.0.0.1:${(between.address() as AddressInfo).port}`;
    const open = (): number => readdirSync('/proc/self/fd').length;
    const before = open();
    for (let n = 0; n < 20; n++) {
      let up = false;
      const handlers = { up: () => (up = true), down: () => undefined, unreachable: () => undefined, message: () => undefined };
      const client = connectNative(endpoint, handlers, { key: main.key, shardKey: shard.pub });
      await expect.poll(() => up, { timeout: 5000, interval: 2 }).toBe(true);
      spoil();
      await sleep(5);
      client.close();
    }
    await expect.poll(open, { timeout: 5000 }).toBeLessThan(before + 10);
    between.close();
    await server.close();
  },
);
