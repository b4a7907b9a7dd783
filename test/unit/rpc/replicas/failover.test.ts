import { afterEach, expect, test } from 'vitest';
import type { SparseBatch } from '../../../../src/engine/sparse-batch.js';
import { TerabagError } from '../../../../src/errors.js';
import { type ClientOptions, ShardClient } from '../../../../src/rpc/client.js';
import type { ClientMessage, ShardMessage } from '../../../../src/rpc/messages.js';
import { stampOf } from '../../../../src/rpc/version.js';
import { pooledAnswer, SERVED, STAMP, STATS } from '../../../reference/messages.js';
import { random } from '../../../reference/small-model.js';
import { FakeClock, type FakeConnection, FakeConnections, FakeEndpoints } from '../fakes.js';

const batch: SparseBatch = {
  segments: new Uint8Array(20),
  indexBytes: 4,
  indices: Uint8Array.of(1, 2, 3, 4),
  offsets: new Uint8Array(8),
  weights: null,
};
type Welcome = Extract<ShardMessage, { kind: 'welcome' }>;
type Sent = Extract<ClientMessage, { kind: 'pool' }>;
const welcome: Welcome = { kind: 'welcome', shard: 'shard-0', version: SERVED, kernels: 'avx512:1', state: 'ready' };
const [A, B, C] = ['tcp://127.0.0.1:1', 'tcp://127.0.0.1:2', 'tcp://127.0.0.1:3'];

let clients: ShardClient[] = [];
afterEach(() => {
  for (const client of clients) client.close();
  clients = [];
});

/** A client with replicas, each an end that the test holds. Without hedging, unless a test is about that. */
function replicated(addresses: readonly string[] = [A, B], options: ClientOptions & { greeted?: readonly string[] } = {}) {
  const [clock, connections, endpoints] = [new FakeClock(), new FakeConnections(), new FakeEndpoints(addresses)];
  clock.onPoll = () => connections.deliver();
  const { greeted = addresses, ...more } = options;
  const client = new ShardClient({ name: 'shard-0', endpoints, version: SERVED, kernels: 'avx2:1' }, connections.connect, {
    ...{ clock, random: random(3), hedging: false, ...more },
  });
  clients.push(client);
  const greet = (address: string, more: Partial<Welcome> = {}): void => {
    connections.to(address).handlers.up();
    connections.to(address).receive({ ...welcome, ...more });
  };
  for (const address of greeted) greet(address);
  const to = (address: string): FakeConnection => connections.to(address);
  const sentTo = (address: string): Sent[] => to(address).sentOf('pool');
  const answer = (address: string, { id }: { id: number }, text = 'vectors'): void =>
    to(address).receive(pooledAnswer({ id, stamp: STAMP }, Buffer.from(text)));
  const refuse = (address: string, { id }: { id: number }, code: string): void =>
    to(address).receive({ kind: 'error', id, code, message: `because ${code}`, details: {} });
  const answerHeartbeats = (address: string): void => {
    for (const { id } of to(address).sentOf('ping')) to(address).receive({ kind: 'pong', id, stamp: STAMP, state: 'ready', inFlight: 0 });
  };
  return { client, clock, endpoints, greet, to, sentTo, answer, refuse, answerHeartbeats };
}

type Replicated = ReturnType<typeof replicated>;

function ask({ client, clock }: Replicated, ms = 1000, signal: AbortSignal | null = null): Promise<unknown> {
  return client.pool(batch, { deadlineAt: clock.now() + ms, answerBytes: 7, signal }).then(
    ({ pooled }) => Buffer.from(pooled).toString(),
    (error: unknown) => error,
  );
}

/** The replica that a request went to, the other one, and the request as it was sent. */
function placed({ sentTo }: Replicated): { asked: string; other: string; sent: Sent } {
  const [first] = sentTo(A);
  return first === undefined ? { asked: B, other: A, sent: sentTo(B)[0]! } : { asked: A, other: B, sent: first };
}

