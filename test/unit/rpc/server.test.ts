import { Packr } from 'msgpackr';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { decodeShardMessage, encodeClientMessage } from '../../../src/rpc/codec.js';
import { type ClientMessage, type ShardMessage, WIRE_VERSION } from '../../../src/rpc/messages.js';
import { PeerClocks } from '../../../src/rpc/peer-clocks.js';
import { ShardServer } from '../../../src/rpc/server.js';
import { stampOf } from '../../../src/rpc/version.js';
import { SERVED, STAMP } from '../../reference/messages.js';
import { FakeClock, FakeServerTransport } from './fakes.js';

/** A server whose poolings end when the test says so. */
function served(options: { maxInFlight?: number; maxPooling?: number; maxInFlightBytes?: number; answerFloats?: number } = {}) {
  const [clock, transport] = [new FakeClock(), new FakeServerTransport()];
  const pooling: { id: number; end: (error?: Error) => void }[] = [];
  const logged: Readonly<Record<string, unknown>>[] = [];
  let number = 0;
  const server = new ShardServer({
    ...{ shard: 'shard-0', version: SERVED, kernels: 'avx2:1', clock, maxInFlight: 100, maxPooling: 2, ...options },
    pooling: {
      outputLength: () => options.answerFloats ?? 1,
      pool: (_, into) =>
        new Promise((resolve, reject) => {
          into[0] = ++number;
          pooling.push({ id: number, end: (error) => (error === undefined ? resolve() : reject(error)) });
        }),
    },
    stats: () => {
      throw new Error('not asked for');
    },
    log: (_, fields) => logged.push(fields),
  });
  server.attach(transport);
  const send = (message: ClientMessage, peer = 'main'): void =>
    server.receive(peer, { bytes: encodeClientMessage(message), release: () => undefined });
  const ask = (id: number, more: Partial<Extract<ClientMessage, { kind: 'pool' }>> = {}, peer = 'main'): void =>
    send({ ...pool(id), sentAtMs: clock.now(), ...more }, peer);
  const answers = (): ShardMessage[] => transport.answers.map(({ bytes }) => decodeShardMessage(bytes));
  return { server, clock, transport, pooling, logged, send, ask, answers };
}

const empty = new Uint8Array(0);
const pool = (id: number): Extract<ClientMessage, { kind: 'pool' }> => ({
  ...{ kind: 'pool', id, stamp: STAMP, sentAtMs: 0, remainingMs: 100, timed: false },
  batch: { segments: empty, indexBytes: 4, indices: empty, offsets: empty, weights: null },
});
const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
};

test('as many requests as threads need are pooled at once, and the others wait their turn', async () => {
  const { ask, pooling, answers, server } = served();
  for (const id of [1, 2, 3]) ask(id);
  expect(pooling).toHaveLength(2);
  expect(server.counts.inFlight).toBe(3);
  pooling[0]!.end();
  await settled();
  expect(pooling).toHaveLength(3);
  for (const { end } of pooling) end();
  await settled();
  expect(answers().map((answer) => (answer as { id: number }).id)).toEqual([1, 2, 3]);
  expect(server.counts).toMatchObject({ requests: 3, errors: 0, inFlight: 0 });
});

test('a cancelled request that waits is never pooled, and one that is being pooled is not answered', async () => {
  const { ask, send, pooling, answers, server } = served();
  for (const id of [1, 2, 3, 4]) ask(id);
  send({ kind: 'cancel', id: 3 });
  send({ kind: 'cancel', id: 1 });
  expect(server.counts).toMatchObject({ cancelled: 2, inFlight: 3 });
  for (let ended = 0; ended < 3; ended++) {
    pooling[ended]!.end();
    await settled();
  }
  expect(pooling).toHaveLength(3);
  expect(answers().map((answer) => (answer as { id: number }).id)).toEqual([2, 4]);
  expect(server.counts.inFlight).toBe(0);
});

test('what a peer that is gone has asked for is never pooled, nothing is kept of it, and others are served', async () => {
  const { ask, send, pooling, answers, server, clock, transport } = served({ maxPooling: 2, maxInFlightBytes: 10_000, answerFloats: 250 });
  // Its clock is 900 ms behind.
  send({ kind: 'ping', id: 1, sentAtMs: clock.now() - 900 }, 'gone');
  for (const id of [1, 2, 3, 3]) ask(id, { sentAtMs: clock.now() - 900 }, 'gone');
  ask(9, {}, 'there');
  expect(server.counts).toMatchObject({ inFlight: 5 });
  const heldOfOne = server.counts.inFlightBytes / 5;
  server.forget('gone');
  expect(server.counts).toMatchObject({ abandoned: 4, cancelled: 0, inFlight: 3, inFlightBytes: 3 * heldOfOne });
  // Of what is being pooled, the other half fails.
  pooling[0]!.end();
  pooling[1]!.end(new TerabagError('index_out_of_range', 'index out of range'));
  await settled();
  expect(pooling).toHaveLength(3);
  pooling[2]!.end();
  await settled();
  expect(answers()).toMatchObject([{ kind: 'pong' }, { kind: 'pooled', id: 9 }]);
  expect(server.counts).toMatchObject({ abandoned: 4, errors: 0, inFlight: 0, inFlightBytes: 0 });
  // What a socket held of it still.
  transport.offsets.clear();
  ask(4, {}, 'gone');
  send({ kind: 'ping', id: 1, sentAtMs: clock.now() - 500 }, 'gone');
  send({ kind: 'cancel', id: 4 }, 'gone');
  expect(transport.offsets.get('gone')).toBeUndefined();
  expect(pooling).toHaveLength(3);
  expect(answers()).toHaveLength(2);
  expect(server.counts).toMatchObject({ requests: 6, abandoned: 5, cancelled: 0, inFlight: 0, inFlightBytes: 0 });
  server.forget('never heard of');
});

