import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Names } from '../../../src/endpoints/names.js';
import { type ResolveOptions, resolveEndpoints } from '../../../src/endpoints/resolve.js';
import type { TerabagError } from '../../../src/errors.js';
import { FakeClock } from '../rpc/fakes.js';

/** All promises that can go on have gone on. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const failure = (code: string): Error => Object.assign(new Error(`query ${code}`), { code });

type Answer = readonly string[] | Error;

/** Names that say what the test gives them; a name without an answer is looked up for ever. */
class FakeNames implements Names {
  readonly hosts = new Map<string, Answer>();
  readonly targets = new Map<string, Answer>();
  readonly asked: string[] = [];

  async addresses(host: string): Promise<readonly string[]> {
    return this.#answer(this.hosts, host);
  }

  async services(name: string): Promise<{ name: string; port: number }[]> {
    const found = await this.#answer(this.targets, name);
    return found.map((target) => ({ name: target.replace(/:\d+$/, ''), port: Number(/\d+$/.exec(target)?.[0]) }));
  }

  #answer(known: ReadonlyMap<string, Answer>, name: string): Promise<readonly string[]> {
    this.asked.push(name);
    const answer = known.get(name);
    if (answer === undefined) return new Promise(() => undefined);
    return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
  }
}

function opened(endpoints: readonly string[], prepare: (names: FakeNames) => void, options: ResolveOptions = {}) {
  const [clock, names] = [new FakeClock(), new FakeNames()];
  prepare(names);
  const problems: TerabagError[] = [];
  const counts = { failures: 0, changes: 0 };
  const source = resolveEndpoints(endpoints, {
    ...{ clock, names, random: () => 0.5, onProblem: (problem) => problems.push(problem), onFailure: () => counts.failures++ },
    ...options,
  });
  source.watch(() => counts.changes++);
  const pass = async (ms: number): Promise<void> => {
    clock.pass(ms);
    await settled();
  };
  return { source, clock, names, problems, counts, pass };
}

test('literals are their own addresses, at once and for ever, without a timer', () => {
  const clock = new FakeClock();
  const source = resolveEndpoints(['tcp://10.0.0.2:1', 'ipc://x', 'tcp://[::1]:1'], { clock });
  expect(source.addresses).toEqual(['tcp://10.0.0.2:1', 'ipc://x', 'tcp://[::1]:1']);
  expect(clock.numTimers).toBe(0);
  source.refresh();
  source.close();
});

test('each address of a name is a replica, looked up anew every 5 s; a change is told, another order is none', async () => {
  const { source, names, counts, pass } = opened(['tcp://s:7'], ({ hosts }) => hosts.set('s', ['10.0.0.2', '::1', '10.0.0.1']));
  expect(source.addresses).toEqual([]);
  await settled();
  const first = ['tcp://10.0.0.1:7', 'tcp://10.0.0.2:7', 'tcp://[::1]:7'];
  expect([source.addresses, counts.changes, names.asked.length]).toEqual([first, 1, 1]);
  names.hosts.set('s', ['10.0.0.1', '10.0.0.1', '::1', '10.0.0.2']);
  await pass(4_999);
  expect(names.asked.length).toBe(1);
  await pass(1);
  expect([source.addresses, counts.changes, names.asked.length]).toEqual([first, 1, 2]);
  names.hosts.set('s', ['10.0.0.9']);
  await pass(5_000);
  expect([source.addresses, counts.changes]).toEqual([['tcp://10.0.0.9:7'], 2]);
  source.close();
});

test('pauses differ by up to a fifth, so that main shards do not ask at once', async () => {
  for (const [random, ms] of [
    [0, 4_000],
    [0.25, 4_500],
    [0.999999, 6_000],
  ] as const) {
    const { names, pass, source } = opened(['tcp://s:7'], ({ hosts }) => hosts.set('s', ['10.0.0.1']), { random: () => random });
    await pass(0);
    await pass(ms - 1);
    expect(names.asked.length).toBe(1);
    await pass(1);
    expect(names.asked.length).toBe(2);
    source.close();
  }
});

