import type { ErrorCode } from '../../errors.js';

/** Those that are not the server's fault or the moment's; all others are 500. */
const STATUS: ReadonlyMap<ErrorCode, number> = new Map<ErrorCode, number>([
  ['invalid_argument', 400],
  ['index_out_of_range', 400],
  ['bad_offsets', 400],
  ['not_found', 404],
  ['unsupported', 501],
  ['overloaded', 503],
  ['draining', 503],
  ['closed', 503],
  ['shard_unavailable', 503],
  ['deadline_exceeded', 504],
  // Nobody reads it: the client has gone.
  ['aborted', 503],
]);

export const statusOf = (code: ErrorCode): number => STATUS.get(code) ?? 500;
