import { getSystemErrorName } from 'node:util';
import { type ErrorCode, shortageOf, TerabagError } from '../errors.js';
import type { NativeStatusError } from './native.js';

const OF_STATUS: ReadonlyMap<string | undefined, ErrorCode> = new Map([
  ['bad_lengths', 'invalid_argument'],
  ['closed', 'closed'],
  ['does_not_fit', 'does_not_fit'],
  ['bad_rule', 'bad_model'],
  ['out_of_memory', 'overloaded'],
]);
/**
 * An error of the addon about a table's file: its reason (EMFILE, ENOENT, EACCES ...) stands in details.reason, and the code is that of what
 * lacks: bad_table when it is the file.
 */
export function tableError(error: unknown): TerabagError {
  const { status, errno, message } = error as Partial<NativeStatusError>;
  if (typeof errno !== 'number')
    return new TerabagError(OF_STATUS.get(status) ?? 'bad_table', message ?? String(error), {}, { cause: error });
  const reason = getSystemErrorName(-errno);
  const shortage = shortageOf(reason);
  const code = shortage?.code ?? OF_STATUS.get(status) ?? 'bad_table';
  return new TerabagError(code, `${shortage === null ? '' : `${shortage.help}: `}${message} (${reason})`, { reason }, { cause: error });
}

/** An error of a run of dense layers; overloaded when there was no memory or no thread for it. */
export function runError(error: unknown): TerabagError {
  return TerabagError.from(error, OF_STATUS.get((error as Partial<NativeStatusError>).status) ?? 'internal');
}