test('a failure keeps the last addresses, counts each time, warns once for each reason, and is over with the next success', async () => {
  const { source, names, problems, counts, pass } = opened(['tcp://s:7'], ({ hosts }) => hosts.set('s', ['10.0.0.1']));
  await settled();
  for (const answer of [
    failure('ESERVFAIL'),
    failure('ESERVFAIL'),
    failure('ENOTFOUND'),
    [],
    ['no-address'],
    Array(1025).fill('10.0.0.2'),
  ]) {
    names.hosts.set('s', answer);
    await pass(5_000);
    expect(source.addresses).toEqual(['tcp://10.0.0.1:7']);
  }
  expect(problems.map(({ code, details }) => [code, details['endpoint'], details['reason'], details['kept']])).toEqual(
    ['ESERVFAIL', 'ENOTFOUND', 'internal', 'internal', 'internal'].map((reason) => ['shard_unavailable', 'tcp://s:7', reason, 1]),
  );
  expect(problems[1]?.message).toBe(
    'endpoint cannot be resolved (query ENOTFOUND), the last 1 addresses that were known are used: tcp://s:7',
  );
  expect(source.problem).toBe(problems.at(-1));
  expect(counts).toEqual({ failures: 6, changes: 1 });
  names.hosts.set('s', ['10.0.0.2']);
  await pass(5_000);
  expect([source.addresses, source.problem, counts]).toEqual([['tcp://10.0.0.2:7'], null, { failures: 6, changes: 2 }]);
  source.close();
});

test('a name of which nothing is known yet is looked up every second', async () => {
  const { source, names, problems, pass } = opened(['tcp://s:7'], ({ hosts }) => hosts.set('s', failure('EAI_AGAIN')));
  await settled();
  expect([source.addresses, source.problem?.details]).toEqual([[], { endpoint: 'tcp://s:7', reason: 'EAI_AGAIN', kept: 0 }]);
  for (let second = 0; second < 3; second++) await pass(1_000);
  expect([names.asked.length, problems.length]).toEqual([4, 1]);
  names.hosts.set('s', ['10.0.0.1']);
  await pass(1_000);
  expect(source.addresses).toEqual(['tcp://10.0.0.1:7']);
  source.close();
});

test('a refresh looks at once, but not more often than every half second, and not while it looks', async () => {
  const { source, names, pass } = opened(['tcp://s:7'], ({ hosts }) => hosts.set('s', ['10.0.0.1']));
  await settled();
  await pass(1_000);
  for (let time = 0; time < 100; time++) {
    source.refresh();
    await pass(10);
  }
  expect(names.asked.length).toBe(4);
  names.hosts.delete('s');
  source.refresh();
  await pass(500);
  expect(names.asked.length).toBe(5);
  for (let time = 0; time < 100; time++) {
    source.refresh();
    await pass(1_000);
  }
  expect(names.asked.length).toBe(5);
  source.close();
});

test('a refresh during a lookup is followed by another, which sees what changed meanwhile', async () => {
  let answer: (addresses: string[]) => void = () => undefined;
  const [clock, asked] = [new FakeClock(), [] as string[]];
  const names: Names = {
    addresses: (host) =>
      new Promise((resolve) => {
        asked.push(host);
        answer = resolve;
      }),
    services: async () => [],
  };
  const source = resolveEndpoints(['tcp://s:7'], { clock, names });
  source.refresh();
  answer(['10.0.0.1']);
  await settled();
  clock.pass(500);
  expect(asked.length).toBe(2);
  answer(['10.0.0.2']);
  await settled();
  expect(source.addresses).toEqual(['tcp://10.0.0.2:7']);
  source.close();
});

test('SRV records name hosts with their ports, and a host that cannot be resolved leaves the others', async () => {
  const { source, names, problems, pass } = opened(['srv://_terabag._tcp.x'], ({ hosts, targets }) => {
    targets.set('_terabag._tcp.x', ['a.x:1', 'b.x:2', '10.0.0.9:3']);
    hosts.set('a.x', ['10.0.0.1', '10.0.0.2']);
    hosts.set('b.x', failure('ETIMEOUT'));
  });
  await settled();
  expect(source.addresses).toEqual(['tcp://10.0.0.1:1', 'tcp://10.0.0.2:1', 'tcp://10.0.0.9:3']);
  expect(problems.map(({ details }) => details['endpoint'])).toEqual(['tcp://b.x:2']);
  expect(source.problem).toBe(problems[0]);
  names.hosts.set('b.x', ['10.0.0.3']);
  await pass(1_000);
  expect([source.addresses.includes('tcp://10.0.0.3:2'), source.problem]).toEqual([true, null]);
  for (const strange of ['', '.', 'a:b', 'a b']) {
    names.targets.set('_terabag._tcp.x', [`${strange}:1`]);
    await pass(5_000);
    expect(problems.at(-1)?.message).toContain(`(no host: ${strange})`);
    expect(source.addresses.length).toBe(4);
  }
  source.close();
});

