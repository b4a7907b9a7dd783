import { type Shard, type ShardOptions, startShard } from '../shard/shard.js';

export interface DaemonOptions extends ShardOptions {
  /** The longest that requests in flight are waited for at the end. */
  readonly drainMs: number;
}

/**
 * Starts a shard that this process is for: SIGTERM, SIGINT and the end of the process that launched this one (over whose IPC channel it was
 * started) drain the shard and exit with 0.
 */
export async function runDaemon({ drainMs, ...options }: DaemonOptions): Promise<Shard> {
  // Before it serves, a shard has nothing to drain.
  let drain = async (): Promise<void> => undefined;
  let ending = false;
  const end = (): void => {
    if (ending) return;
    ending = true;
    drain().then(
      () => process.exit(0),
      (error: unknown) => {
        options.log.error(error);
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
  // A launcher that died must not leave shards behind.
  process.on('disconnect', end);
  // Listening keeps the channel open, and with it a shard that failed to start.
  process.channel?.unref();
  const shard = await startShard(options);
  drain = () => shard.drain(drainMs);
  return shard;
}
