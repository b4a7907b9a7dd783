#!/usr/bin/env node
import { Command } from 'commander';
import { TerabagError } from '../errors.js';
import { inspectCommand } from './inspect.js';
import { planCommand } from './plan.js';
import { shardCommand } from './shard.js';
import { verifyCommand } from './verify.js';

const program = new Command('terabag')
  .description('Serves deep learning recommendation models whose embedding tables outgrow one machine.')
  .addCommand(inspectCommand)
  .addCommand(verifyCommand)
  .addCommand(planCommand)
  .addCommand(shardCommand);

program.parseAsync().catch((error: unknown) => {
  const { code, message } = TerabagError.from(error);
  process.stderr.write(`terabag: ${message} (${code})\n`);
  process.exitCode = 1;
});
