import { type ChildProcess, fork } from 'node:child_process';
import { compiledPath } from '../compiled-path.js';
import { fileError } from '../tables/file-error.js';
import type { ShardCommand, ShardReport, ShardTask } from './shard-task.js';

/** A shard's process, as its watcher sees it. */
export interface ShardChild {
  readonly pid: number;
  /** Does nothing once it has ended. */
  kill(signal: NodeJS.Signals): void;
  /** Likewise. */
  tell(command: ShardCommand): void;
}

export interface ChildHandlers {
  onReport(report: ShardReport): void;
  /** Once, last; the reason is a signal, an exit code, or why the process could not be started. */
  onExit(reason: string): void;
}

export interface Spawned {
  readonly task: ShardTask;
  /** The words before the command line of node; none when it runs as this process does. */
  readonly command: readonly string[];
}

/** Starts a shard's process. Handlers are called in later turns of the event loop only. */
export type Spawn = (spawned: Spawned, handlers: ChildHandlers) => ShardChild;

/** A process of this machine, with stderr in common. */
export const spawnShard: Spawn = ({ task, command }, { onReport, onExit }) => {
  const notStarted = (error: unknown): void => {
    const { code, message, details } = fileError(
      error,
      'process of a shard cannot be started',
      command[0] ?? process.execPath,
      'shard_unavailable',
    );
    onReport({ kind: 'refused', code, message, details });
    onExit(message);
  };
  const [execPath = process.execPath, ...execArgv] = [...command, process.execPath];
  let child: ChildProcess;
  try {
    // The names are for those who list processes.
    child = fork(compiledPath('cluster/shard-process.js'), [task.shard, String(task.replica)], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execPath,
      execArgv,
    });
  } catch (error) {
    process.nextTick(notStarted, error);
    return { pid: 0, kill: () => undefined, tell: () => undefined };
  }
  child.on('message', (report) => onReport(report as ShardReport));
  child.once('exit', (code, signal) => onExit(signal ?? `code ${code}`));
  child.on('error', (error) => {
    // Else it is a message or a signal that the process did not take, whose exit is told.
    if (child.pid === undefined) notStarted(error);
  });
  // What was not started has no channel; why not comes as an error.
  const send = (message: ShardTask | ShardCommand): void => {
    if (child.pid !== undefined && child.connected) child.send(message, () => undefined);
  };
  send(task);
  return { pid: child.pid ?? 0, kill: (signal) => void child.kill(signal), tell: send };
};
