import { once } from 'node:events';
import { Command } from 'commander';
import { launchCluster } from '../cluster/launch.js';
import type { Residency } from '../engine/residency.js';
import { readPlan, writePlan } from '../plan/plan.js';
import { logLevelOption, residencyOption, verifyOption } from './options.js';

interface UpOptions {
  readonly bundle: string;
  readonly freePorts?: string;
  readonly restart: boolean;
  readonly logLevel: string;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
  readonly json?: boolean;
}

export const upCommand = new Command('up')
  .description('launch all shards of a plan on this machine and watch them until SIGINT or SIGTERM')
  .argument('<plan>', 'the plan file')
  .requiredOption('--bundle <dir>', 'directory of the model, or what it was published to')
  .option('--free-ports <file>', "listen on free ports instead of the plan's endpoints, and write the plan with them to this file")
  .option('--no-restart', 'do not start a shard again that died')
  .addOption(logLevelOption('warn'))
  .addOption(verifyOption())
  .addOption(residencyOption())
  .option('--json', 'print events as JSON, one a line')
  .addHelpText(
    'after',
    `
Examples:
  terabag up plan.json --bundle ./model
  terabag up plan.json --bundle ./model --free-ports live-plan.json &
  terabag predict requests.jsonl --bundle ./model --plan live-plan.json`,
  )
  .action(async (planPath: string, options: UpOptions) => {
    const ended = new AbortController();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => ended.abort(signal));
    const say = (event: Record<string, unknown>): void => {
      const { shard, what, detail } = event;
      console.log(options.json ? JSON.stringify(event) : `${String(shard)}: ${String(what)}${detail ? `, ${String(detail)}` : ''}`);
    };
    const plan = await readPlan(planPath);
    const cluster = await launchCluster(plan, {
      bundle: options.bundle,
      ephemeralPorts: options.freePorts !== undefined,
      restart: options.restart,
      logLevel: options.logLevel,
      verify: options.verify,
      residency: options.residency,
      signal: ended.signal,
      onEvent: say,
    });
    try {
      if (options.freePorts !== undefined) await writePlan(options.freePorts, cluster.plan);
      const shards = cluster.shards.map(({ name, endpoint, pid }) => `${name} at ${endpoint} (pid ${pid})`);
      say({ shard: 'all', what: 'up', detail: shards.join('; ') || 'the plan has no sparse shards, main holds all tables' });
      if (shards.length > 0 && !ended.signal.aborted) await once(ended.signal, 'abort');
    } finally {
      await cluster.stop();
    }
    say({ shard: 'all', what: 'stopped', detail: '' });
  });
