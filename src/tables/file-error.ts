import { type ErrorCode, TerabagError } from '../errors.js';

/** What the process or the machine is short of. */
interface Shortage {
  /** overloaded: another attempt may succeed. */
  readonly code: ErrorCode;
  readonly help: string;
}

const SHORTAGES: ReadonlyMap<string, Shortage> = new Map([
  ['EMFILE', { code: 'overloaded', help: 'the process has too many files open; raise its limit (ulimit -n, systemd LimitNOFILE)' }],
  ['ENFILE', { code: 'overloaded', help: 'the machine has too many files open; raise fs.file-max' }],
  ['ENOMEM', { code: 'does_not_fit', help: 'the process has no memory, address space or mappings left (ulimit -v, vm.max_map_count)' }],
]);

/** By the system's name of an error; null when what was asked for is to blame: a file, an endpoint. */
export const shortageOf = (reason: string | null): Shortage | null => (reason === null ? null : (SHORTAGES.get(reason) ?? null));

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
