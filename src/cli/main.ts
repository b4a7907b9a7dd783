#!/usr/bin/env node
import { TerabagError } from '../errors.js';
import { lostOutput, watchStdout } from './stdout.js';

/** Exit codes: 0 done, 1 it went wrong, 2 wrong usage. */
const FAILED = 1;

watchStdout();
// Messages that nobody can read are no reason to stop.
process.stderr.on('error', () => undefined);

const fail = (error: TerabagError): void => {
  process.stderr.write(`terabag: ${error.message} (${error.code})\n`);
  process.exitCode = FAILED;
};

try {
  // Not before here: it loads the addon, which says in an error why it cannot be loaded.
  const { program } = await import('./program.js');
  await program.parseAsync();
} catch (error) {
  fail(TerabagError.from(error));
}
process.on('exit', () => {
  const lost = lostOutput();
  if (lost !== null && process.exitCode !== FAILED) fail(lost);
});
