import { once } from 'node:events';
import { resolve } from 'node:path';
import { Command } from 'commander';
import { endpointsOf, LaunchLock, whenFree } from '../cluster/launch-lock.js';
import { openServiceManager } from '../cluster/service-manager.js';
import type { LogLevel } from '../cluster/shard-task.js';
import type { Residency } from '../engine/residency.js';
import { TerabagError } from '../errors.js';
import { launchOnHosts } from '../lab/hosts/hosts.js';
import { readModelSpec } from '../model/bundle.js';
import { type Plan, readPlan, writePlan } from '../plan/file/plan.js';
import { refuseUnwritable } from '../tables/atomic.js';
import { further } from './help.js';
import { addHostOptions, type HostFlags, hostsOf, usesNetwork } from './host-options.js';
import { drainOption, logLevelOption, readyOption, residencyOption, verifyOption } from './options.js';
import { refuseSameFile } from './output-files.js';
import { allowOption, insecureOption, keyOption, type SecurityFlags, securityOf } from './security-options.js';
import { wholeTablesWarning } from './whole-tables.js';

/** Beside its drain, what a shard needs to end. */
const EXIT_MS = 2_000;

interface UpOptions extends HostFlags, SecurityFlags {
  readonly bundle: string;
  readonly freePorts?: string;
  readonly restart: boolean;
  readonly logLevel: LogLevel;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
  readonly ready: number;
  readonly drain: number;
  readonly json?: boolean;
}

/** A line of output. */
interface Said {
  /** all: of none in particular. */
  readonly shard: string;
  readonly replica?: number;
  readonly what: string;
  readonly detail: string;
  readonly [field: string]: unknown;
}

/** As lines of text name it: by its number too where the shard has several. */
function replicaName(plan: Plan, { name, replica }: { readonly name: string; readonly replica: number }): string {
  const shard = plan.shards.find((candidate) => candidate.name === name);
  return shard === undefined || shard.endpoints.length === 1 ? name : `${name} replica ${replica}`;
}

