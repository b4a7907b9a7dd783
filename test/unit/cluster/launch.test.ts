import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type LaunchOptions, launchBy, type ShardHosts } from '../../../src/cluster/launch.js';
import type { ChildHandlers, Spawn, Spawned } from '../../../src/cluster/spawn.js';
import type { ShardEvent } from '../../../src/cluster/watch.js';
import type { ErrorCode } from '../../../src/errors.js';
import type { Plan } from '../../../src/plan/file/plan.js';

/** A shard's process that does what the test says. */
class FakeProcess {
  readonly signals: NodeJS.Signals[] = [];
  /** What SIGTERM does; others are obeyed at once. */
  onTerm: () => void = () => this.exit('SIGTERM');

  constructor(
    readonly pid: number,
    readonly spawned: Spawned,
    private readonly handlers: ChildHandlers,
  ) {}

  get endpoint(): string {
    return this.spawned.task.endpoint.replace('*', String(50_000 + this.pid));
  }

  ready(): void {
    this.handlers.onReport({ kind: 'ready', endpoint: this.endpoint });
  }

  refuse(code: ErrorCode, details = {}): void {
    this.handlers.onReport({ kind: 'refused', code, message: `no: ${code}`, details });
    this.exit('code 1');
  }

  exit(reason: string): void {
    this.handlers.onExit(reason);
  }

  kill = (signal: NodeJS.Signals): void => {
    this.signals.push(signal);
    if (signal === 'SIGTERM') this.onTerm();
    else this.exit(signal);
  };
}

let processes: FakeProcess[];
let events: ShardEvent[];
const spawn: Spawn = (spawned, handlers) => {
  const process = new FakeProcess(processes.length + 1, spawned, handlers);
  processes.push(process);
  return process;
};
const told = (): string[] => events.map(({ shard, what, detail }) => `${shard} ${what} ${detail}`);
const latest = (): FakeProcess => processes.at(-1) as FakeProcess;

const plan: Plan = {
  terabagPlan: 1,
  strategy: 'by hand',
  model: { name: 'm', version: '1', hash: 'a'.repeat(64) },
  shards: ['constructor', 's1'].map((name, at) => ({ name, endpoints: [`tcp://127.0.0.1:740${at}`] })),
  tables: [],
};
const only: Plan = { ...plan, shards: plan.shards.slice(0, 1) };
const launch = (options: Partial<LaunchOptions> = {}, of = plan) =>
  launchBy(spawn, of, { bundle: './model', onEvent: (event) => events.push(event), ...options });

/** Launches one shard, which is ready. */
async function launched(options: Partial<LaunchOptions> = {}) {
  const launching = launch(options, only);
  latest().ready();
  return launching;
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  processes = [];
  events = [];
});
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

test('a launch gives each process its whole task, and resolves with the endpoints when all are ready', async () => {
  let isUp = false;
  const launching = launch({ ephemeralPorts: true, verify: 'size', drainMs: 7 }).finally(() => {
    isUp = true;
  });
  expect(processes.map(({ spawned }) => spawned)).toEqual(
    plan.shards.map(({ name }) => ({
      command: [],
      task: {
        ...{ plan, shard: name, replica: 0, bundle: './model', endpoint: 'tcp://127.0.0.1:*' },
        ...{ logLevel: 'warn', verify: 'size', residency: 'populate', drainMs: 7 },
      },
    })),
  );
  processes[1]?.ready();
  await Promise.resolve();
  expect(isUp).toBe(false);
  processes[0]?.ready();
  const cluster = await launching;
  expect(cluster.shards).toEqual([
    { name: 'constructor', replica: 0, pid: 1, endpoint: 'tcp://127.0.0.1:50001' },
    { name: 's1', replica: 0, pid: 2, endpoint: 'tcp://127.0.0.1:50002' },
  ]);
  expect(cluster.plan.shards.map(({ endpoints }) => endpoints)).toEqual([['tcp://127.0.0.1:50001'], ['tcp://127.0.0.1:50002']]);
  await cluster.stop();
  expect(processes.map(({ signals }) => signals)).toEqual([['SIGTERM'], ['SIGTERM']]);
});