test('a drain does not wait for what peers that are gone had asked for', async () => {
  const { ask, server, pooling, clock } = served({ maxPooling: 1 });
  for (const id of [1, 2, 3]) ask(id);
  const draining = server.drain(1000);
  server.forget('main');
  pooling[0]!.end();
  await draining;
  expect(pooling).toHaveLength(1);
  expect(clock.numTimers).toBe(0);
});

test("a peer cannot cancel another peer's request, and an id that is used twice is answered twice", async () => {
  const { ask, send, pooling, answers, server } = served({ maxPooling: 9 });
  ask(1, {}, 'one');
  send({ kind: 'cancel', id: 1 }, 'two');
  ask(7, {}, 'one');
  ask(7, {}, 'one');
  for (const { end } of pooling) end();
  await settled();
  expect(answers()).toHaveLength(3);
  expect(server.counts).toMatchObject({ cancelled: 0, inFlight: 0 });
});

test('the time that a message waited unread in the socket counts against its deadline', () => {
  const { ask, send, clock, pooling, answers, server, transport } = served();
  // The peer's clock is 900 ms behind.
  const theirs = (): number => clock.now() - 900;
  send({ kind: 'ping', id: 1, sentAtMs: theirs() });
  expect(transport.offsets.get('main')).toBe(900);
  const sentAtMs = theirs();
  clock.pass(150);
  ask(2, { sentAtMs, remainingMs: 100 });
  expect(pooling).toHaveLength(0);
  expect(answers().at(-1)).toMatchObject({ kind: 'error', id: 2, code: 'deadline_exceeded' });
  ask(3, { sentAtMs, remainingMs: 200 });
  expect(pooling).toHaveLength(1);
  expect(server.counts).toMatchObject({ expired: 1, errors: 1 });
});

test('a request whose deadline passes while it waits for a thread is not pooled', async () => {
  const { ask, clock, pooling, answers } = served({ maxPooling: 1 });
  ask(1, { remainingMs: 1000 });
  ask(2, { remainingMs: 50 });
  clock.pass(60);
  pooling[0]!.end();
  await settled();
  expect(pooling).toHaveLength(1);
  expect(answers()).toMatchObject(
    [
      { kind: 'error', id: 2, code: 'deadline_exceeded' },
      { kind: 'pooled', id: 1 },
    ].reverse(),
  );
});

test('requests beyond the limit, and those that come while it drains, are refused by name; drain waits for the others', async () => {
  const { ask, server, pooling, answers, clock } = served({ maxInFlight: 1 });
  ask(1);
  ask(2);
  expect(answers()).toMatchObject([{ kind: 'error', id: 2, code: 'overloaded' }]);
  let drained = false;
  const draining = server.drain(1000).then(() => {
    drained = true;
  });
  ask(3);
  expect(answers().at(-1)).toMatchObject({ kind: 'error', id: 3, code: 'draining' });
  await settled();
  expect(drained).toBe(false);
  pooling[0]!.end();
  await draining;
  expect(answers().at(-1)).toMatchObject({ kind: 'pooled', id: 1 });
  expect(clock.numTimers).toBe(0);
});

test('an error of pooling is answered with its code and details', async () => {
  const { ask, pooling, answers } = served();
  ask(1);
  pooling[0]!.end(new TerabagError('index_out_of_range', 'index out of range', { table: 't', position: 3 }));
  await settled();
  expect(answers()).toEqual([
    { kind: 'error', id: 1, code: 'index_out_of_range', message: 'index out of range', details: { table: 't', position: 3 } },
  ]);
});

test('a cancelled request whose pooling fails is neither answered nor counted as an error', async () => {
  const { ask, send, pooling, answers, server } = served();
  ask(1);
  send({ kind: 'cancel', id: 1 });
  pooling[0]!.end(new TerabagError('index_out_of_range', 'index out of range'));
  await settled();
  expect(answers()).toEqual([]);
  expect(server.counts).toMatchObject({ cancelled: 1, errors: 0, inFlight: 0 });
});

test('draining twice ends both calls when the last request has ended', async () => {
  const { ask, server, pooling, clock } = served({ maxPooling: 1 });
  ask(1);
  ask(2);
  const drains = [server.drain(1000), server.drain(1000)];
  pooling[0]!.end();
  await settled();
  pooling[1]!.end();
  await Promise.all(drains);
  expect(clock.numTimers).toBe(0);
});