export const upCommand = addHostOptions(new Command('up'))
  .description('launch all shards of a plan on this machine and watch them until SIGINT or SIGTERM')
  .argument('<plan>', 'the plan file')
  .requiredOption('--bundle <dir>', 'directory of the model, or what it was published to')
  .option('--free-ports <file>', "listen on free ports instead of the plan's endpoints, and write the plan with them to this file")
  .option('--no-restart', 'do not start a shard again that died')
  .addOption(logLevelOption('warn'))
  .addOption(verifyOption())
  .addOption(residencyOption())
  .addOption(readyOption())
  .addOption(drainOption())
  .addOption(keyOption())
  .addOption(allowOption())
  .addOption(insecureOption())
  .option('--json', 'print events as JSON, one a line')
  .addHelpText(
    'after',
    further(`
With --network-delay, --network-jitter or --network-loss, each shard has an address of its own that only this machine reaches. Frames are
up to 1500 bytes; a delay counts once each way. --free-ports says where the shards are.

It launches the same shards once: while it runs, another for the same endpoints (or the same file of --free-ports) is refused; shards that a killed one
left are waited for. SIGINT and SIGTERM drain the shards, the last replicas first. SIGHUP reads the plan again and replaces the processes one after the
other (new keys, a new version of the model in the same place); a process that refuses what it is given ends that, and the one before serves on. In a terminal,
SIGHUP is the terminal's end, and its own.

Of a table that the plan splits by rows, each shard maps the whole file (with --residency lock, locks it), unless the plan was published: rows of other
parts lie between its own. On one machine the shards share that memory.

Examples:
  terabag up plan.json --bundle ./model
  terabag up plan.json --bundle ./model --free-ports live-plan.json &
  terabag predict requests.jsonl --bundle ./model --plan live-plan.json
  kill -HUP $(pgrep -f 'terabag up')
  terabag up plan.json --bundle ./model --free-ports live-plan.json --host-cpu 50 --network-delay 1ms --network-loss 0.1`),
  )
  .action(async (planPath: string, options: UpOptions, command: Command) => {
    if (usesNetwork(options) && options.freePorts === undefined)
      command.error('error: shards behind a network have other addresses than the plan says: --free-ports <file> tells them');
    await refuseSameFile(command, { '--free-ports': options.freePorts }, { '<plan>': planPath });
    if (options.freePorts !== undefined) await refuseUnwritable('--free-ports', options.freePorts);
    const hosts = hostsOf(options);
    const ended = new AbortController();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => ended.abort(signal));
    let onHangup = (): void => undefined;
    // Its default is the end, which the end of a terminal is to be.
    if (!process.stdin.isTTY && !process.stdout.isTTY) process.on('SIGHUP', () => onHangup());
    const plan = await readPlan(planPath);
    const { freePorts } = options;
    const lock = await LaunchLock.take(freePorts === undefined ? endpointsOf(plan) : [resolve(freePorts)]);
    if (freePorts === undefined) await whenFree(endpointsOf(plan), options.drain + EXIT_MS, ended.signal);
    const say = (event: Said): void => {
      const { shard, replica, what, detail } = event;
      const who = replica === undefined ? shard : replicaName(plan, { name: shard, replica });
      console.log(options.json ? JSON.stringify(event) : `${who}: ${what}${detail ? `, ${detail}` : ''}`);
    };
    // A directory that was published to holds no model.json of its own; what else is wrong with it, the shards say.
    const spec = await readModelSpec(options.bundle).catch(() => null);
    const served = { plan, planPath, dir: options.bundle, residency: options.residency };
    const warning = spec === null ? null : wholeTablesWarning({ ...served, spec });
    if (warning !== null) say({ shard: 'all', what: 'warning', detail: warning });
    const running = new Set(plan.shards.flatMap(({ name, endpoints }) => endpoints.map((_, replica) => `${name} ${replica}`)));
    const deserted = new AbortController();
    const manager = await openServiceManager({ onWarning: (message) => say({ shard: 'all', what: 'warning', detail: message }) });
    const cluster = await launchOnHosts(plan, {
      bundle: options.bundle,
      ephemeralPorts: options.freePorts !== undefined,
      restart: options.restart,
      logLevel: options.logLevel,
      verify: options.verify,
      residency: options.residency,
      readyMs: options.ready,
      drainMs: options.drain,
      signal: ended.signal,
      onEvent: ({ shard, replica, what, detail, error }) => {
        say({ shard, replica, what, detail, ...(error && { code: error.code, details: error.details }) });
        if (what === 'ready') running.add(`${shard} ${replica}`);
        const over = options.restart ? what === 'refused' : what === 'exited';
        if (!over) return;
        running.delete(`${shard} ${replica}`);
        if (running.size === 0) deserted.abort();
      },
      ...(hosts && { hosts }),
      ...securityOf(options),
    });
    const writeLive = async (): Promise<void> => {
      if (freePorts !== undefined) await writePlan(freePorts, cluster.plan);
    };
    try {
      await writeLive();
      const restart = async (): Promise<void> => {
        await cluster.restart(await readPlan(planPath));
        await writeLive();
        say({ shard: 'all', what: 'restarted', detail: '' });
      };
      if (options.restart) onHangup = oneAtATime(restart, say);
      const shards = cluster.shards.map((shard) => `${replicaName(plan, shard)} at ${shard.endpoint} (pid ${shard.pid})`);
      say({ shard: 'all', what: 'up', detail: shards.join('; ') || 'the plan has no sparse shards, main holds all tables' });
      manager.ready(`serving ${shards.length} replicas`);
      const over = AbortSignal.any([ended.signal, deserted.signal]);
      if (shards.length > 0 && !over.aborted) await once(over, 'abort');
      if (!ended.signal.aborted && deserted.signal.aborted)
        throw new TerabagError(
          'shard_unavailable',
          options.restart
            ? 'every shard refuses what it is to serve, for the reasons above; correct that, and start again'
            : 'every shard has ended, and with --no-restart none is started again',
        );
    } finally {
      manager.stopping();
      await cluster.stop();
      lock.release();
    }
    say({ shard: 'all', what: 'stopped', detail: '' });
  });

/** One restart after the other; those that are asked for during one are one. */
function oneAtATime(restart: () => Promise<void>, say: (said: Said) => void): () => void {
  let running = false;
  let again = false;
  const run = (): void => {
    again = running;
    if (running) return;
    running = true;
    restart()
      .catch((error: unknown) => {
        const { code, message, details } = TerabagError.from(error);
        say({ shard: 'all', what: 'restart refused', detail: `${message} (${code})`, code, details });
      })
      .finally(() => {
        running = false;
        if (again) run();
      });
  };
  return run;
}