test('addresses that were known stay until those that take their place are', async () => {
  const { source, names, counts, pass } = opened(['srv://s.x'], ({ hosts, targets }) => {
    targets.set('s.x', ['a.x:1']);
    hosts.set('a.x', ['10.0.0.1']);
  });
  await settled();
  // b.x has no answer yet.
  names.targets.set('s.x', ['b.x:1']);
  await pass(5_000);
  expect([source.addresses, counts.changes]).toEqual([['tcp://10.0.0.1:1'], 1]);
  names.targets.set('s.x', ['c.x:1']);
  names.hosts.set('c.x', failure('ENOTFOUND'));
  await pass(5_000);
  expect(source.addresses).toEqual(['tcp://10.0.0.1:1']);
  names.hosts.set('c.x', ['10.0.0.3']);
  await pass(1_000);
  expect([source.addresses, counts.changes]).toEqual([['tcp://10.0.0.3:1'], 2]);
  source.close();
});

test('endpoints of several kinds are one set of addresses, each once; what is none is refused', async () => {
  const { source } = opened(['tcp://10.0.0.1:7', 'tcp://s:7', 'ipc://x'], ({ hosts }) => hosts.set('s', ['10.0.0.1', '10.0.0.2']));
  expect(source.addresses).toEqual(['ipc://x', 'tcp://10.0.0.1:7']);
  await settled();
  expect(source.addresses).toEqual(['ipc://x', 'tcp://10.0.0.1:7', 'tcp://10.0.0.2:7']);
  source.close();
  expect(() => resolveEndpoints(['tcp://x'])).toThrow(
    expect.objectContaining({ code: 'invalid_argument', details: { field: 'endpoints', endpoint: 'tcp://x' } }),
  );
});

test('when it is closed nothing is looked up or told any more, whatever was under way', async () => {
  const { source, clock, names, counts, pass } = opened(['srv://s.x', 'tcp://t:1'], ({ hosts, targets }) => {
    targets.set('s.x', ['a.x:1']);
    hosts.set('a.x', ['10.0.0.1']);
    hosts.set('t', ['10.0.0.2']);
  });
  await settled();
  await pass(5_000);
  names.hosts.set('t', ['10.0.0.3']);
  clock.pass(5_000);
  source.close();
  const before = { asked: names.asked.length, changes: counts.changes };
  await settled();
  await pass(60_000);
  expect({ asked: names.asked.length, changes: counts.changes }).toEqual(before);
  expect(clock.numTimers).toBe(0);
});

test('whatever names answer and fail, and however often it is refreshed: the addresses are those of the latest success, and lookups are half a second apart', async () => {
  const ip = fc.integer({ min: 1, max: 4 }).map((last) => `10.0.0.${last}`);
  const answer = fc.oneof({ weight: 3, arbitrary: fc.array(ip, { maxLength: 4 }) }, fc.constant(null));
  const step = fc.record({ answer, ms: fc.integer({ min: 0, max: 7_000 }), refreshes: fc.integer({ min: 0, max: 3 }) });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 20 }), fc.float({ min: 0, max: Math.fround(0.99) }), async (steps, chance) => {
      const clock = new FakeClock();
      const lookedAt: number[] = [];
      let now: readonly string[] | null = null;
      let expected: string[] = [];
      let changes = 0;
      const names: Names = {
        async addresses() {
          lookedAt.push(clock.now());
          if (now === null) throw failure('ESERVFAIL');
          if (now.length > 0) {
            const next = [...new Set(now)].sort().map((address) => `tcp://${address}:1`);
            if (next.join() !== expected.join()) changes++;
            expected = next;
          }
          return now;
        },
        services: async () => [],
      };
      const source = resolveEndpoints(['tcp://s:1'], { clock, names, random: () => chance });
      let told = 0;
      source.watch(() => told++);
      await settled();
      for (const { answer: given, ms, refreshes } of steps) {
        now = given;
        for (let time = 0; time < refreshes; time++) source.refresh();
        // Step by step, for what follows from a lookup to happen.
        for (let left = ms; left > 0; left -= 250) {
          clock.pass(Math.min(250, left));
          await settled();
        }
        expect(source.addresses).toEqual(expected);
        expect(told).toBe(changes);
      }
      for (const [at, time] of lookedAt.entries()) if (at > 0) expect(time - (lookedAt[at - 1] as number)).toBeGreaterThanOrEqual(500);
      source.close();
      expect(clock.numTimers).toBe(0);
    }),
    { numRuns: 200 },
  );
});