/** Makes both replicas known, so that they differ by what the test does. */
async function acquainted(shard: Replicated, ms = 1, rounds = 12): Promise<void> {
  const { clock, sentTo, answer, to } = shard;
  for (let n = 0; n < rounds; n++) {
    const outcomes = [ask(shard), ask(shard)];
    clock.pass(ms);
    for (const address of [A, B]) {
      for (const sent of sentTo(address)) answer(address, sent);
      to(address).sent.length = 0;
    }
    expect(await Promise.all(outcomes)).toEqual(['vectors', 'vectors']);
  }
}

test('a request of a replica that is lost goes to another at once, the same but for its id and what is left of its deadline', async () => {
  const shard = replicated();
  const outcome = ask(shard);
  const { asked, other, sent } = placed(shard);
  shard.clock.pass(30);
  shard.to(asked).handlers.down();
  const [again] = shard.sentTo(other);
  expect(again).toMatchObject({ batch: sent.batch, stamp: sent.stamp, remainingMs: 970, sentAtMs: shard.clock.now() });
  expect(again?.id).not.toBe(sent.id);
  shard.answer(other, again!);
  expect(await outcome).toBe('vectors');
  expect(shard.client.counts).toMatchObject({ sent: 2, retries: 1, resent: 0, lost: 1 });
  expect(shard.endpoints.refreshes).toBeGreaterThan(0);
});

test('beyond the retry budget, requests of a lost replica wait for others to pay, or for a replica to come back, which is not charged', async () => {
  const shard = replicated();
  const { client, sentTo, to, greet, answer } = shard;
  const outcomes = Array.from({ length: 200 }, () => ask(shard));
  const [onA, onB] = [sentTo(A).length, sentTo(B).length];
  expect(onA + onB).toBe(200);
  to(A).handlers.down();
  // A fifth of 200, and 30 free ones.
  expect(client.counts.retries).toBe(70);
  expect(client.counts.overBudget).toBe(onA - 70);
  for (let n = 0; n < 50; n++) outcomes.push(ask(shard));
  expect(client.counts.retries).toBe(80);
  greet(A);
  expect(client.counts).toMatchObject({ retries: 80, resent: onA - 80 });
  for (const address of [A, B]) for (const sent of sentTo(address)) answer(address, sent);
  expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['vectors']));
});

test('beyond the retry budget, requests go to another replica as the budget fills, also when nobody asks for more', async () => {
  const shard = replicated();
  const outcomes = Array.from({ length: 200 }, () => ask(shard, 60_000));
  shard.to(A).handlers.down();
  expect(shard.client.counts.retries).toBe(70);
  for (let n = 0; n < 31; n++) {
    shard.clock.pass(100);
    shard.answerHeartbeats(B);
  }
  // 3 a second are free.
  expect(shard.client.counts.retries).toBe(79);
  shard.greet(A);
  for (const address of [A, B]) for (const sent of shard.sentTo(address)) shard.answer(address, sent);
  expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['vectors']));
});

test('requests that nobody pays for end at their deadline, and say so', async () => {
  const shard = replicated();
  const outcomes = Array.from({ length: 200 }, () => ask(shard, 100));
  shard.to(A).handlers.down();
  shard.clock.pass(110);
  const errors = (await Promise.all(outcomes)) as TerabagError[];
  const codes = new Set(errors.map(({ code, message }) => `${code} ${/retry budget|closed the connection|did not answer/.exec(message)}`));
  expect(codes).toEqual(new Set(['deadline_exceeded did not answer', 'shard_unavailable closed the connection']));
});

