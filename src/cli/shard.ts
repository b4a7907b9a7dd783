import { Command } from 'commander';
import { runDaemon } from '../cluster/daemon.js';
import { whenFree } from '../cluster/launch-lock.js';
import { openServiceManager } from '../cluster/service-manager.js';
import { shardLog } from '../cluster/shard-log.js';
import { httpAddress } from '../endpoints/http-address.js';
import type { Residency } from '../engine/residency.js';
import { readModelSpec } from '../model/bundle.js';
import { type Plan, readPlan } from '../plan/file/plan.js';
import { bundleOf } from '../plan/file/published.js';
import { further } from './help.js';
import { drainOption, logLevelOption, position, residencyOption, verifyOption } from './options.js';
import { withProgress } from './progress.js';
import { allowOption, insecureOption, keyOption, type SecurityFlags, securityOf } from './security-options.js';
import { wholeTablesWarning } from './whole-tables.js';

interface ShardCommandOptions extends SecurityFlags {
  readonly name: string;
  readonly bundle: string;
  readonly replica?: number;
  readonly listen?: string;
  readonly logLevel: string;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
  readonly drain: number;
  readonly metrics?: string;
}

export const shardCommand = new Command('shard')
  .description('run one sparse shard of a plan until SIGTERM or SIGINT')
  .argument('<plan>', 'the plan file')
  .requiredOption('--name <shard>', 'which shard of the plan this is')
  .requiredOption('--bundle <dir>', 'directory of the model, or what it was published to')
  .option('--replica <n>', "which of the shard's endpoints in the plan this is, from 0; needed where it has several", position)
  .option('--listen <endpoint>', "listen here instead of the plan's endpoint; tcp://127.0.0.1:* takes a free port")
  .option(
    '--metrics <address>',
    'serve /metrics, /v2/health/live and /v2/health/ready here: HOST:PORT; *:PORT: every address of this machine',
  )
  .addOption(logLevelOption('info'))
  .addOption(verifyOption())
  .addOption(residencyOption())
  .addOption(drainOption())
  .addOption(keyOption())
  .addOption(allowOption())
  .addOption(insecureOption())
  .addHelpText(
    'after',
    further(`
On SIGTERM it refuses new requests, answers those in flight, and ends with exit code 0. A service manager that started it (systemd, Type=notify) is
told when it serves and when it drains, and gets signs of life (WatchdogSec).

Examples:
  terabag shard plan.json --name shard-0 --bundle ./model
  terabag shard plan.json --name shard-0 --replica 1 --bundle ./published/shard-0
  terabag shard plan.json --name shard-1 --bundle ./model --listen tcp://127.0.0.1:* --verify size
  terabag shard plan.json --name shard-2 --bundle ./model --residency lock --metrics '*:9400'
  terabag shard plan.json --name shard-3 --bundle ./model --listen 'tcp://*:5003' --key shard.key --allow main.pub`),
  )
  .action(async (planPath: string, options: ShardCommandOptions) => {
    const { name: shard, bundle, replica, listen, logLevel, verify, residency, drain } = options;
    const metrics = options.metrics === undefined ? null : httpAddress('--metrics', options.metrics);
    const log = shardLog(shard, logLevel);
    const plan = await readPlan(planPath);
    const spec = await readModelSpec(await bundleOf(bundle, shard));
    const warning = wholeTablesWarning({ plan, spec, dir: bundle, planPath, residency }, shard);
    if (warning !== null) log.warn(warning);
    const manager = await openServiceManager({ onWarning: (message) => log.warn(message) });
    const endpoint = endpointOf(plan, options);
    // Before a table is read for it.
    if (endpoint !== null) await whenFree([endpoint], 0);
    await withProgress('reading tables', 'bytes', (onProgress) =>
      runDaemon({
        plan,
        shard,
        bundle,
        log,
        verify,
        residency,
        drainMs: drain,
        onProgress,
        manager,
        ...securityOf(options),
        ...(metrics !== null && { metrics }),
        ...(replica !== undefined && { replica }),
        ...(listen !== undefined && { endpoint: listen }),
      }),
    );
  });

/** Where it is to listen; null where that is not said yet. */
function endpointOf(plan: Plan, { name, replica, listen }: ShardCommandOptions): string | null {
  const { endpoints = [] } = plan.shards.find((shard) => shard.name === name) ?? {};
  return listen ?? (replica === undefined && endpoints.length > 1 ? null : (endpoints[replica ?? 0] ?? null));
}
