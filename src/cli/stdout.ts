import { TerabagError } from '../errors.js';
import { outputError } from '../tables/atomic.js';

/** What a write to stdout failed of: a reader that has closed the pipe (aborted), a full disk (does_not_fit). */
export function stdoutError(error: Error): TerabagError {
  // A stream that failed before says no more of the reason.
  if (!('errno' in error) && process.stdout.errored) return stdoutError(process.stdout.errored);
  const { code } = error as NodeJS.ErrnoException;
  if (code !== 'EPIPE') return outputError(error, 'stdout');
  const details = { path: 'stdout', reason: code };
  return new TerabagError('aborted', `nobody reads the scores any more (${code}): stdout was closed`, details, { cause: error });
}

let failure: NodeJS.ErrnoException | null = null;

/**
 * Keeps a failed write to stdout from ending the process where it stands. A reader that closed the pipe (head, less) ends no daemon: what is
 * left to print is dropped.
 */
export function watchStdout(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    failure ??= error;
  });
}

/** Why stdout lacks what was printed; null when nothing does, or nobody would have read it. */
export const lostOutput = (): TerabagError | null => (failure === null || failure.code === 'EPIPE' ? null : stdoutError(failure));
