import { Metadata, status as Status } from '@grpc/grpc-js';
import { type ErrorCode, TerabagError } from '../../errors.js';

/**
 * All others are INTERNAL. What another attempt may answer is UNAVAILABLE, which clients and proxies retry; RESOURCE_EXHAUSTED, which also stands for
 * messages that are too large, they mostly do not.
 */
const STATUS: ReadonlyMap<ErrorCode, Status> = new Map<ErrorCode, Status>([
  ['invalid_argument', Status.INVALID_ARGUMENT],
  ['index_out_of_range', Status.INVALID_ARGUMENT],
  ['bad_offsets', Status.INVALID_ARGUMENT],
  ['not_found', Status.NOT_FOUND],
  ['unsupported', Status.UNIMPLEMENTED],
  ['overloaded', Status.UNAVAILABLE],
  ['draining', Status.UNAVAILABLE],
  ['closed', Status.UNAVAILABLE],
  ['shard_unavailable', Status.UNAVAILABLE],
  ['deadline_exceeded', Status.DEADLINE_EXCEEDED],
  // Nobody reads it: the client has gone.
  ['aborted', Status.CANCELLED],
]);

/** Trailer that carries the error's own code. */
const CODE_TRAILER = 'terabag-code';
/** Of a message as it travels: clients refuse trailers of more than 8 KiB. */
const MOST_ENCODED = 4096;

/** How a call ends. */
export interface CallStatus {
  readonly code: Status;
  readonly details: string;
  readonly metadata: Metadata;
}

/** The status of what a handler threw. */
export function statusOf(thrown: unknown): CallStatus {
  const { code, message } = TerabagError.from(thrown);
  return callStatus(STATUS.get(code) ?? Status.INTERNAL, message, code);
}

/** The message is cut where it is too long for a trailer. */
export function callStatus(code: Status, message: string, word?: ErrorCode): CallStatus {
  const metadata = new Metadata();
  if (word !== undefined) metadata.set(CODE_TRAILER, word);
  return { code, details: toldMessage(message), metadata };
}

/** Halves of surrogate pairs, which a message that was cut may end with, cannot be encoded: grpc-js throws then. */
export function toldMessage(message: string): string {
  const whole = wellFormed(message);
  if (encodeURI(whole).length <= MOST_ENCODED) return whole;
  for (let length = MOST_ENCODED; ; length = Math.floor(length / 2)) {
    const cut = `${wellFormed(whole.slice(0, length))}…`;
    if (encodeURI(cut).length <= MOST_ENCODED) return cut;
  }
}

const wellFormed = (text: string): string => Buffer.from(text).toString();