test('each endpoint of a shard is a process, that is told, signalled and started again by its number', async () => {
  const replicated: Plan = {
    ...plan,
    shards: [
      { name: 'constructor', endpoints: ['tcp://127.0.0.1:7400'] },
      { name: 's1', endpoints: ['tcp://127.0.0.1:7401', 'ipc:///run/s1'] },
    ],
  };
  const launching = launch({}, replicated);
  expect(processes.map(({ spawned: { task } }) => [task.shard, task.replica, task.endpoint])).toEqual([
    ['constructor', 0, 'tcp://127.0.0.1:7400'],
    ['s1', 0, 'tcp://127.0.0.1:7401'],
    ['s1', 1, 'ipc:///run/s1'],
  ]);
  for (const process of processes) process.ready();
  const cluster = await launching;
  expect(cluster.plan).toEqual(replicated);
  expect(cluster.shards.map(({ name, replica, pid }) => [name, replica, pid])).toEqual([
    ['constructor', 0, 1],
    ['s1', 0, 2],
    ['s1', 1, 3],
  ]);
  cluster.kill('s1', 'SIGKILL', 1);
  expect(processes.map(({ signals }) => signals)).toEqual([[], [], ['SIGKILL']]);
  await vi.advanceTimersByTimeAsync(100);
  expect(latest().spawned.task).toEqual(processes[2]?.spawned.task);
  latest().ready();
  expect(cluster.shards.map(({ pid }) => pid)).toEqual([1, 2, 4]);
  expect(events.filter(({ replica }) => replica === 1).map(({ shard, what }) => [shard, what])).toEqual(
    ['ready', 'exited', 'restarting', 'ready'].map((what) => ['s1', what]),
  );
  for (const replica of [2, -1, 0.5, '0' as never])
    expect(() => cluster.kill('s1', 'SIGKILL', replica)).toThrow(
      expect.objectContaining({ code: 'invalid_argument', message: `no such replica of shard s1, which has 2: ${replica}` }),
    );
  await cluster.stop();
});

test('free ports are those of each replica, and the live plan has them all', async () => {
  const replicated: Plan = { ...plan, shards: [{ name: 's', endpoints: ['tcp://a:1', 'tcp://b:1'] }] };
  const launching = launch({ ephemeralPorts: true }, replicated);
  for (const process of processes) process.ready();
  const cluster = await launching;
  expect(cluster.plan).toEqual({ ...plan, shards: [{ name: 's', endpoints: ['tcp://127.0.0.1:50001', 'tcp://127.0.0.1:50002'] }] });
  await cluster.stop();
});

test('a plan with an endpoint twice is refused before anything is started', async () => {
  const twice: Plan = { ...plan, shards: [{ name: 's', endpoints: ['tcp://a:1', 'tcp://a:1'] }] };
  await expect(launch({}, twice)).rejects.toMatchObject({ code: 'bad_plan' });
  expect(processes).toEqual([]);
});

test('a crashed process is started again with its whole task on the port that it had, after growing pauses', async () => {
  const cluster = await launched({ ephemeralPorts: true });
  for (const pauseMs of [100, 200, 400]) {
    const before = processes.length;
    latest().exit('SIGSEGV');
    await vi.advanceTimersByTimeAsync(pauseMs - 1);
    expect(processes.length).toBe(before);
    await vi.advanceTimersByTimeAsync(1);
    expect(processes.length).toBe(before + 1);
    expect(latest().spawned.task).toEqual({ ...processes[0]?.spawned.task, endpoint: 'tcp://127.0.0.1:50001' });
  }
  latest().ready();
  expect(cluster.shards[0]?.pid).toBe(4);
  await vi.advanceTimersByTimeAsync(10_001);
  latest().exit('code 7');
  expect(told()).toEqual([
    'constructor ready tcp://127.0.0.1:50001',
    ...['100', '200', '400'].flatMap((ms) => ['constructor exited SIGSEGV', `constructor restarting in ${ms} ms`]),
    'constructor ready tcp://127.0.0.1:50001',
    'constructor exited code 7',
    'constructor restarting in 100 ms',
  ]);
  await cluster.stop();
});