test('without a replica, requests wait for the first that is ready, uncharged, and those that were never sent are not counted as sent again', async () => {
  const shard = replicated();
  const outcomes = [ask(shard)];
  const { asked, other } = placed(shard);
  shard.to(other).handlers.down();
  shard.to(asked).handlers.down();
  outcomes.push(ask(shard));
  shard.clock.pass(50);
  shard.greet(other);
  expect(shard.sentTo(other)).toMatchObject([{ remainingMs: 950 }, { remainingMs: 950 }]);
  for (const sent of shard.sentTo(other)) shard.answer(other, sent);
  expect(await Promise.all(outcomes)).toEqual(['vectors', 'vectors']);
  expect(shard.client.counts).toMatchObject({ retries: 0, resent: 1, sent: 3 });
});

test('a replica that drains harms no request: those that it refuses go to another, uncharged, and it is asked nothing more', async () => {
  const shard = replicated();
  const { client, sentTo, refuse, answer } = shard;
  const outcomes = Array.from({ length: 400 }, () => ask(shard));
  const onA = sentTo(A);
  expect(onA.length).toBeGreaterThan(150);
  // It ends what it had begun.
  for (const sent of onA.slice(20)) refuse(A, sent, 'draining');
  for (const sent of onA.slice(0, 20)) answer(A, sent);
  for (let n = 0; n < 20; n++) outcomes.push(ask(shard));
  expect(sentTo(A)).toHaveLength(onA.length);
  shard.to(A).handlers.down();
  for (const sent of sentTo(B)) answer(B, sent);
  expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['vectors']));
  expect(client.counts).toMatchObject({ overBudget: 0, ejections: 0, lost: 1, retries: onA.length - 20 });
});

test('a request that one replica refuses as one too many goes to another; when all do, its error names each', async () => {
  const shard = replicated();
  const { answer, refuse, sentTo } = shard;
  const [first, second] = [ask(shard), ask(shard)];
  const onA = [...sentTo(A)];
  const onB = [...sentTo(B)];
  expect([onA.length, onB.length]).toEqual([1, 1]);
  refuse(A, onA[0]!, 'overloaded');
  answer(B, sentTo(B)[1]!);
  refuse(B, onB[0]!, 'overloaded');
  refuse(A, sentTo(A)[1]!, 'overloaded');
  const [one, other] = await Promise.all([first, second]);
  const error = [one, other].find((outcome) => outcome !== 'vectors') as TerabagError;
  expect([one, other]).toContain('vectors');
  expect(error).toMatchObject({ code: 'overloaded', details: { shard: 'shard-0', endpoint: `${A}, ${B}` } });
  expect(error.message).toMatch(/127.0.0.1:1: because overloaded.*127.0.0.1:2: because overloaded/);
});

test('a replica that refused a request as one too many is asked only when the others do, too, for a while', () => {
  const shard = replicated();
  void ask(shard);
  const { asked, other, sent } = placed(shard);
  shard.refuse(asked, sent, 'overloaded');
  for (let n = 0; n < 30; n++) void ask(shard);
  expect(shard.sentTo(asked)).toHaveLength(1);
  expect(shard.sentTo(other)).toHaveLength(31);
  expect(shard.client.counts.ejections).toBe(0);
});

test('an error that every replica would give ends the request at once', async () => {
  for (const code of ['index_out_of_range', 'bad_offsets', 'bad_message', 'invalid_argument']) {
    const shard = replicated();
    const outcome = ask(shard);
    const { asked, other, sent } = placed(shard);
    shard.refuse(asked, sent, code);
    expect(await outcome).toMatchObject({ code });
    expect(shard.sentTo(other)).toEqual([]);
  }
});

