import { Packr } from 'msgpackr';
import { afterEach, expect, test, vi } from 'vitest';
import type { SparseBatch } from '../../../src/engine/sparse-batch.js';
import { TerabagError } from '../../../src/errors.js';
import { ShardClient } from '../../../src/rpc/client.js';
import { type ShardMessage, WIRE_VERSION } from '../../../src/rpc/messages.js';
import { constantEndpoints } from '../../../src/rpc/replicas/endpoint-source.js';
import { stampOf } from '../../../src/rpc/version.js';
import { pooledAnswer, SERVED, STAMP } from '../../reference/messages.js';
import { FakeClock, FakeConnection } from './fakes.js';

const batch: SparseBatch = {
  segments: new Uint8Array(20),
  indexBytes: 4,
  indices: new Uint8Array(4),
  offsets: new Uint8Array(8),
  weights: null,
};
type Pooled = Extract<ShardMessage, { kind: 'pooled' }>;
const expected = { name: 'shard-0', endpoints: constantEndpoints(['tcp://127.0.0.1:1']), version: SERVED, kernels: 'avx2:1' };
const welcome: ShardMessage = { kind: 'welcome', shard: 'shard-0', version: SERVED, kernels: 'avx512:1', state: 'ready' };

let clients: ShardClient[] = [];
afterEach(() => {
  for (const client of clients) client.close();
  clients = [];
});

function opened(greeted = true): { client: ShardClient; connection: FakeConnection; clock: FakeClock } {
  const [clock, connection] = [new FakeClock(), new FakeConnection()];
  clock.onPoll = () => connection.deliver();
  const client = new ShardClient(expected, connection.connect, { clock });
  clients.push(client);
  connection.handlers.up();
  if (greeted) connection.receive(welcome);
  return { client, connection, clock };
}

/** A request that is asked for now; its outcome, once it has one. */
function ask(
  client: ShardClient,
  deadlineAt: number,
  signal: AbortSignal | null = null,
): { outcome: Promise<unknown>; ended: () => boolean } {
  let over = false;
  const outcome = client.pool(batch, { deadlineAt, answerBytes: 7, signal }).then(
    ({ pooled }) => Buffer.from(pooled).toString(),
    (error: unknown) => error,
  );
  void outcome.then(() => {
    over = true;
  });
  return { outcome, ended: () => over };
}

const pooled = (id: number, text = 'vectors'): ShardMessage => pooledAnswer({ id, stamp: STAMP }, Buffer.from(text));

test('a request is sent when the shard is ready, and answered with its vectors', async () => {
  const { client, connection, clock } = opened(false);
  const { outcome } = ask(client, clock.now() + 100);
  expect(connection.sentOf('pool')).toEqual([]);
  connection.receive(welcome);
  const [sent] = connection.sentOf('pool');
  expect(sent).toMatchObject({ sentAtMs: clock.now(), remainingMs: 100 });
  connection.receive(pooled(sent!.id));
  expect(await outcome).toBe('vectors');
});

test('a request that is aborted ends at once and is cancelled on the shard; so is one whose deadline passes', async () => {
  const { client, connection, clock } = opened();
  const abort = new AbortController();
  const aborted = ask(client, clock.now() + 1000, abort.signal);
  const late = ask(client, clock.now() + 50);
  const [first, second] = connection.sentOf('pool');
  abort.abort();
  expect(await aborted.outcome).toMatchObject({ code: 'aborted', details: { shard: 'shard-0' } });
  clock.pass(60);
  expect(await late.outcome).toMatchObject({ code: 'deadline_exceeded', details: { shard: 'shard-0' } });
  expect(connection.sentOf('cancel').map(({ id }) => id)).toEqual([first!.id, second!.id]);
  expect(client.counts.cancelled).toBe(2);
  connection.receive(pooled(first!.id));
  expect(client.counts.unmatched).toBe(1);
});

test('a request without time left is not sent, and its error names the shard', async () => {
  const { client, connection, clock } = opened();
  expect(await ask(client, clock.now() + 0.5).outcome).toMatchObject({ code: 'deadline_exceeded', details: { shard: 'shard-0' } });
  expect(connection.sentOf('pool')).toEqual([]);
});

test('a signal that is aborted already sends nothing', async () => {
  const { client, connection, clock } = opened();
  expect(await ask(client, clock.now() + 100, AbortSignal.abort()).outcome).toMatchObject({ code: 'aborted' });
  expect(connection.sentOf('pool')).toEqual([]);
});

