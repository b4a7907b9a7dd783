import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Stage } from './case.js';
import type { MainReport, MainStop, MainTask } from './main-program.js';

const program = fileURLToPath(new URL('main-program.ts', import.meta.url));
const WAIT_MS = 15_000;

/** A main shard under load in a process of its own, killed at the end of the case. */
export class MainProcess {
  private constructor(private readonly child: ChildProcess) {}

  /** command: the words before its command line. */
  static async start(
    stage: Stage,
    task: MainTask,
    command: readonly string[] = [],
  ): Promise<{ readonly main: MainProcess; readonly connectedMs: number }> {
    const [execPath = '', ...before] = [...command, process.execPath];
    const child = fork(program, [], {
      execPath,
      execArgv: [...before, '--import', 'tsx'],
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    stage.defer(() => child.kill('SIGKILL'));
    const main = new MainProcess(child);
    const connected = main.#next();
    child.send(task);
    const report = await connected;
    return { main, connectedMs: report.kind === 'connected' ? report.tookMs : Number.NaN };
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Ends the load, and tells what became of its requests, and when relative to a time of this process (performance.now); default its start. */
  async stop(since: number | null = null): Promise<Extract<MainReport, { kind: 'ended' }>> {
    const ended = this.#next();
    const asked: MainStop = { sinceEpochMs: since === null ? null : since + performance.timeOrigin };
    this.child.send(asked);
    const report = await ended;
    if (report.kind !== 'ended') throw new Error(`an unexpected report: ${report.kind}`);
    return report;
  }

  #next(): Promise<MainReport> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('the process of a main shard says nothing')), WAIT_MS);
      const settled = (): void => {
        clearTimeout(timer);
        this.child.off('exit', onExit);
      };
      const onExit = (code: number | null, signal: string | null): void => {
        settled();
        reject(new Error(`the process of a main shard ended: ${signal ?? `code ${code}`}`));
      };
      this.child.once('exit', onExit);
      this.child.once('message', (report: MainReport) => {
        settled();
        resolve(report);
      });
    });
  }
}