test.each<[string, (id: number) => ShardMessage, object]>([
  ['of another length', (id) => pooledAnswer({ id, stamp: STAMP }, Buffer.from('longer vectors')), { corrupt: 1 }],
  ['with a wrong checksum', (id) => ({ ...pooledAnswer({ id, stamp: STAMP }, Buffer.from('vectorz')), checksum: 5 }), { corrupt: 1 }],
  ['of another version', (id) => pooledAnswer({ id, stamp: stampOf({ ...SERVED, epoch: 9 }) }, Buffer.from('vectorz')), { skew: 1 }],
  ['that cannot be read', (id) => ({ ...pooledAnswer({ id, stamp: STAMP }, Buffer.from('vectorz')), serviceUs: -1 }), { malformed: 1 }],
  ['that is a failure of the shard', (id) => ({ kind: 'error', id, code: 'internal', message: 'broken', details: {} }), {}],
  ['that is a refusal for its version', (id) => ({ kind: 'error', id, code: 'version_skew', message: 'skew', details: {} }), { skew: 1 }],
])('an answer %s is never used: the request goes to another replica', async (_, unsound, counted) => {
  const shard = replicated();
  const outcome = ask(shard);
  const { asked, other, sent } = placed(shard);
  shard.to(asked).receive(unsound(sent.id));
  const [again] = shard.sentTo(other);
  // Neither late nor from the wrong replica.
  shard.answer(asked, sent, 'too late');
  shard.answer(asked, again!, 'foreign');
  shard.answer(other, again!);
  shard.answer(other, again!, 'doubled');
  expect(await outcome).toBe('vectors');
  expect(shard.client.counts).toMatchObject({ retries: 1, unmatched: 3, ...counted });
});

test('a request that one replica answers falsely waits for another that is not ready yet; one that is refused as one too many does not', async () => {
  const shard = replicated([A, B], { greeted: [A] });
  const outcome = ask(shard);
  shard.refuse(A, shard.sentTo(A)[0]!, 'internal');
  shard.clock.pass(100);
  shard.greet(B);
  expect(shard.sentTo(A)).toHaveLength(1);
  shard.answer(B, shard.sentTo(B)[0]!);
  expect(await outcome).toBe('vectors');
  shard.to(B).handlers.down();
  const refused = ask(shard);
  shard.refuse(A, shard.sentTo(A)[1]!, 'overloaded');
  expect(await refused).toMatchObject({ message: expect.stringMatching(/because overloaded.*closed the connection/) });
});

test('when no replica gives a sound answer, the error names what each gave', async () => {
  const shard = replicated([A, B, C], { greeted: [A, B] });
  // One that another version keeps from serving is not waited for.
  shard.greet(C, { version: { ...SERVED, epoch: 4 } });
  const outcome = ask(shard);
  const { asked, other, sent } = placed(shard);
  shard.refuse(asked, sent, 'internal');
  shard.to(other).receive(pooledAnswer({ id: shard.sentTo(other)[0]!.id, stamp: STAMP }, Buffer.from('short')));
  const error = (await outcome) as TerabagError;
  expect(error).toMatchObject({ code: 'shard_unavailable', details: { shard: 'shard-0', endpoint: `${A}, ${B}, ${C}` } });
  for (const text of [
    `${asked}: because internal \\(internal\\)`,
    `${other}: .*expected 7 \\(bad_message\\)`,
    `${C}: .*epoch 4.*\\(version_skew\\)`,
  ])
    expect(error.message).toMatch(new RegExp(text));
});

test('a replica of another model, another plan or other kernels does not keep the others from serving', async () => {
  const others: Partial<Welcome>[] = [
    { version: { ...SERVED, modelHash: 'ef'.repeat(32) } },
    { version: { ...SERVED, epoch: 4 } },
    { kernels: 'scalar:2' },
  ];
  for (const other of others) {
    const shard = replicated([A, B], { greeted: [] });
    shard.greet(A, other);
    expect(shard.client.ready).toBe(false);
    shard.greet(B);
    const outcomes = Array.from({ length: 10 }, () => ask(shard));
    expect(shard.sentTo(A)).toEqual([]);
    for (const sent of shard.sentTo(B)) shard.answer(B, sent);
    expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['vectors']));
  }
});