test('requests that the queue has no room for are sent later, in their order, each once, and the shard stays ready', async () => {
  const { client, connection, clock } = opened();
  connection.room = 2;
  const asked = Array.from({ length: 6 }, () => ask(client, clock.now() + 1000));
  expect(connection.sentOf('pool')).toHaveLength(2);
  expect(client.ready).toBe(true);
  connection.room = 1;
  clock.pass(2);
  expect(connection.sentOf('pool')).toHaveLength(3);
  connection.room = Number.POSITIVE_INFINITY;
  clock.pass(2);
  const ids = connection.sentOf('pool').map(({ id }) => id);
  expect(ids).toEqual([...new Set(ids)].sort((a, b) => a - b));
  expect(ids).toHaveLength(6);
  for (const id of ids) connection.receive(pooled(id));
  expect(await Promise.all(asked.map(({ outcome }) => outcome))).toEqual(Array(6).fill('vectors'));
  expect(client.counts).toMatchObject({ sent: 6, resent: 0, refused: 4, lost: 0 });
});

test('a refused request that is aborted meanwhile is never sent', () => {
  const { client, connection, clock } = opened();
  connection.room = 0;
  const abort = new AbortController();
  void ask(client, clock.now() + 1000, abort.signal);
  abort.abort();
  connection.room = 10;
  clock.pass(10);
  expect(connection.sentOf('pool')).toEqual([]);
  expect(connection.sentOf('cancel')).toEqual([]);
});

test('answers that lie in the socket after a block of the event loop are read before requests are failed', async () => {
  const { client, connection, clock } = opened();
  const { outcome } = ask(client, clock.now() + 50);
  connection.unread.push(pooled(connection.sentOf('pool')[0]!.id));
  clock.block(500);
  expect(await outcome).toBe('vectors');
});

test('an error after a block of the event loop says by how much this process was late', async () => {
  const { client, clock } = opened();
  const { outcome } = ask(client, clock.now() + 50);
  clock.block(500);
  const error = (await outcome) as TerabagError;
  expect(error).toMatchObject({ code: 'deadline_exceeded', details: { shard: 'shard-0', lateMs: 450 } });
  expect(error.message).toMatch(/itself late by 450 ms/);
});

test('a silent shard is given up after heartbeats, and a transport that cannot be opened anew is tried again', async () => {
  const { client, connection, clock } = opened();
  connection.refusal = new TerabagError('overloaded', 'too few file descriptors', { reason: 'EMFILE' });
  expect(() => clock.pass(250 * 8)).not.toThrow();
  expect(client.ready).toBe(false);
  expect(connection.closed).toBe(1);
  const failed = ask(client, clock.now() + 100);
  clock.pass(110);
  expect(await failed.outcome).toMatchObject({ code: 'shard_unavailable', details: { reason: 'EMFILE' } });
  connection.refusal = null;
  clock.pass(250);
  expect(connection.opened).toBe(2);
  connection.handlers.up();
  connection.receive(welcome);
  expect(client.ready).toBe(true);
});

test('what was in flight is sent again to a shard that comes back, with what is left of its deadline', async () => {
  const { client, connection, clock } = opened();
  const { outcome } = ask(client, clock.now() + 1000);
  connection.handlers.down();
  clock.pass(100);
  connection.handlers.up();
  connection.receive(welcome);
  const [first, second] = connection.sentOf('pool');
  expect(second).toMatchObject({ batch: first!.batch, remainingMs: 900, sentAtMs: clock.now() });
  // Not by what comes late of the session that is over.
  connection.receive(pooled(first!.id, 'earlier'));
  connection.receive(pooled(second!.id));
  expect(await outcome).toBe('vectors');
});

test.each<[string, Partial<Extract<ShardMessage, { kind: 'welcome' }>>, string, RegExp]>([
  ['another model', { version: { ...SERVED, modelHash: 'ef'.repeat(32) } }, 'model_mismatch', /another model/],
  [
    'another plan',
    { version: { ...SERVED, planHash: 'ef'.repeat(32) } },
    'version_skew',
    /plan efefefefefef; expected .* plan cdcdcdcdcdcd/,
  ],
  ['another epoch', { version: { ...SERVED, epoch: 4 } }, 'version_skew', /epoch 4, .* expected epoch 3/],
  ['another shard', { shard: 'shard-1' }, 'model_mismatch', /is shard-1/],
  ['kernels that give other bits', { kernels: 'scalar:2' }, 'model_mismatch', /scalar:2, this process avx2:1/],
])('a shard with %s is refused with both named', async (_, other, code, text) => {
  const { client, connection, clock } = opened(false);
  connection.receive({ ...(welcome as Extract<ShardMessage, { kind: 'welcome' }>), ...other });
  const ready = client.whenReady(100).catch((error: unknown) => error);
  clock.pass(100);
  const error = (await ready) as TerabagError;
  expect(error.code).toBe(code);
  expect(error.message).toMatch(text);
});

