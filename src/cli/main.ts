#!/usr/bin/env node
import cluster from 'node:cluster';
import { CommanderError } from 'commander';
import { TerabagError } from '../errors.js';
import { lostOutput, watchStdout } from './stdout.js';

/** Exit codes: 0 done, 1 it went wrong, 2 wrong usage. */
const FAILED = 1;
const USAGE = 2;

watchStdout();
// Messages that nobody can read are no reason to stop.
process.stderr.on('error', () => undefined);

const fail = (error: TerabagError): void => {
  process.stderr.write(`terabag: ${error.message} (${error.code})\n`);
  process.exitCode = FAILED;
};

try {
  // Not before here: it loads the addon, which says in an error why it cannot be loaded.
  const { openProgram } = await import('./program.js');
  const program = await openProgram(process.argv.slice(2));
  await program.parseAsync();
} catch (error) {
  // It has said all; the process ends when stdout has taken that.
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 || error.code === 'commander.help' ? 0 : USAGE;
  else fail(TerabagError.from(error));
  // Its channel to the primary would keep a worker.
  if (cluster.isWorker) process.disconnect();
}
process.on('exit', () => {
  const lost = lostOutput();
  if (lost !== null && process.exitCode !== FAILED && process.exitCode !== USAGE) fail(lost);
});