test('why no replica is ready names each: by one code when they agree', async () => {
  const shard = replicated([A, B], { greeted: [] });
  const ready = shard.client.whenReady(200).catch((error: unknown) => error);
  shard.greet(A, { version: { ...SERVED, epoch: 4 } });
  shard.greet(B, { version: { ...SERVED, epoch: 5 } });
  shard.clock.pass(200);
  const error = (await ready) as TerabagError;
  expect(error.code).toBe('version_skew');
  expect(error.message).toMatch(/127.0.0.1:1: .*epoch 4.*127.0.0.1:2: .*epoch 5/);
  expect(shard.client.unavailability).toEqual(error);
  shard.greet(B);
  expect(shard.client.unavailability).toBeNull();
});

test('a replica that is stopped gets no requests while it owes a sign for longer than others take', async () => {
  const shard = replicated();
  await acquainted(shard);
  // One on each; A answers nothing from now on, not even heartbeats.
  const outcomes = [ask(shard), ask(shard)];
  expect([shard.sentTo(A).length, shard.sentTo(B).length]).toEqual([1, 1]);
  for (let n = 0; n < 50; n++) {
    shard.clock.pass(1);
    for (const sent of shard.sentTo(B)) shard.answer(B, sent);
    shard.to(B).sent.length = 0;
    outcomes.push(ask(shard));
  }
  expect(shard.sentTo(A).length).toBeLessThanOrEqual(2);
  for (const sent of shard.sentTo(B)) shard.answer(B, sent);
  expect((await Promise.all(outcomes.slice(5))).filter((outcome) => outcome === 'vectors').length).toBeGreaterThan(40);
});

test('a replica that is 10 times slower gets as much less, and its share again when it is as fast as the others', async () => {
  const shard = replicated();
  await acquainted(shard);
  const ends: { at: number; end: () => void }[] = [];
  const shareOfA = async (aMs: number, rounds: number): Promise<number> => {
    let [onA, all] = [0, 0];
    for (let ms = 0; ms < rounds; ms++) {
      void ask(shard, 10_000);
      for (const address of [A, B]) {
        for (const sent of shard.sentTo(address)) {
          if (address === A) onA++;
          all++;
          ends.push({ at: shard.clock.now() + (address === A ? aMs : 2), end: () => shard.answer(address, sent) });
        }
        shard.answerHeartbeats(address);
        shard.to(address).sent.length = 0;
      }
      shard.clock.pass(1);
      for (const each of ends.splice(0)) {
        if (each.at <= shard.clock.now()) each.end();
        else ends.push(each);
      }
    }
    return onA / all;
  };
  expect(await shareOfA(2, 400)).toBeGreaterThan(0.35);
  expect(await shareOfA(20, 400)).toBeLessThan(0.2);
  await shareOfA(2, 4000);
  expect(await shareOfA(2, 400)).toBeGreaterThan(0.35);
});

test('a replica that fails 5 times in a row is ejected, and comes back by one request that it answers', async () => {
  const shard = replicated();
  const { client, clock, sentTo, refuse, answer, answerHeartbeats } = shard;
  await acquainted(shard);
  const settle = (): void => {
    clock.pass(1);
    for (const sent of sentTo(A)) refuse(A, sent, 'internal');
    for (const sent of sentTo(B)) answer(B, sent);
    shard.to(A).sent.length = shard.to(B).sent.length = 0;
  };
  const outcomes: Promise<unknown>[] = [];
  let asked = 0;
  while (client.counts.ejections === 0 && asked++ < 200) {
    outcomes.push(ask(shard), ask(shard));
    settle();
  }
  expect(client.counts.ejections).toBe(1);
  expect(client.counts.retries).toBe(5);
  const requests = (count: number): number => {
    for (let n = 0; n < count; n++) outcomes.push(ask(shard));
    const onA = sentTo(A).length;
    settle();
    return onA;
  };
  const pass = (ms: number): void => {
    clock.pass(ms);
    for (const address of [A, B]) answerHeartbeats(address);
  };
  pass(490);
  expect(requests(20)).toBe(0);
  pass(10);
  // The probe, which fails, so that it is away for twice as long.
  expect(requests(20)).toBe(1);
  expect(client.counts.ejections).toBe(2);
  pass(990);
  expect(requests(20)).toBe(0);
  pass(10);
  outcomes.push(ask(shard));
  expect(sentTo(A)).toHaveLength(1);
  answer(A, sentTo(A)[0]!);
  shard.to(A).sent.length = 0;
  for (let n = 0; n < 20; n++) outcomes.push(ask(shard));
  expect(sentTo(A).length).toBeGreaterThan(3);
  for (const address of [A, B]) for (const sent of sentTo(address)) answer(address, sent);
  expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['vectors']));
});

