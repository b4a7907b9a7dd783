import { expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { RPC_COUNTERS, type RpcCounts } from '../../../src/observe/counters.js';
import { encodeClientMessage } from '../../../src/rpc/codec.js';
import { type LinkAttempt, ShardLink } from '../../../src/rpc/link.js';
import type { ShardMessage } from '../../../src/rpc/messages.js';
import { stampOf } from '../../../src/rpc/version.js';
import { encodeShardMessage, pooledAnswer, SERVED, STAMP } from '../../reference/messages.js';
import { FakeClock, FakeConnection } from './fakes.js';

const empty = new Uint8Array(0);
const batch = { segments: empty, indexBytes: 4 as const, indices: empty, offsets: empty, weights: null };
const welcome: ShardMessage = { kind: 'welcome', shard: 'shard-0', version: SERVED, kernels: 'avx512:1', state: 'ready' };

class TestAttempt implements LinkAttempt {
  sent = false;
  readonly bytes: Uint8Array;
  readonly answerBytes = 7;
  constructor(readonly id: number) {
    this.bytes = encodeClientMessage({ kind: 'pool', id, stamp: STAMP, sentAtMs: 0, remainingMs: 100, batch, timed: false });
  }
  markSent(): void {
    this.sent = true;
  }
}

/** A link, and what it told. */
function linked(greeted = true) {
  const [clock, connection] = [new FakeClock(), new FakeConnection()];
  const told: string[] = [];
  const errors: TerabagError[] = [];
  const counts = Object.fromEntries(Object.keys(RPC_COUNTERS).map((name) => [name, 0])) as Record<keyof RpcCounts, number>;
  let nextId = 1000;
  const link = new ShardLink<TestAttempt>({
    ...{ endpoint: 'tcp://127.0.0.1:1', peer: { name: 'shard-0', version: SERVED, kernels: 'avx2:1' }, clock, counts },
    connect: connection.connect,
    nextId: () => nextId++,
    handlers: {
      ready: () => told.push('ready'),
      down: (lost) => told.push(`down ${lost.map(({ id }) => id).join(' ')}`),
      unreachable: () => told.push('unreachable'),
      answered: ({ id }, { pooled }) => told.push(`answered ${id} ${Buffer.from(pooled)}`),
      failed: ({ id }, error) => {
        told.push(`failed ${id}`);
        errors.push(error);
      },
      unsound: ({ id }, error) => {
        told.push(`unsound ${id}`);
        errors.push(error);
      },
      malformed: () => told.push('malformed'),
    },
  });
  connection.handlers.up();
  if (greeted) connection.receive(welcome);
  const send = (...ids: number[]): TestAttempt[] =>
    ids.map((id) => {
      const attempt = new TestAttempt(id);
      link.send(attempt, clock.now());
      return attempt;
    });
  return { link, connection, clock, told, errors, counts, send };
}

const pooled = (id: number): Extract<ShardMessage, { kind: 'pooled' }> => pooledAnswer({ id, stamp: STAMP }, Buffer.from('vectors'));
const failure = (id: number, code: string): ShardMessage => ({ kind: 'error', id, code, message: `because ${code}`, details: {} });
const pong = (connection: FakeConnection, more: Partial<Extract<ShardMessage, { kind: 'pong' }>> = {}): ShardMessage => ({
  ...{ kind: 'pong', id: connection.sentOf('ping').at(-1)?.id ?? 0, stamp: STAMP, state: 'ready', inFlight: 0, ...more },
});

test('attempts are answered by their ids, each once, and what answers none is counted', () => {
  const { connection, told, counts, send } = linked();
  send(1, 2);
  for (const id of [2, 2, 9, 1]) connection.receive(pooled(id));
  expect(told).toEqual(['ready', 'answered 2 vectors', 'answered 1 vectors']);
  expect(counts).toMatchObject({ sent: 2, unmatched: 2 });
});

test('attempts of a session that is lost are given back in their order, and no answer of it is matched later', () => {
  const { connection, told, send, link } = linked();
  send(3, 1, 2);
  connection.receive(pooled(1));
  connection.handlers.down();
  expect(link.ready).toBe(false);
  connection.handlers.up();
  connection.receive(welcome);
  connection.receive(pooled(3));
  expect(told).toEqual(['ready', 'answered 1 vectors', 'down 3 2', 'ready']);
  expect(link.inFlight).toBe(0);
});

test('a shard that drains answers what it has, and gives back what was not sent', () => {
  const { connection, told, send, link } = linked();
  connection.room = 1;
  send(1, 2);
  connection.receive(pong(connection, { state: 'draining' }));
  expect([link.ready, link.draining]).toEqual([false, true]);
  connection.receive(pooled(1));
  expect(told).toEqual(['ready', 'down 2', 'answered 1 vectors']);
  connection.handlers.down();
  expect(link.draining).toBe(false);
});

test.each(['draining', 'closed'])('a refusal with %s ends the session for new attempts before the attempt is given back', (code) => {
  const { connection, told, errors, send, link } = linked();
  send(1, 2);
  connection.receive(failure(1, code));
  expect(told).toEqual(['ready', 'down ', 'failed 1']);
  expect(errors[0]).toMatchObject({ code, details: { shard: 'shard-0', endpoint: 'tcp://127.0.0.1:1' } });
  expect(link.draining).toBe(true);
  connection.receive(pooled(2));
  expect(told.at(-1)).toBe('answered 2 vectors');
});

test('a shard that drains is greeted until it, or another in its place, is ready', () => {
  const { connection, told, clock } = linked();
  connection.receive(pong(connection, { state: 'draining' }));
  const before = connection.sentOf('hello').length;
  clock.pass(600);
  expect(connection.sentOf('hello').length - before).toBe(2);
  connection.receive({ ...welcome, state: 'draining' } as ShardMessage);
  connection.receive(welcome);
  expect(told).toEqual(['ready', 'down ', 'ready']);
});

test('heartbeats tell the round trip, and how many requests of others are on the shard', () => {
  const { connection, clock, link, send } = linked();
  expect(link.roundTripMs).toBeNull();
  send(1);
  clock.pass(250);
  clock.pass(3);
  connection.receive(pong(connection, { inFlight: 5 }));
  expect(link.roundTripMs).toBe(3);
  expect(link.othersInFlight).toBe(4);
  // Of an earlier one.
  connection.receive(pong(connection, { id: 1, inFlight: 0 }));
  expect(link.roundTripMs).toBe(3);
  expect(link.othersInFlight).toBe(0);
});

test('a shard owes a sign from the first message that it has not answered with anything', () => {
  const { connection, clock, link, send } = linked();
  clock.pass(100);
  expect(link.unheardMs(clock.now())).toBe(0);
  const [first] = send(1, 2);
  clock.pass(40);
  expect(link.unheardMs(clock.now())).toBe(40);
  // Though nobody waits for that one any more.
  link.cancel(first!);
  clock.pass(10);
  expect(link.unheardMs(clock.now())).toBe(50);
  connection.receive(pooled(1));
  clock.pass(5);
  expect(link.unheardMs(clock.now())).toBe(5);
  connection.receive(pooled(2));
  clock.pass(20);
  expect(link.unheardMs(clock.now())).toBe(0);
  // A heartbeat asks for a sign, too.
  clock.pass(250);
  expect(link.unheardMs(clock.now())).toBeGreaterThan(0);
});

test('a silent shard is given up after 7 heartbeats, with what it was asked, and connected to anew', () => {
  const { connection, clock, told, send } = linked();
  send(1);
  clock.pass(250 * 6);
  expect(told).toEqual(['ready']);
  clock.pass(250);
  expect(told).toEqual(['ready', 'down 1']);
  expect([connection.closed, connection.opened]).toEqual([1, 2]);
});

test('so is one that falls silent while it drains', () => {
  const { connection, clock, told, send } = linked();
  send(1);
  connection.receive(pong(connection, { state: 'draining' }));
  clock.pass(250 * 7);
  expect(told).toEqual(['ready', 'down ', 'down 1']);
  expect(connection.opened).toBe(2);
});

test('and so is one that does not answer its greeting, once a connection is there', () => {
  const { connection, clock, told } = linked(false);
  clock.pass(250 * 6);
  expect(connection.opened).toBe(1);
  clock.pass(250);
  expect(told).toEqual(['down ']);
  expect([connection.closed, connection.opened]).toEqual([1, 2]);
  // What is tried anew has time: nothing is silent before it is connected.
  clock.pass(250 * 20);
  expect(connection.opened).toBe(2);
});

test('events of a transport that was replaced are not believed, and its messages are given back', () => {
  const { connection, clock, told, counts, send, link } = linked();
  const replaced = connection.handlers;
  clock.pass(250 * 7);
  connection.handlers.up();
  connection.receive(welcome);
  send(1);
  let released = 0;
  replaced.message({ bytes: encodeShardMessage(pooled(1)), release: () => released++ });
  replaced.unreachable();
  replaced.down();
  const sent = connection.sent.length;
  replaced.up();
  expect(connection.sent).toHaveLength(sent);
  expect(told).toEqual(['ready', 'down ', 'ready']);
  expect([released, link.ready, link.inFlight, counts.lost]).toEqual([1, true, 1, 1]);
});

test('a shard whose last attempt was cancelled is pinged at once, so that one that is well does not owe a sign until the next heartbeat', () => {
  const { link, connection, clock, send } = linked();
  const [one, other] = send(1, 2);
  link.cancel(one!);
  expect(connection.sentOf('ping')).toHaveLength(0);
  link.cancel(other!);
  expect(connection.sentOf('ping')).toHaveLength(1);
  clock.pass(150);
  expect(link.unheardMs(clock.now())).toBe(150);
  connection.receive(pong(connection));
  expect(link.unheardMs(clock.now())).toBe(0);
});

test('a cancelled attempt is cancelled on the shard when it was sent, once, and its answer is counted as unmatched', () => {
  const { connection, counts, send, link, told } = linked();
  connection.room = 1;
  const [sent, waiting] = send(1, 2);
  connection.room = 10;
  for (const attempt of [sent!, sent!, waiting!]) link.cancel(attempt);
  expect(connection.sentOf('cancel').map(({ id }) => id)).toEqual([1]);
  connection.receive(pooled(1));
  expect(counts).toMatchObject({ cancelled: 1, unmatched: 1 });
  expect(told).toEqual(['ready']);
});

test.each<[string, (id: number) => ShardMessage, RegExp]>([
  ['of another length', (id) => pooledAnswer({ id, stamp: STAMP }, Buffer.from('vector')), /6 bytes, expected 7/],
  ['with a flipped bit', (id) => ({ ...pooled(id), pooled: Buffer.from('vectort') }), /checksum/],
  ['that is that of another request', (id) => ({ ...pooled(id + 1), id }), /checksum/],
])('an answer %s fails its attempt alone, and is counted as corrupt', (_, answer, text) => {
  const { connection, told, errors, counts, send, link } = linked();
  send(1, 5);
  connection.receive(answer(1));
  expect(told).toEqual(['ready', 'unsound 1']);
  expect(errors[0]).toMatchObject({ code: 'bad_message', message: expect.stringMatching(text) });
  expect(counts).toMatchObject({ corrupt: 1, skew: 0, malformed: 0 });
  expect([link.ready, link.inFlight]).toEqual([true, 1]);
});

const stranger = stampOf({ ...SERVED, epoch: 4 });

test.each<[string, ShardMessage, string[]]>([
  ['an answer', pooledAnswer({ id: 1, stamp: stranger }, Buffer.from('vectors')), ['down 2', 'unsound 1']],
  ['a refusal', failure(1, 'version_skew'), ['down 2', 'failed 1']],
  ['a heartbeat', { kind: 'pong', id: 5, stamp: stranger, state: 'ready', inFlight: 0 }, ['down 1 2']],
])('%s of another version ends the session, counted as skew, until the shard is greeted anew', (_, message, expected) => {
  const { connection, told, counts, send, link } = linked();
  send(1, 2);
  connection.receive(message);
  expect(told).toEqual(['ready', ...expected]);
  expect(counts.skew).toBe(1);
  expect(link.why.code).toBe('version_skew');
  expect(link.ready).toBe(false);
  connection.receive(welcome);
  expect(link.ready).toBe(true);
});

test('an answer that cannot be read fails its attempt when its id can be; else it is only told', () => {
  const { connection, told, counts, send } = linked();
  send(1, 2);
  connection.receive({ ...pooled(1), serviceUs: -1 } as ShardMessage);
  connection.receiveBytes(encodeShardMessage(pooled(2)).subarray(0, 30));
  connection.receive({ ...pooled(9), serviceUs: -1 } as ShardMessage);
  expect(told).toEqual(['ready', 'unsound 1', 'malformed', 'malformed']);
  expect(counts).toMatchObject({ malformed: 3, unmatched: 1, corrupt: 0 });
});

test('a transport that cannot be opened is tried again with each heartbeat, and its refusal told meanwhile', () => {
  const { connection, clock, link } = linked();
  connection.refusal = new TerabagError('overloaded', 'too few file descriptors', { reason: 'EMFILE' });
  clock.pass(250 * 8);
  expect(link.refusal).toMatchObject({ code: 'overloaded' });
  expect(link.why).toMatchObject({ code: 'shard_unavailable', details: { reason: 'EMFILE', endpoint: 'tcp://127.0.0.1:1' } });
  connection.refusal = null;
  clock.pass(250);
  expect(link.refusal).toBeNull();
});

test('a closed link does nothing any more, whatever comes', async () => {
  const { connection, clock, link, told, send } = linked();
  send(1);
  const stats = link.stats(1000).catch((error: unknown) => error);
  link.close(new TerabagError('closed', 'over'));
  connection.receive(pooled(1));
  connection.handlers.down();
  clock.pass(10_000);
  expect(told).toEqual(['ready']);
  expect(await stats).toMatchObject({ code: 'closed' });
  expect(clock.numTimers).toBe(0);
  expect([connection.closed, connection.opened]).toEqual([1, 1]);
});