test('a launch rejects with the error of the shard that refuses, and starts nothing again', async () => {
  const launching = launch();
  processes[0]?.ready();
  processes[1]?.refuse('checksum_mismatch', { file: 'tables/t.safetensors', chunk: 3 });
  await expect(launching).rejects.toMatchObject({
    name: 'TerabagError',
    code: 'checksum_mismatch',
    message: 'no: checksum_mismatch',
    details: { shard: 's1', replica: 0, file: 'tables/t.safetensors', chunk: 3 },
  });
  await vi.advanceTimersByTimeAsync(60_000);
  expect(processes.map(({ signals }) => signals)).toEqual([['SIGTERM'], []]);
});

test.each(['checksum_mismatch', 'model_mismatch', 'bad_model', 'bad_table', 'bad_plan', 'does_not_fit'] as const)(
  'a restart that is refused with %s is the last, and is told with its error',
  async (code) => {
    const cluster = await launched();
    latest().exit('SIGKILL');
    await vi.advanceTimersByTimeAsync(100);
    latest().refuse(code);
    await vi.advanceTimersByTimeAsync(600_000);
    expect(processes.length).toBe(2);
    expect(told().slice(-2)).toEqual(['constructor exited code 1', `constructor refused no: ${code} (${code})`]);
    expect(events.at(-1)?.error).toMatchObject({ code, details: { shard: 'constructor', replica: 0 } });
    await cluster.stop();
    expect(latest().signals).toEqual([]);
  },
);

test.each([
  ['internal', {}],
  ['invalid_argument', { endpoint: 'tcp://127.0.0.1:7400' }],
] as const)('a restart that fails for what may pass (%s %o) is followed by others', async (code, details) => {
  const cluster = await launched();
  latest().exit('SIGKILL');
  await vi.advanceTimersByTimeAsync(100);
  latest().refuse(code, details);
  await vi.advanceTimersByTimeAsync(200);
  expect(processes.length).toBe(3);
  await cluster.stop();
});

test('a process that cannot be started is a crash: a launch rejects with the reason, and restarts go on', async () => {
  const launching = launch({}, only);
  latest().exit('spawn nsenter ENOENT');
  await expect(launching).rejects.toMatchObject({
    code: 'shard_unavailable',
    message: expect.stringMatching(/constructor, spawn nsenter ENOENT$/),
  });
  const cluster = await launched();
  latest().exit('SIGKILL');
  await vi.advanceTimersByTimeAsync(100);
  latest().exit('spawn EAGAIN');
  await vi.advanceTimersByTimeAsync(200);
  expect(processes.length).toBe(4);
  await cluster.stop();
});

test('with restart: false a crash is told, and that is all', async () => {
  const cluster = await launched({ restart: false });
  latest().exit('SIGKILL');
  await vi.advanceTimersByTimeAsync(60_000);
  expect(told().slice(1)).toEqual(['constructor exited SIGKILL']);
  await cluster.stop();
});

test('a shard that is not ready in readyMs is killed, and the launch rejects', async () => {
  const launching = launch({ readyMs: 50 }, only);
  const rejected = expect(launching).rejects.toMatchObject({
    code: 'shard_unavailable',
    message: 'shard was not ready in 50 ms: constructor',
    details: { shard: 'constructor' },
  });
  await vi.advanceTimersByTimeAsync(49);
  expect(latest().signals).toEqual([]);
  await vi.advanceTimersByTimeAsync(1);
  await rejected;
  expect(latest().signals).toEqual(['SIGKILL']);
});

