import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** A process of `terabag serve`. */
export interface ServeProcess {
  readonly child: ChildProcess;
  readonly url: string;
  /** HOST:PORT of gRPC; null when that is off. */
  readonly grpc: string | null;
  /** Lines of stderr so far. */
  readonly said: readonly string[];
  /** SIGTERM, and its exit code. */
  end(): Promise<number | null>;
}

/** Resolves when it listens; rejects with what it said when it ends before. */
export async function startServe(args: readonly string[], grpc: '127.0.0.1:0' | 'off' = 'off'): Promise<ServeProcess> {
  const child = spawn(process.execPath, [main, 'serve', ...args, '--http', '127.0.0.1:0', '--grpc', grpc], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said: string[] = [];
  createInterface(child.stderr).on('line', (line) => said.push(line));
  const lines = createInterface(child.stdout);
  const exited = once(child, 'exit') as Promise<[number | null]>;
  const [url, grpcAt = null] = await Promise.race([
    new Promise<[string, string | undefined]>((resolve) => {
      lines.on('line', (line) => {
        const [, at, grpcAddress] = /^serving at (https?:[^\s,]+)(?:, gRPC at ([^\s,]+))?/.exec(line) ?? [];
        if (at !== undefined) resolve([at, grpcAddress]);
      });
    }),
    exited.then(([code]) => {
      throw new Error(`terabag serve ended with ${code}: ${said.join('\n')}`);
    }),
  ]);
  return {
    ...{ child, url, grpc: grpcAt, said },
    end: async () => {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
      const [code] = await exited;
      return code;
    },
  };
}