test('when all replicas are ejected, they are asked all the same', () => {
  const shard = replicated();
  for (let n = 0; n < 40 && shard.client.counts.ejections < 2; n++) {
    void ask(shard);
    for (const address of [A, B]) for (const sent of shard.sentTo(address)) shard.refuse(address, sent, 'internal');
    for (const address of [A, B]) shard.to(address).sent.length = 0;
  }
  expect(shard.client.counts.ejections).toBe(2);
  void ask(shard);
  expect(shard.sentTo(A).length + shard.sentTo(B).length).toBe(1);
});

test('a new address is connected to and used; one that is gone is asked nothing more, and closed when it has answered what it has', async () => {
  const shard = replicated([A, B]);
  const outcomes = Array.from({ length: 10 }, () => ask(shard));
  const onA = [...shard.sentTo(A)];
  expect(onA.length).toBeGreaterThan(0);
  shard.endpoints.change([B, C]);
  expect(shard.to(C).opened).toBe(1);
  expect(shard.to(A).closed).toBe(0);
  shard.greet(C);
  for (let n = 0; n < 10; n++) outcomes.push(ask(shard));
  expect(shard.sentTo(A)).toHaveLength(onA.length);
  expect(shard.sentTo(C).length).toBeGreaterThan(0);
  for (const sent of onA) shard.answer(A, sent);
  expect(shard.to(A).closed).toBe(1);
  for (const address of [B, C]) for (const sent of shard.sentTo(address)) shard.answer(address, sent);
  expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['vectors']));
});

test('a shard that moves is found again: its old address serves until the new one is ready', async () => {
  const shard = replicated([A]);
  shard.endpoints.change([B]);
  const before = ask(shard);
  shard.answer(A, shard.sentTo(A)[0]!);
  expect(await before).toBe('vectors');
  expect(shard.to(A).closed).toBe(0);
  shard.greet(B);
  expect(shard.to(A).closed).toBe(1);
  const after = ask(shard);
  shard.answer(B, shard.sentTo(B)[0]!);
  expect(await after).toBe('vectors');
});

test('an address that comes back before it was closed is used on', async () => {
  const shard = replicated([A, B]);
  void ask(shard);
  const { asked } = placed(shard);
  shard.endpoints.change([asked === A ? B : A]);
  shard.endpoints.change([A, B]);
  expect(shard.to(asked)).toMatchObject({ opened: 1, closed: 0 });
  for (let n = 0; n < 10; n++) void ask(shard);
  expect(shard.sentTo(asked).length).toBeGreaterThan(1);
});

test('an address that cannot be connected to later on is no harm to the others; of the first ones it is told at once', () => {
  const shard = replicated([A]);
  shard.to(B).refusal = new TerabagError('bad_plan', 'endpoint cannot be used');
  shard.endpoints.change([A, B]);
  void ask(shard);
  expect(shard.sentTo(A)).toHaveLength(1);
  const connections = new FakeConnections();
  connections.to(B).refusal = new TerabagError('bad_plan', 'endpoint cannot be used');
  const endpoints = new FakeEndpoints([A, B]);
  const clock = new FakeClock();
  const expected = { name: 'shard-0', endpoints, version: SERVED, kernels: 'avx2:1' };
  expect(() => new ShardClient(expected, connections.connect, { clock })).toThrow('endpoint cannot be used');
  expect([connections.to(A).closed, endpoints.closed, clock.numTimers]).toEqual([1, 1, 0]);
});

