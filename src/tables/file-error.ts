import { type ErrorCode, shortageOf, TerabagError } from '../errors.js';

/**
 * What the system says of a file that cannot be opened or read: the reason (ENOENT, EACCES, ...) stands in the message and in details.reason.
 * The code is the given one, or that of a shortage. A TerabagError stays as it is.
 */
export function fileError(thrown: unknown, what: string, path: string, code: ErrorCode): TerabagError {
  if (thrown instanceof TerabagError) return thrown;
  const { code: reason = 'unknown reason', message } = thrown as NodeJS.ErrnoException;
  const shortage = shortageOf(reason);
  const told = shortage === null ? '' : `: ${shortage.help}`;
  const detail = reason === 'unknown reason' ? `, ${message}` : '';
  return new TerabagError(shortage?.code ?? code, `${what} (${reason})${told}: ${path}${detail}`, { path, reason }, { cause: thrown });
}
