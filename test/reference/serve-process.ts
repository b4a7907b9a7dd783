import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** A process of `terabag serve`. */
export interface ServeProcess {
  readonly child: ChildProcess;
  readonly url: string;
  /** Lines of stderr so far. */
  readonly said: readonly string[];
  /** SIGTERM, and its exit code. */
  end(): Promise<number | null>;
}

/** Resolves when it listens; rejects with what it said when it ends before. */
export async function startServe(args: readonly string[], http = '127.0.0.1:0'): Promise<ServeProcess> {
  const child = spawn(process.execPath, [main, 'serve', ...args, '--http', http], { stdio: ['ignore', 'pipe', 'pipe'] });
  const said: string[] = [];
  createInterface(child.stderr).on('line', (line) => said.push(line));
  const lines = createInterface(child.stdout);
  const exited = once(child, 'exit') as Promise<[number | null]>;
  const url = await Promise.race([
    new Promise<string>((resolve) => {
      lines.on('line', (line) => {
        const [, at] = /^serving at (https?:\S+)/.exec(line) ?? [];
        if (at !== undefined) resolve(at);
      });
    }),
    exited.then(([code]) => {
      throw new Error(`terabag serve ended with ${code}: ${said.join('\n')}`);
    }),
  ]);
  return {
    ...{ child, url, said },
    end: async () => {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      const [code] = await exited;
      return code;
    },
  };
}
