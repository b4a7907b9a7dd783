import { Command } from 'commander';
import { pino } from 'pino';
import { readPlan } from '../plan/plan.js';
import { startShard } from '../shard/shard.js';
import { logLevelOption, verifyOption } from './options.js';

const DRAIN_MS = 3000;

export const shardCommand = new Command('shard')
  .description('run one sparse shard of a plan until SIGTERM or SIGINT')
  .argument('<plan>', 'the plan file')
  .requiredOption('--name <shard>', 'which shard of the plan this is')
  .requiredOption('--bundle <dir>', 'directory of the model')
  .option('--listen <endpoint>', "listen here instead of the plan's endpoint; tcp://127.0.0.1:* takes a free port")
  .addOption(logLevelOption('info'))
  .addOption(verifyOption())
  .addHelpText(
    'after',
    `
On SIGTERM it refuses new requests, answers those in flight, and ends with exit code 0.

Examples:
  terabag shard plan.json --name shard-0 --bundle ./model
  terabag shard plan.json --name shard-1 --bundle ./model --listen tcp://127.0.0.1:* --verify size`,
  )
  .action(
    async (planPath: string, options: { name: string; bundle: string; listen?: string; logLevel: string; verify: 'full' | 'size' }) => {
      const log = pino({ name: options.name, level: options.logLevel }, pino.destination(2));
      const shard = await startShard({
        plan: await readPlan(planPath),
        shard: options.name,
        bundle: options.bundle,
        log,
        verify: options.verify,
        ...(options.listen && { endpoint: options.listen }),
      });
      let ending = false;
      const end = (): void => {
        if (ending) return;
        ending = true;
        shard.drain(DRAIN_MS).then(
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
      process.send?.({ ready: true, endpoint: shard.endpoint });
    },
  );
