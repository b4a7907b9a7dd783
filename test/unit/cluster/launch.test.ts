import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type LaunchOptions, launchBy, type ShardHosts } from '../../../src/cluster/launch.js';
import type { ShardCommand } from '../../../src/cluster/shard-task.js';
import type { ChildHandlers, Spawn, Spawned } from '../../../src/cluster/spawn.js';
import type { ShardEvent } from '../../../src/cluster/watch.js';
import type { ErrorCode } from '../../../src/errors.js';
import type { Plan } from '../../../src/plan/file/plan.js';

/** A shard's process that does what the test says. */
class FakeProcess {
  readonly signals: NodeJS.Signals[] = [];
  readonly commands: ShardCommand[] = [];
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

  /** On standby: it has its tables. */
  loaded(): void {
    this.handlers.onReport({ kind: 'loaded' });
  }

  /** It was asked to end, by others than its launcher. */
  leaving(): void {
    this.handlers.onReport({ kind: 'leaving' });
  }

  tell = (command: ShardCommand): void => void this.commands.push(command);

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
        ...{ logLevel: 'warn', verify: 'size', residency: 'populate', drainMs: 7, standby: false, successorMs: 300_000 },
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
  for (const pauseMs of [0, 100, 200, 400]) {
    const before = processes.length;
    latest().exit('SIGSEGV');
    if (pauseMs > 0) await vi.advanceTimersByTimeAsync(pauseMs - 1);
    expect(processes.length).toBe(before);
    await vi.advanceTimersByTimeAsync(1);
    expect(processes.length).toBe(before + 1);
    expect(latest().spawned.task).toEqual({ ...processes[0]?.spawned.task, endpoint: 'tcp://127.0.0.1:50001' });
  }
  latest().ready();
  expect(cluster.shards[0]?.pid).toBe(5);
  await vi.advanceTimersByTimeAsync(10_001);
  latest().exit('code 7');
  expect(told()).toEqual([
    'constructor ready tcp://127.0.0.1:50001',
    ...['0', '100', '200', '400'].flatMap((ms) => ['constructor exited SIGSEGV', `constructor restarting in ${ms} ms`]),
    'constructor ready tcp://127.0.0.1:50001',
    'constructor exited code 7',
    'constructor restarting in 0 ms',
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
  ['security', 'shard.key', /an object: shard.key$/],
  ['signal', 'x', /an AbortSignal: x$/],
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

/** All promises that can go on have gone on. */
const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
};

test('a process that others ask to end serves until its successor has its tables, which listens when it has ended', async () => {
  const cluster = await launched({ ephemeralPorts: true });
  const [old] = processes as [FakeProcess];
  old.onTerm = () => undefined;
  old.leaving();
  const next = latest();
  expect(next.spawned.task).toEqual({ ...old.spawned.task, endpoint: 'tcp://127.0.0.1:50001', standby: true });
  await settled();
  expect([old.commands, old.signals, cluster.shards[0]?.pid]).toEqual([[], [], 1]);
  next.loaded();
  await settled();
  expect([old.commands, next.commands]).toEqual([['drain'], []]);
  old.exit('code 0');
  expect([next.commands, cluster.shards[0]?.pid]).toEqual([['listen'], 2]);
  next.ready();
  expect(told().slice(1)).toEqual([
    'constructor replacing it was asked to end',
    'constructor exited code 0',
    'constructor ready tcp://127.0.0.1:50001',
  ]);
  await cluster.stop();
  expect(processes.length).toBe(2);
});

test('a process that others ask to end drains when its successor refuses, which is told', async () => {
  const cluster = await launched();
  const [old] = processes as [FakeProcess];
  old.onTerm = () => undefined;
  old.leaving();
  latest().refuse('checksum_mismatch');
  await settled();
  expect(old.commands).toEqual(['drain']);
  old.exit('code 0');
  // Its restart says what the matter is.
  await vi.advanceTimersByTimeAsync(1);
  latest().refuse('checksum_mismatch');
  expect(processes.length).toBe(3);
  expect(events.at(-1)).toMatchObject({ what: 'refused', error: { code: 'checksum_mismatch' } });
  await cluster.stop();
});

test.each([
  ['memory is not shared', { residency: 'lock' }, 1],
  ['memory is not shared (huge pages)', { residency: 'hugepages' }, 1],
  ['nothing is started again', { restart: false }, 0],
] as const)('where %s, a process that others ask to end drains at once', async (_, options, successors) => {
  const cluster = await launched(options);
  const [old] = processes as [FakeProcess];
  old.onTerm = () => undefined;
  old.leaving();
  expect([old.commands, processes.length]).toEqual([['drain'], 1]);
  old.exit('code 0');
  await vi.advanceTimersByTimeAsync(1);
  expect(processes.length).toBe(1 + successors);
  await cluster.stop();
});

test('a process that crashes while its successor loads is followed by that', async () => {
  const cluster = await launched();
  processes[0]?.leaving();
  processes[0]?.exit('SIGSEGV');
  expect(latest().commands).toEqual(['listen']);
  latest().loaded();
  latest().ready();
  await vi.advanceTimersByTimeAsync(600_000);
  expect(processes.length).toBe(2);
  await cluster.stop();
});

test('a successor that does not listen in readyMs is killed, and followed by another', async () => {
  const cluster = await launched({ readyMs: 50 });
  processes[0]?.leaving();
  latest().loaded();
  await settled();
  expect(processes[0]?.signals).toEqual(['SIGTERM']);
  await vi.advanceTimersByTimeAsync(49);
  expect(processes[1]?.signals).toEqual([]);
  await vi.advanceTimersByTimeAsync(1);
  expect(processes[1]?.signals).toEqual(['SIGKILL']);
  await vi.advanceTimersByTimeAsync(1);
  expect(processes.length).toBe(3);
  await cluster.stop();
});

/** Launches both shards, which are ready. */
async function launchedBoth(options: Partial<LaunchOptions> = {}) {
  const launching = launch(options);
  for (const process of processes) process.ready();
  return launching;
}

test('a restart replaces one process after the other, each when the one before is ready', async () => {
  const cluster = await launchedBoth();
  const version: Plan = { ...plan, epoch: 1 };
  let isOver = false;
  const restarting = cluster.restart(version).finally(() => {
    isOver = true;
  });
  await settled();
  expect(processes.map(({ spawned: { task } }) => [task.shard, task.plan.epoch, task.standby])).toEqual([
    ['constructor', undefined, false],
    ['s1', undefined, false],
    ['constructor', 1, true],
  ]);
  processes[2]?.loaded();
  await settled();
  expect(processes.map(({ commands }) => commands)).toEqual([['drain'], [], ['listen']]);
  expect(processes.length).toBe(3);
  processes[2]?.ready();
  await settled();
  expect(processes[3]?.spawned.task).toMatchObject({ shard: 's1', plan: version, standby: true });
  processes[3]?.loaded();
  await settled();
  expect([isOver, cluster.plan]).toEqual([false, plan]);
  processes[3]?.ready();
  await restarting;
  expect(cluster.plan).toEqual(version);
  // What crashes afterwards is started with the new plan.
  processes[2]?.exit('SIGKILL');
  await vi.advanceTimersByTimeAsync(1);
  expect(latest().spawned.task).toMatchObject({ shard: 'constructor', plan: version, standby: false });
  await cluster.stop();
});

test('a restart that is refused leaves everything as it was', async () => {
  const cluster = await launchedBoth();
  const restarting = cluster.restart({ ...plan, epoch: 1 });
  await settled();
  latest().refuse('model_mismatch');
  await expect(restarting).rejects.toMatchObject({ code: 'model_mismatch', details: { shard: 'constructor', replica: 0 } });
  await vi.advanceTimersByTimeAsync(600_000);
  expect(processes.map(({ commands, signals }) => [...commands, ...signals])).toEqual([[], [], []]);
  processes[0]?.exit('SIGKILL');
  await vi.advanceTimersByTimeAsync(1);
  expect(latest().spawned.task).toMatchObject({ shard: 'constructor', plan });
  await cluster.stop();
});

test('where memory is not shared, a restart drains each process before its successor starts', async () => {
  const cluster = await launchedBoth({ residency: 'hugepages' });
  const [old] = processes as [FakeProcess];
  old.onTerm = () => undefined;
  const restarting = cluster.restart();
  await settled();
  expect([old.commands, processes.length]).toEqual([['drain'], 2]);
  old.exit('code 0');
  await settled();
  expect(latest().spawned.task).toMatchObject({ shard: 'constructor', standby: false });
  latest().ready();
  await settled();
  latest().ready();
  await restarting;
  await vi.advanceTimersByTimeAsync(600_000);
  expect(processes.length).toBe(4);
  await cluster.stop();
});

test('a restart of a shard that refused starts it again', async () => {
  const cluster = await launched();
  latest().exit('SIGKILL');
  await vi.advanceTimersByTimeAsync(1);
  latest().refuse('checksum_mismatch');
  const restarting = cluster.restart();
  await settled();
  expect(processes.length).toBe(3);
  latest().ready();
  await restarting;
  await cluster.stop();
});

test('a restart with a plan of other names or endpoints, or of none, is refused', async () => {
  const cluster = await launchedBoth();
  for (const shards of [plan.shards.slice(1), plan.shards.map((shard) => ({ ...shard, endpoints: [...shard.endpoints, 'tcp://x:1'] })), []])
    await expect(cluster.restart({ ...plan, shards })).rejects.toMatchObject({ code: 'bad_plan', details: { field: 'shards' } });
  await expect(cluster.restart({} as Plan)).rejects.toMatchObject({ code: 'bad_plan' });
  expect(processes.length).toBe(2);
  await cluster.stop();
});

test('stop ends a successor too, and a restart under way', async () => {
  const cluster = await launchedBoth();
  const restarting = cluster.restart();
  await settled();
  await Promise.all([expect(restarting).rejects.toMatchObject({ code: 'shard_unavailable' }), cluster.stop()]);
  expect(processes.map(({ signals }) => signals)).toEqual([['SIGTERM'], ['SIGTERM'], ['SIGTERM']]);
  await expect(cluster.restart()).rejects.toMatchObject({ code: 'closed' });
});

test('stop drains the last replicas of all shards first, and restarts nothing meanwhile', async () => {
  const replicated: Plan = {
    ...plan,
    shards: [
      { name: 'a', endpoints: ['tcp://a:1', 'tcp://a:2'] },
      { name: 'b', endpoints: ['tcp://b:1', 'tcp://b:2', 'tcp://b:3'] },
    ],
  };
  const launching = launch({}, replicated);
  for (const process of processes) process.ready();
  const cluster = await launching;
  for (const process of processes) process.onTerm = () => undefined;
  const stopping = cluster.stop();
  const termed = (): string[] =>
    processes.filter(({ signals }) => signals.length > 0).map(({ spawned: { task } }) => `${task.shard}${task.replica}`);
  const end = async (...at: number[]): Promise<void> => {
    for (const process of at) processes[process]?.exit('code 0');
    await settled();
  };
  expect(termed()).toEqual(['b2']);
  await end(4);
  expect(termed()).toEqual(['a1', 'b1', 'b2']);
  // A crash of one that is still to serve.
  await end(0);
  await vi.advanceTimersByTimeAsync(1);
  await end(1, 3);
  expect(termed()).toEqual(['a1', 'b0', 'b1', 'b2']);
  await end(2);
  await stopping;
  expect(processes.length).toBe(5);
});
