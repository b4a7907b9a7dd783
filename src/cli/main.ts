#!/usr/bin/env node
import { TerabagError } from '../errors.js';

/** Exit codes: 0 done, 1 it went wrong, 2 wrong usage. */
const FAILED = 1;

// A reader that closed the pipe (head, less) ends no daemon; what is left to print is dropped.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});

try {
  // Not before here: it loads the addon, which says in an error why it cannot be loaded.
  const { program } = await import('./program.js');
  await program.parseAsync();
} catch (error) {
  const { code, message } = TerabagError.from(error);
  process.stderr.write(`terabag: ${message} (${code})\n`);
  process.exitCode = FAILED;
}