test('a peer of another version is told both versions, in its version', () => {
  const { server, transport } = served();
  const packr = new Packr({ useRecords: false });
  server.receive('old', { bytes: packr.pack([2, 'pool', 77, 100, 4, empty, empty, empty, null, false]), release: () => undefined });
  const [answer] = transport.answers;
  const [version, kind, id, code, , details] = packr.unpack(answer!.bytes) as unknown[];
  expect([version, kind, id, code, details]).toEqual([2, 'error', 77, 'version_mismatch', { theirs: WIRE_VERSION, ours: 2 }]);
});

test('a thousand malformed messages are logged in two lines', () => {
  const { server, logged, clock } = served();
  for (let message = 0; message < 1000; message++) server.receive('stranger', { bytes: Buffer.of(1, 2, 3), release: () => undefined });
  clock.pass(60_000);
  expect(logged.map(({ count }) => count)).toEqual([1, 999]);
  expect(server.counts.malformed).toBe(1000);
  expect(clock.numTimers).toBe(0);
});

test('clocks that drift apart are followed, and a stall of many seconds does not become the measure of itself', () => {
  const clocks = new PeerClocks();
  let theirs = 0;
  // Ours runs 100 us a second faster, for an hour.
  const ours = (): number => theirs * (1 + 1e-4);
  for (; theirs < 3_600_000; theirs += 250) expect(clocks.waited('main', theirs, ours())).toBeLessThan(3);
  const stalledUntil = ours() + 15_000;
  for (let sent = theirs; sent < theirs + 9_000; sent += 250) {
    const waited = clocks.waited('main', sent, stalledUntil);
    expect(Math.abs(waited - (stalledUntil - sent * (1 + 1e-4)))).toBeLessThan(3);
  }
});

test('strangers push out the clocks of those that were silent for longest, and take bounded memory', () => {
  const told: string[] = [];
  const clocks = new PeerClocks((peer) => told.push(peer));
  for (let peer = 0; peer < 10_000; peer++) clocks.waited(`stranger ${peer}`, 0, 5);
  expect(clocks.waited('stranger 9999', 0, 25)).toBe(20);
  expect(clocks.waited('stranger 0', 0, 25)).toBe(0);
});

test('a request of another version is refused with both named, and one of this version is pooled after it', async () => {
  const { ask, pooling, answers } = served();
  ask(1, { stamp: stampOf({ ...SERVED, epoch: SERVED.epoch + 1 }) });
  expect(pooling).toHaveLength(0);
  expect(answers()).toMatchObject([
    { kind: 'error', id: 1, code: 'version_skew', message: expect.stringMatching(/serves epoch 3, .*asked for epoch 4, /) },
  ]);
  ask(2);
  expect(pooling).toHaveLength(1);
});

test('peers are served in turn: one that asks for much makes another wait for a single request', async () => {
  const { ask, pooling, answers } = served({ maxPooling: 1 });
  for (let id = 1; id <= 5; id++) ask(id, {}, 'greedy');
  ask(6, {}, 'modest');
  ask(7, {}, 'modest');
  for (let ended = 0; ended < 7; ended++) {
    pooling[ended]!.end();
    await settled();
  }
  expect(answers().map((answer) => (answer as { id: number }).id)).toEqual([1, 2, 6, 3, 7, 4, 5]);
});

test('bytes of requests and answers are bounded, for one peer by half of it, before there is memory for an answer', async () => {
  const { ask, pooling, answers, server } = served({ maxInFlightBytes: 10_000, answerFloats: 1000 });
  const asked = (id: number, peer: string): void => ask(id, {}, peer);
  asked(1, 'greedy');
  asked(2, 'greedy');
  expect(answers()).toMatchObject([
    { kind: 'error', id: 2, code: 'overloaded', message: expect.stringMatching(/one peer hold 4\d\d\d bytes, limit 5000/) },
  ]);
  asked(3, 'modest');
  asked(4, 'third');
  expect(answers()[1]).toMatchObject({ kind: 'error', id: 4, code: 'overloaded', message: expect.stringMatching(/limit 10000/) });
  expect(server.counts).toMatchObject({ inFlight: 2, overloaded: 2 });
  expect(server.counts.inFlightBytes).toBeGreaterThan(8000);
  for (const { end } of pooling) end();
  await settled();
  expect(server.counts).toMatchObject({ inFlight: 0, inFlightBytes: 0 });
  asked(5, 'greedy');
  expect(server.counts.inFlight).toBe(1);
});

test('nothing is pooled for a peer that leaves its answers', async () => {
  const { ask, transport, pooling, answers } = served({ answerFloats: 1000 });
  transport.roomLeft = 3999;
  ask(1);
  expect(pooling).toHaveLength(0);
  expect(answers()).toMatchObject([{ kind: 'error', id: 1, code: 'overloaded', message: expect.stringContaining('has not taken') }]);
  transport.roomLeft = 4000;
  ask(2);
  expect(pooling).toHaveLength(1);
});