test('without any address the error says why none is known', async () => {
  const shard = replicated([]);
  shard.endpoints.problem = new TerabagError('shard_unavailable', 'no such host: shards.example', { reason: 'ENOTFOUND' });
  const outcome = ask(shard, 100);
  shard.clock.pass(100);
  expect(await outcome).toMatchObject({
    code: 'shard_unavailable',
    message: expect.stringMatching(/no endpoint .*no such host: shards.example.*shard-0/),
    details: { reason: 'ENOTFOUND', shard: 'shard-0' },
  });
});

/** Replicas that hedge after 10 ms, and a request that has been out for so long. */
async function hedging(): Promise<
  Replicated & { outcome: Promise<unknown>; asked: string; other: string; sent: Sent; abort: AbortController }
> {
  const shard = replicated([A, B], { hedging: true });
  await acquainted(shard, 9.9, 20);
  const abort = new AbortController();
  const outcome = ask(shard, 1000, abort.signal);
  const { asked, other, sent } = placed(shard);
  shard.clock.pass(9);
  expect(shard.sentTo(other)).toHaveLength(0);
  shard.clock.pass(2);
  return { ...shard, outcome, asked, other, sent, abort };
}

test('a request that takes longer than the P95 is hedged, and the loser is cancelled on its shard', async () => {
  const { client, outcome, asked, other, sent, sentTo, to, answer } = await hedging();
  const [hedge] = sentTo(other);
  expect(hedge).toMatchObject({ batch: sent.batch });
  answer(other, hedge!);
  expect(await outcome).toBe('vectors');
  expect(
    to(asked)
      .sentOf('cancel')
      .map(({ id }) => id),
  ).toEqual([sent.id]);
  answer(asked, sent, 'too late');
  expect(client.counts).toMatchObject({ hedges: 1, hedgesWon: 1, cancelled: 1, unmatched: 1, retries: 0 });
});

test('a hedged request that its first replica answers first cancels the other', async () => {
  const { client, outcome, asked, other, sent, sentTo, to, answer } = await hedging();
  answer(asked, sent);
  expect(await outcome).toBe('vectors');
  expect(
    to(other)
      .sentOf('cancel')
      .map(({ id }) => id),
  ).toEqual([sentTo(other)[0]!.id]);
  expect(client.counts).toMatchObject({ hedges: 1, hedgesWon: 0, cancelled: 1 });
});

test('when one of two attempts fails or is lost, the other is awaited; when both are, a third is made', async () => {
  const { client, outcome, asked, other, sent, sentTo, to, refuse, answer } = await hedging();
  refuse(asked, sent, 'internal');
  expect(client.counts.retries).toBe(0);
  to(other).handlers.down();
  // The one that failed is not asked again, and the other is away.
  expect(sentTo(asked)).toHaveLength(1);
  to(other).handlers.up();
  to(other).receive(welcome);
  answer(other, sentTo(other).at(-1)!);
  expect(await outcome).toBe('vectors');
});

test('an abort, and a deadline, end both attempts', async () => {
  const aborted = await hedging();
  aborted.abort.abort();
  expect(await aborted.outcome).toMatchObject({ code: 'aborted' });
  const late = await hedging();
  late.clock.pass(1000);
  expect(await late.outcome).toMatchObject({
    code: 'deadline_exceeded',
    message: expect.stringMatching(new RegExp(`${late.asked} and ${late.other}`)),
  });
  for (const { asked, other, to } of [aborted, late])
    expect([to(asked).sentOf('cancel').length, to(other).sentOf('cancel').length]).toEqual([1, 1]);
});

