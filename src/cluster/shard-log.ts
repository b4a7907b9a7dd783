import { type Logger, pino } from 'pino';

/** Lines beyond are dropped while nobody reads the log. */
const MAX_WAITING_BYTES = 1024 * 1024;

/**
 * The log of a shard's process: lines of JSON on stderr. A reader that does not read loses lines, but keeps the shard neither from serving nor from
 * ending: a blocking write to a full pipe would.
 */
export function shardLog(shard: string, level: string): Logger {
  // Node makes a pipe non-blocking when it opens its stream.
  void process.stderr;
  const destination = pino.destination({ dest: 2, sync: true, maxLength: MAX_WAITING_BYTES, retryEAGAIN: () => false });
  // What could not be written is lost; there is nowhere to say so.
  destination.on('error', () => undefined);
  return pino({ name: shard, level }, destination);
}
