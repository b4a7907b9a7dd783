import type { HttpAddress } from '../endpoints/http-address.js';
import type { MetricsServer } from '../observe/metrics/metrics-server.js';
import { type Shard, type ShardOptions, startShard } from '../shard/shard.js';
import type { ServiceManager } from './service-manager.js';

export interface DaemonOptions extends ShardOptions {
  /** The longest that requests in flight are waited for at the end. */
  readonly drainMs: number;
  /** Awaited when a signal asks a shard that serves to end, before it drains; a second signal does not wait. */
  readonly leave?: () => Promise<void>;
  /** Serves /metrics, and its health, from before its tables are read until it ends; default not. */
  readonly metrics?: HttpAddress;
  /** Drains the shard at once, as the end of its launcher does. */
  readonly ended?: AbortSignal;
  /** What started the process, and is told when the shard serves and when it drains. */
  readonly manager?: ServiceManager;
}

/** How often a shard looks whether its launcher is still its parent, should the end of their channel not be told. */
const PARENT_MS = 1_000;

/**
 * Starts a shard that this process is for: SIGTERM, SIGINT and the end of the process that launched this one (over whose IPC channel it was
 * started) drain the shard and exit with 0.
 */
export async function runDaemon({ drainMs, leave, ended, metrics, manager, ...options }: DaemonOptions): Promise<Shard> {
  // Before it serves, a shard has nothing to drain.
  let shard: Shard | null = null;
  let ending = false;
  const end = (): void => {
    if (ending) return;
    ending = true;
    manager?.stopping();
    Promise.resolve(shard?.drain(drainMs)).then(
      () => process.exit(0),
      (error: unknown) => {
        options.log.error(error);
        process.exit(1);
      },
    );
  };
  let leaving = false;
  const asked = (): void => {
    if (leave === undefined || shard === null || leaving) {
      end();
      return;
    }
    leaving = true;
    void leave().then(end, end);
  };
  process.on('SIGTERM', asked);
  process.on('SIGINT', asked);
  ended?.addEventListener('abort', end);
  endWithLauncher(end);
  const told = metrics === undefined ? null : await serveMetrics(metrics, options, () => shard);
  try {
    // Not drained: what it would still answer may be wrong.
    shard = await startShard({ ...options, onUnservable: () => process.exit(1) });
  } catch (error) {
    await told?.close();
    throw error;
  }
  if (!ending) manager?.ready(`serving ${options.shard} at ${shard.endpoint}`);
  return shard;
}

/** Ends with the process. */
async function serveMetrics(address: HttpAddress, { shard: name, log }: ShardOptions, shard: () => Shard | null): Promise<MetricsServer> {
  // Shards without metrics do not load what makes them.
  const { MetricsServer } = await import('../observe/metrics/metrics-server.js');
  const { ShardMetrics } = await import('../observe/metrics/shard-metrics.js');
  const metrics = new ShardMetrics(name, () => shard()?.stats() ?? null);
  const server = await MetricsServer.listen({ ...address, pieces: () => metrics.pieces(), ready: () => metrics.ready });
  log.info({ shard: name, metrics: server.url }, 'metrics');
  return server;
}

/** A launcher that died must not leave shards behind. */
function endWithLauncher(end: () => void): void {
  if (process.channel === undefined) return;
  process.on('disconnect', end);
  const launcher = process.ppid;
  setInterval(() => process.ppid !== launcher && end(), PARENT_MS).unref();
  // Listening keeps the channel open, and with it a shard that failed to start.
  process.channel.unref();
}
