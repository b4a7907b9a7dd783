import { TerabagError } from '../errors.js';
import type { ShardCommand, ShardReport, ShardTask } from './shard-task.js';

// The program of a shard that launchCluster starts: it takes its task from the IPC channel, and reports there.

const report = (message: ShardReport): Promise<void> =>
  new Promise((resolve) => {
    // Without a channel the launcher is gone, and with it whoever would hear.
    if (process.send === undefined || !process.connected) resolve();
    else process.send(message, () => resolve());
  });

/** What the launcher has said so far, beside the task. */
const commands = { listen: new AbortController(), drain: new AbortController() } satisfies Record<ShardCommand, AbortController>;

const told = (command: ShardCommand): Promise<void> =>
  new Promise((resolve) => {
    const { signal } = commands[command];
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });

const launcherGone = (): void => process.exit(0);
process.once('disconnect', launcherGone);
const task = await new Promise<ShardTask>((resolve) => {
  process.once('message', (first: ShardTask) => {
    process.on('message', (command: ShardCommand) => commands[command].abort());
    resolve(first);
  });
});

/** Tells that the tables are there, and waits until the process that serves them has ended. */
async function standBy(): Promise<void> {
  // Nothing else keeps a process alive that waits.
  process.channel?.ref();
  await report({ kind: 'loaded' });
  await told('listen');
  process.channel?.unref();
}

/** Serves on until a successor can: until the launcher says so, or for as long as that may take. */
async function leave(): Promise<void> {
  await report({ kind: 'leaving' });
  await Promise.race([told('drain'), new Promise((resolve) => setTimeout(resolve, task.successorMs))]);
}

try {
  // Not before here: these load the addon, whose error the launcher has to be told.
  const [{ shardLog }, { runDaemon }] = await Promise.all([import('./shard-log.js'), import('./daemon.js')]);
  const { logLevel, standby, successorMs: _, ...options } = task;
  const log = shardLog(task.shard, logLevel);
  const starting = runDaemon({ ...options, log, leave, ended: commands.drain.signal, ...(standby && { beforeListening: standBy }) });
  // The daemon listens for that itself now, and drains.
  process.off('disconnect', launcherGone);
  const shard = await starting;
  await report({ kind: 'ready', endpoint: shard.endpoint });
} catch (error) {
  const { code, message, details } = TerabagError.from(error);
  await report({ kind: 'refused', code, message, details });
  process.exit(1);
}
