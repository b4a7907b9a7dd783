import { type ErrorCode, TerabagError } from '../errors.js';

/** The process or the machine is short of something; the file is not to blame. */
const SHORTAGES: Readonly<Record<string, string>> = {
  EMFILE: 'the process has no file descriptor left, raise its limit (ulimit -n)',
  ENFILE: 'the system has no file descriptor left',
  ENOMEM: 'memory ran out',
};

/**
 * What the system says of a file that cannot be opened or read: the reason (ENOENT, EACCES, ...) stands in the message and in details.reason.
 * The code is the given one, or does_not_fit where the process is short of file descriptors or memory. A TerabagError stays as it is.
 */
export function fileError(thrown: unknown, what: string, path: string, code: ErrorCode): TerabagError {
  if (thrown instanceof TerabagError) return thrown;
  const { code: reason = 'unknown reason', message } = thrown as NodeJS.ErrnoException;
  const shortage = Object.hasOwn(SHORTAGES, reason) ? SHORTAGES[reason] : undefined;
  const told = shortage === undefined ? '' : `: ${shortage}`;
  const detail = reason === 'unknown reason' ? `, ${message}` : '';
  return new TerabagError(
    shortage === undefined ? code : 'does_not_fit',
    `${what} (${reason})${told}: ${path}${detail}`,
    { path, reason },
    { cause: thrown },
  );
}