test.each([
  [
    'says so in the layout of all versions',
    [WIRE_VERSION, 'error', 0, 'version_mismatch', 'a peer speaks another version', { theirs: 9, ours: WIRE_VERSION }],
  ],
  ['answers in its own', [9, 'welcome', 'shard-0', 'abc', 'something new', 'ready']],
])('a shard of another version that %s is named with both versions', async (_, message) => {
  const { client, connection, clock } = opened(false);
  connection.receiveBytes(new Packr({ useRecords: false }).pack(message));
  const ready = client.whenReady(100).catch((error: unknown) => error);
  clock.pass(100);
  expect(await ready).toMatchObject({ code: 'version_mismatch', details: { theirs: 9, ours: WIRE_VERSION, shard: 'shard-0' } });
});

test('why nobody is there is in the error', async () => {
  const { client, connection, clock } = opened(false);
  connection.reason = 'ENOTFOUND';
  connection.handlers.unreachable();
  await Promise.resolve();
  await Promise.resolve();
  const ready = client.whenReady(100).catch((error: unknown) => error);
  clock.pass(100);
  expect(await ready).toMatchObject({ code: 'shard_unavailable', details: { reason: 'ENOTFOUND' } });
});

test('close ends what waits and leaves no timer', async () => {
  const { client, connection, clock } = opened();
  const { outcome } = ask(client, clock.now() + 1000);
  const stats = client.stats(1000).catch((error: unknown) => error);
  client.close();
  expect(await outcome).toMatchObject({ code: 'closed' });
  expect(await stats).toMatchObject({ code: 'closed' });
  expect(clock.numTimers).toBe(0);
  expect(connection.closed).toBe(1);
});

test('close ends who waits for a shard that is not ready, and who waits afterwards', async () => {
  const { client, clock } = opened(false);
  const waiting = client.whenReady(1000).catch((error: unknown) => error);
  client.close();
  expect(await waiting).toMatchObject({ code: 'closed' });
  await expect(client.whenReady(1000)).rejects.toMatchObject({ code: 'closed' });
  expect(clock.numTimers).toBe(0);
});

test('stats of a shard that goes away are not waited for', async () => {
  const { client, connection } = opened();
  const stats = client.stats(1000).catch((error: unknown) => error);
  connection.handlers.down();
  expect(await stats).toMatchObject([{ stats: null, error: { code: 'shard_unavailable', details: { shard: 'shard-0' } } }]);
});

test('a shard that answers stats with an error is told at once, with its reason', async () => {
  const { client, connection } = opened();
  const stats = client.stats(1000).catch((error: unknown) => error);
  const { id } = connection.sent.findLast(({ kind }) => kind === 'stats') as { id: number };
  connection.receive({ kind: 'error', id, code: 'bad_message', message: 'no such message', details: {} });
  expect(await stats).toMatchObject([{ error: { code: 'bad_message', message: 'no such message', details: { shard: 'shard-0' } } }]);
});

test('a request whose deadline is there, or has passed, ends with the reason, and asks for no timer in the past', async () => {
  const { client, clock } = opened();
  const leastMs = vi.fn();
  const after = clock.after.bind(clock);
  clock.after = (ms, call) => {
    leastMs(ms);
    return after(ms, call);
  };
  const asked = [ask(client, clock.now() + 0.5), ask(client, clock.now() - 20)];
  clock.pass(1);
  for (const { outcome } of asked) expect(await outcome).toMatchObject({ code: 'deadline_exceeded' });
  for (const [ms] of leastMs.mock.calls) expect(ms).toBeGreaterThanOrEqual(0);
});

test.each<[string, (id: number) => ShardMessage, string, RegExp]>([
  [
    'of another version',
    (id) => pooledAnswer({ id, stamp: stampOf({ ...SERVED, epoch: 4 }) }, Buffer.from('vectors')),
    'version_skew',
    /epoch 4/,
  ],
  ['of another length', (id) => pooled(id, 'vector'), 'bad_message', /6 bytes, expected 7/],
  ['with a flipped bit', (id) => ({ ...(pooled(id) as Pooled), pooled: Buffer.from('vectort') }), 'bad_message', /checksum/],
  ['of another request', (id) => ({ ...(pooled(id + 1) as Pooled), id }), 'bad_message', /checksum/],
])('an answer %s is not used', async (_, answer, code, text) => {
  const { client, connection, clock } = opened();
  const { outcome } = ask(client, clock.now() + 100);
  connection.receive(answer(connection.sentOf('pool')[0]!.id));
  expect(await outcome).toMatchObject({ code, message: expect.stringMatching(text) });
});

test('heartbeats and stats are read before their memory is given back', async () => {
  const { client, connection, clock } = opened();
  clock.pass(250);
  const [ping] = connection.sentOf('ping');
  connection.receive({ kind: 'pong', id: ping!.id, stamp: STAMP, state: 'ready', inFlight: 0 });
  expect(client.ready).toBe(true);
  expect(client.counts).toMatchObject({ skew: 0, lost: 0 });
});
