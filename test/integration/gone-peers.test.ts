import { afterEach, describe, expect, test } from 'vitest';
import { decodeShardMessage, encodeClientMessage } from '../../src/rpc/codec.js';
import type { ClientMessage, ShardMessage } from '../../src/rpc/messages.js';
import { connectNative, listenNative } from '../../src/rpc/transport/native-sockets.js';
import type { ClientTransport, Listen } from '../../src/rpc/transport/transport.js';
import { connectZeromq, listenZeromq } from '../../src/rpc/transport/zeromq.js';
import { Shard } from '../../src/shard/shard.js';
import { SERVED, STAMP } from '../reference/messages.js';

const QUEUED = 300;
const NOTICED_MS = 5000;
const empty = new Uint8Array(0);
const kinds: { name: string; listen: Listen; connect: typeof connectNative }[] = [
  { name: 'sockets of the addon', listen: async (...args) => listenNative(...args), connect: connectNative },
  { name: 'sockets of zeromq.js', listen: listenZeromq, connect: connectZeromq },
];

describe.each(kinds)('$name', ({ name, listen, connect }) => {
  const open: { close(): unknown }[] = [];
  afterEach(async () => {
    for (const each of open.splice(0)) await each.close();
  });

  /** A shard whose poolings end when the test says so. */
  async function slowShard() {
    const pooling: (() => void)[] = [];
    const shard = new Shard({
      ...{ name: 'shard-0', version: SERVED, kernels: 'any', residency: null, maxInFlight: 1024, listen },
      log: { info: () => undefined, warn: () => undefined },
      engine: {
        ...{ tableBytes: 0, residency: 'map', unseen: () => [], outputLength: () => 1, serveOn: () => undefined, close: () => undefined },
        pool: () => new Promise((resolve) => pooling.push(resolve)),
        measureResidency: () => Promise.reject(new Error('not asked for')),
      },
    });
    open.push({ close: () => shard.drain(0) });
    await shard.listen('tcp://127.0.0.1:*');
    return { shard, pooling };
  }

  async function main(endpoint: string) {
    const received: ShardMessage[] = [];
    let up = false;
    const transport: ClientTransport = connect(endpoint, {
      up: () => (up = true),
      down: () => undefined,
      unreachable: () => undefined,
      message: (message) => {
        received.push(decodeShardMessage(Buffer.from(message.bytes)));
        message.release();
      },
    });
    open.push(transport);
    await expect.poll(() => up).toBe(true);
    const send = (message: ClientMessage): void => expect(transport.send(encodeClientMessage(message))).toBe(true);
    const ask = (id: number): void =>
      send({
        ...{ kind: 'pool', id, stamp: STAMP, sentAtMs: performance.now(), remainingMs: 60_000, timed: false },
        batch: { segments: empty, indexBytes: 4, indices: empty, offsets: empty, weights: null },
      });
    return { received, send, ask, close: () => transport.close() };
  }

  test('of a main shard that is gone, nothing that waits is pooled, and others are answered', async () => {
    const { shard, pooling } = await slowShard();
    const [gone, there] = [await main(shard.endpoint), await main(shard.endpoint)];
    for (let id = 1; id <= QUEUED; id++) gone.ask(id);
    await expect.poll(() => shard.stats().inFlight).toBe(QUEUED);
    const begun = pooling.length;
    expect(begun).toBeLessThan(QUEUED / 2);
    gone.close();
    await expect.poll(() => shard.stats().connections, { timeout: NOTICED_MS }).toBe(1);
    // With zeromq.js the shard knows by an answer that finds nobody; another request may have begun by then.
    let answered = 0;
    const told = (): boolean => {
      if (name === 'sockets of zeromq.js' && shard.stats().abandoned === 0) pooling[answered++]?.();
      return shard.stats().abandoned > 0;
    };
    await expect.poll(told, { timeout: NOTICED_MS }).toBe(true);
    expect(shard.stats().abandoned).toBe(QUEUED - answered);
    expect(answered).toBeLessThan(begun);
    expect(pooling.length - begun).toBeLessThanOrEqual(answered);
    const pooled = pooling.length;
    there.ask(7);
    const endAll = (): readonly ShardMessage[] => {
      for (const end of pooling) end();
      return there.received;
    };
    await expect.poll(endAll, { timeout: NOTICED_MS }).toMatchObject([{ kind: 'pooled', id: 7 }]);
    expect(pooling).toHaveLength(pooled + 1);
    there.send({ kind: 'stats', id: 8 });
    await expect
      .poll(() => there.received[1])
      .toMatchObject({
        kind: 'stats',
        stats: { requests: QUEUED + 1, errors: 0, cancelled: 0, abandoned: QUEUED - answered, inFlight: 0, inFlightBytes: 0 },
      });
  });
});