test('a request is hedged once, and only by a replica that has been heard since', async () => {
  const { client, clock, other, sentTo } = await hedging();
  clock.pass(900);
  expect(sentTo(other)).toHaveLength(1);
  expect(client.counts.hedges).toBe(1);
  const shard = replicated([A, B], { hedging: true });
  await acquainted(shard, 9.9, 20);
  // Neither is heard: what is stopped is this process, or the network.
  const outcomes = [ask(shard, 200), ask(shard, 200)];
  shard.clock.pass(190);
  expect(shard.client.counts.hedges).toBe(0);
  shard.clock.pass(20);
  for (const error of await Promise.all(outcomes)) expect(error).toMatchObject({ code: 'deadline_exceeded' });
});

test('hedged requests stay within the budget', async () => {
  const shard = replicated([A, B], { hedging: true });
  await acquainted(shard, 9.9, 20);
  const { client, clock, sentTo, answer } = shard;
  let asked = 40;
  // B answers at once, A after 12 ms, though it is not slower otherwise.
  for (let n = 0; n < 300; n++) {
    const outcomes = Array.from({ length: 4 }, () => ask(shard));
    asked += 4;
    clock.pass(0.1);
    for (const sent of sentTo(B)) answer(B, sent);
    shard.to(B).sent.length = 0;
    clock.pass(12);
    for (const sent of sentTo(B)) answer(B, sent);
    for (const sent of sentTo(A)) answer(A, sent);
    shard.to(A).sent.length = shard.to(B).sent.length = 0;
    expect(new Set(await Promise.all(outcomes))).toEqual(new Set(['vectors']));
  }
  expect(client.counts.hedges).toBeGreaterThan(0);
  expect(client.counts.hedges).toBeLessThanOrEqual(asked / 5 + 30 + (clock.now() * 3) / 1000);
});

test('a message that answers nothing is reason to hedge at once what its replica was asked', async () => {
  const shard = replicated([A, B], { hedging: true });
  await acquainted(shard);
  const outcome = ask(shard);
  const { asked, other } = placed(shard);
  shard.clock.pass(0.5);
  shard.to(asked).receiveBytes(Buffer.from('not msgpack'));
  shard.answer(other, shard.sentTo(other)[0]!);
  expect(await outcome).toBe('vectors');
  expect(shard.client.counts).toMatchObject({ malformed: 1, hedges: 1 });
});

test('close ends what is on its way and what waits, and leaves no timer', async () => {
  const { client, clock, outcome, endpoints, to } = await hedging();
  client.close();
  expect(await outcome).toMatchObject({ code: 'closed' });
  expect(clock.numTimers).toBe(0);
  expect([to(A).closed, to(B).closed, endpoints.closed]).toEqual([1, 1, 1]);
});

test('every listed replica is asked what it says of itself, draining or not, and each has an entry in the order of the endpoints', async () => {
  const { client, clock, endpoints, greet, to } = replicated([B, A, C], { greeted: [A] });
  greet(B, { state: 'draining' });
  const asked = client.stats(100);
  expect([A, B, C].map((address) => to(address).sentOf('stats').length)).toEqual([1, 1, 0]);
  const [{ id } = { id: 0 }] = to(A).sentOf('stats');
  to(A).receive({ kind: 'stats', id, stamp: STAMP, stats: STATS });
  clock.pass(100);
  expect(await asked).toMatchObject([
    { shard: 'shard-0', endpoint: B, stats: null, error: { code: 'deadline_exceeded' } },
    { shard: 'shard-0', endpoint: A, stats: STATS, error: null },
    { shard: 'shard-0', endpoint: C, stats: null, error: { code: 'shard_unavailable', details: { endpoint: C } } },
  ]);
  endpoints.change([C]);
  expect((await client.stats(100)).map(({ endpoint }) => endpoint)).toEqual([C]);
  endpoints.change([]);
  expect(await client.stats(100)).toMatchObject([{ endpoint: null, stats: null, error: { code: 'shard_unavailable' } }]);
});
