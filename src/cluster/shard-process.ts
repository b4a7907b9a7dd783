import { TerabagError } from '../errors.js';
import type { ShardReport, ShardTask } from './shard-task.js';

// The program of a shard that launchCluster starts: it takes its task from the IPC channel, and reports there.

const report = (message: ShardReport): Promise<void> =>
  new Promise((resolve) => {
    // Without a channel the launcher is gone, and with it whoever would hear.
    if (process.send === undefined || !process.connected) resolve();
    else process.send(message, () => resolve());
  });

const launcherGone = (): void => process.exit(0);
process.once('disconnect', launcherGone);
const task = await new Promise<ShardTask>((resolve) => {
  process.once('message', resolve);
});
try {
  // Not before here: these load the addon, whose error the launcher has to be told.
  const [{ shardLog }, { runDaemon }] = await Promise.all([import('./shard-log.js'), import('./daemon.js')]);
  const { logLevel, ...options } = task;
  const log = shardLog(task.shard, logLevel);
  const starting = runDaemon({ ...options, log });
  // The daemon listens for that itself now, and drains.
  process.off('disconnect', launcherGone);
  const shard = await starting;
  await report({ kind: 'ready', endpoint: shard.endpoint });
} catch (error) {
  const { code, message, details } = TerabagError.from(error);
  await report({ kind: 'refused', code, message, details });
  process.exit(1);
}
