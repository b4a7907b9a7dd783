import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Plan, writePlan } from '../../../src/index.js';
import { capacityPlan } from '../../reference/plans.js';
import { type Case, MS, type Stage } from '../case.js';
import { Command, freePort } from '../command.js';
import { MainProcess } from '../main-process.js';
import { within } from '../processes.js';
import { BACK_MS } from '../recovery.js';
import { failuresOf, PATIENT_MS } from '../under-load.js';

/** A domain that is nobody's (RFC 6761). */
const NAME = 'shard-1.terabag.test';
const [OLD, NEW] = ['127.0.0.1', '127.0.0.2'];
/** Names are resolved anew every 5 s, give or take a fifth. */
const RESOLVED_MS = 6500;

interface Named {
  readonly main: MainProcess;
  /** The process of the named shard at its first address. */
  readonly old: Command;
  /** Starts a process of the named shard at an address; resolves when it listens. */
  readonly shardAt: (address: string) => Promise<Command>;
  /** The addresses that the name has for main from now on. */
  readonly nameIs: (addresses: readonly string[]) => void;
}

/** Runs a command with a file of its own in place of /etc/hosts, which the rest of the machine does not see. */
const withHosts = (file: string): readonly string[] => [
  ...['unshare', '--mount', '--propagation', 'private', 'sh', '-c'],
  'mount --bind "$0" /etc/hosts && exec "$@"',
  file,
];

/** Two shards, of which main knows the second by its name, and main under load in a process of its own. */
async function named(stage: Stage): Promise<Named> {
  const dir = await stage.scratch();
  const [path, hosts] = [join(dir, 'plan.json'), join(dir, 'hosts')];
  const nameIs = (addresses: readonly string[]): void =>
    writeFileSync(hosts, ['127.0.0.1 localhost', ...addresses.map((address) => `${address} ${NAME}`), ''].join('\n'));
  nameIs([OLD]);
  const planned = capacityPlan(stage.model.spec, 2);
  const [firstPort, port] = [await freePort(), await freePort()];
  const endpoints = [`tcp://${OLD}:${firstPort}`, `tcp://${NAME}:${port}`];
  const plan: Plan = { ...planned, shards: planned.shards.map(({ name }, at) => ({ name, endpoints: [endpoints[at] as string] })) };
  await writePlan(path, plan);
  const start = async (shard: number, listen: string): Promise<Command> => {
    const args = [
      'shard',
      path,
      '--name',
      plan.shards[shard]?.name ?? '',
      '--bundle',
      stage.model.dir,
      '--listen',
      listen,
      '--log-level',
      'info',
    ];
    const command = Command.start(stage, args);
    if (!(await within(10_000, () => command.errors.some((line) => line.includes('"ready"')))))
      throw new Error(`no ready line: ${command.errors.at(-1)}`);
    return command;
  };
  const shardAt = (address: string): Promise<Command> => start(1, `tcp://${address}:${port}`);
  await start(0, endpoints[0] as string);
  const old = await shardAt(OLD);
  const task = { plan, model: stage.model, qps: Math.min(stage.qps, 500), deadlineMs: PATIENT_MS };
  const { main } = await MainProcess.start(stage, task, withHosts(hosts));
  await sleep(500);
  return { main, old, shardAt, nameIs };
}

/** Ends the load; every request that was sent so long after a fault was over has to be right. */
async function checkBack(stage: Stage, main: MainProcess, overAt: number, over: string): Promise<void> {
  await sleep(BACK_MS + 500);
  const { window, late, firstRightMs, lastFailedMs } = await main.stop(overAt);
  const backMs = Math.max(firstRightMs, lastFailedMs);
  stage.expect(backMs <= BACK_MS, `right answers came back ${MS(backMs)} after ${over}`);
  stage.expect(
    (window.outcomes['wrong'] ?? 0) + (window.outcomes['untyped'] ?? 0) + (window.outcomes['hung'] ?? 0) === 0,
    failuresOf(window),
  );
  stage.expect(late === 0, `${late} requests ended later than their deadline`);
  stage.figure('backMs', backMs);
  stage.saw(
    `${window.failed} of ${window.total} failed (${failuresOf(window)}); every request right from ${MS(lastFailedMs)} after ${over}`,
  );
}

const change: Case = {
  name: 'dns-change',
  does: 'a shard that is known by its name moves: another process of it starts at another address, the name gets that address, and the old one is killed after 6.5 s',
  required: 'right answers within 1 s after the kill, without a restart of main',
  needs: ['root'],
  boundMs: 60_000,
  async run(stage) {
    const { main, old, shardAt, nameIs } = await named(stage);
    await shardAt(NEW);
    nameIs([NEW]);
    await sleep(RESOLVED_MS);
    const killedAt = performance.now();
    old.signal('SIGKILL');
    await checkBack(stage, main, killedAt, 'the kill');
  },
};

const moved: Case = {
  name: 'dns-moved',
  does: 'a shard that is known by its name is killed, starts at another address, and only then its name gets that address',
  required: 'requests end typed; right answers within 1 s after the name has changed, without a restart of main',
  needs: ['root'],
  boundMs: 60_000,
  async run(stage) {
    const { main, old, shardAt, nameIs } = await named(stage);
    old.signal('SIGKILL');
    await shardAt(NEW);
    nameIs([NEW]);
    await checkBack(stage, main, performance.now(), 'the change of the name');
  },
};

const failure: Case = {
  name: 'dns-failure',
  does: 'the name of a shard cannot be resolved any more for 8 s; meanwhile its process is killed and starts again at its address',
  required: 'no request fails before the kill; right answers within 1 s of the ready line: the address that was known stays in use',
  needs: ['root'],
  boundMs: 60_000,
  async run(stage) {
    const { main, old, shardAt, nameIs } = await named(stage);
    nameIs([]);
    await sleep(RESOLVED_MS);
    old.signal('SIGKILL');
    await old.ended(1000);
    await shardAt(OLD);
    await checkBack(stage, main, performance.now(), 'the ready line');
  },
};

export const NAMES: readonly Case[] = [change, moved, failure];