test('stop waits for drainMs and 2 s more, then kills', async () => {
  const cluster = await launched({ drainMs: 500 });
  latest().onTerm = () => undefined;
  let isOver = false;
  const stopping = cluster.stop().finally(() => {
    isOver = true;
  });
  await vi.advanceTimersByTimeAsync(2_499);
  expect([latest().signals, isOver]).toEqual([['SIGTERM'], false]);
  await vi.advanceTimersByTimeAsync(1);
  await stopping;
  expect(latest().signals).toEqual(['SIGTERM', 'SIGKILL']);
});

test('stop during the pause before a restart starts nothing more', async () => {
  const cluster = await launched();
  latest().exit('SIGKILL');
  await cluster.stop();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(processes.length).toBe(1);
});

test('an aborted launch stops what was started', async () => {
  const controller = new AbortController();
  const launching = launch({ signal: controller.signal });
  processes[0]?.ready();
  controller.abort('changed my mind');
  await expect(launching).rejects.toMatchObject({ code: 'aborted', cause: 'changed my mind' });
  expect(processes.map(({ signals }) => signals)).toEqual([['SIGTERM'], ['SIGTERM']]);
});

test('shards run on the hosts that are given: their address, their words before the command, their processes told', async () => {
  const adopted: string[] = [];
  let isClosed = false;
  const hosts: ShardHosts = {
    addressed: true,
    host: (shard) => ({ address: `10.0.0.${shard + 1}`, command: ['nsenter', 'x'], adopt: (pid) => adopted.push(`${shard}: ${pid}`) }),
    close: async () => {
      isClosed = true;
    },
  };
  const launching = launch({ hosts });
  for (const process of processes) process.ready();
  const cluster = await launching;
  expect(processes.map(({ spawned: { command, task } }) => [...command, task.endpoint])).toEqual([
    ['nsenter', 'x', 'tcp://10.0.0.1:*'],
    ['nsenter', 'x', 'tcp://10.0.0.2:*'],
  ]);
  expect(adopted).toEqual(['0: 1', '1: 2']);
  await cluster.stop();
  expect(isClosed).toBe(true);
});

test('signals go to a shard by its name; a name that no shard has, and what is no signal, are refused', async () => {
  const cluster = await launched();
  expect(() => cluster.kill('toString', 'SIGKILL')).toThrow(
    expect.objectContaining({ code: 'invalid_argument', message: 'no such shard: toString; the plan has constructor' }),
  );
  for (const signal of ['SIGNOTHING', 'toString', 9, undefined])
    expect(() => cluster.kill('constructor', signal as never)).toThrow(
      expect.objectContaining({ code: 'invalid_argument', details: { field: 'signal' } }),
    );
  cluster.kill('constructor', 'SIGSTOP');
  expect(latest().signals).toEqual(['SIGSTOP']);
  await cluster.stop();
});

test.each([
  ['logLevel', 'verbose', /one of trace, debug, info, warn, error, silent: verbose$/],
  ['logLevel', 'toString', /one of trace/],
  ['verify', 'none', /one of full, size: none$/],
  ['residency', 'ram', /one of map, .*: ram$/],
  ['readyMs', 0, /milliseconds between 1 and \d+: 0$/],
  ['readyMs', Number.NaN, /: NaN$/],
  ['readyMs', 2 ** 31, /between 1 and/],
  ['drainMs', -1, /between 0 and \d+: -1$/],
  ['drainMs', '3s', /: 3s$/],
])('%s %s is refused before anything is started', async (field, value, message) => {
  await expect(launch({ [field]: value } as Partial<LaunchOptions>)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(message),
    details: { field },
  });
  expect(processes).toEqual([]);
});

test('stopping twice at once ends both calls, and closes the hosts once', async () => {
  let closed = 0;
  const hosts: ShardHosts = {
    addressed: false,
    host: () => ({ address: '127.0.0.1', command: [], adopt: () => undefined }),
    close: async () => {
      closed++;
    },
  };
  const cluster = await launched({ hosts });
  latest().onTerm = () => undefined;
  const stops = [cluster.stop(), cluster.stop()];
  latest().exit('code 0');
  await Promise.all(stops);
  await cluster.stop();
  expect(closed).toBe(1);
  expect(latest().signals).toEqual(['SIGTERM']);
});
