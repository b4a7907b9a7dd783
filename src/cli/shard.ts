import { Command } from 'commander';
import { pino } from 'pino';
import type { Residency } from '../engine/residency.js';
import { readModelSpec } from '../model/bundle.js';
import { readPlan } from '../plan/file/plan.js';
import { bundleOf } from '../plan/file/published.js';
import { startShard } from '../shard/shard.js';
import { logLevelOption, residencyOption, verifyOption } from './options.js';
import { withProgress } from './progress.js';
import { wholeTablesWarning } from './whole-tables.js';

const DRAIN_MS = 3000;

interface ShardCommandOptions {
  readonly name: string;
  readonly bundle: string;
  readonly listen?: string;
  readonly logLevel: string;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
}

export const shardCommand = new Command('shard')
  .description('run one sparse shard of a plan until SIGTERM or SIGINT')
  .argument('<plan>', 'the plan file')
  .requiredOption('--name <shard>', 'which shard of the plan this is')
  .requiredOption('--bundle <dir>', 'directory of the model, or what it was published to')
  .option('--listen <endpoint>', "listen here instead of the plan's endpoint; tcp://127.0.0.1:* takes a free port")
  .addOption(logLevelOption('info'))
  .addOption(verifyOption())
  .addOption(residencyOption())
  .addHelpText(
    'after',
    `
On SIGTERM it refuses new requests, answers those in flight, and ends with exit code 0.

Examples:
  terabag shard plan.json --name shard-0 --bundle ./model
  terabag shard plan.json --name shard-1 --bundle ./model --listen tcp://127.0.0.1:* --verify size
  terabag shard plan.json --name shard-2 --bundle ./model --residency lock`,
  )
  .action(async (planPath: string, options: ShardCommandOptions) => {
    const { name: shard, bundle, listen, logLevel, verify, residency } = options;
    const log = pino({ name: shard, level: logLevel }, pino.destination(2));
    // Before it serves, a shard has nothing to drain.
    let drain = async (): Promise<void> => undefined;
    let ending = false;
    const end = (): void => {
      if (ending) return;
      ending = true;
      drain().then(
        () => process.exit(0),
        (error: unknown) => {
          log.error(error);
          process.exit(1);
        },
      );
    };
    process.on('SIGTERM', end);
    process.on('SIGINT', end);
    // A launcher that died must not leave shards behind.
    process.on('disconnect', end);
    // Listening keeps the channel open, and with it a shard that failed to start.
    process.channel?.unref();
    const plan = await readPlan(planPath);
    // A launcher says it for all of its shards.
    if (process.send === undefined) {
      const spec = await readModelSpec(await bundleOf(bundle, shard));
      const warning = wholeTablesWarning({ plan, spec, dir: bundle, planPath, residency }, shard);
      if (warning !== null) log.warn(warning);
    }
    const running = await withProgress('reading tables', 'bytes', (onProgress) =>
      startShard({
        plan,
        shard,
        bundle,
        log,
        verify,
        residency,
        // A launcher shows progress of its own.
        ...(process.send === undefined && { onProgress }),
        ...(listen !== undefined && { endpoint: listen }),
      }),
    );
    drain = () => running.drain(DRAIN_MS);
    process.send?.({ ready: true, endpoint: running.endpoint });
  });
