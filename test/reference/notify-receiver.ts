import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const program = fileURLToPath(new URL('notify-receiver.py', import.meta.url));

/** Unix datagrams are received by Python: Node.js has none. */
export const canReceive = process.platform === 'linux' && spawnSync('python3', ['--version']).status === 0;
if (!canReceive) console.warn('tests of what service managers are told are skipped: they need Linux and python3');

export interface Notice {
  readonly text: string;
  /** Since the notice before, or since it listens. */
  readonly seconds: number;
}

/** What a service manager would hear, from a process of its own. */
export class NotifyReceiver {
  readonly notices: Notice[] = [];

  private constructor(private readonly child: ChildProcess) {}

  static async listen(address: string, pauseSeconds = 0): Promise<NotifyReceiver> {
    const child = spawn('python3', [program, address, String(pauseSeconds)], { stdio: ['ignore', 'pipe', 'inherit'] });
    const receiver = new NotifyReceiver(child);
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
    await once(lines, 'line');
    lines.on('line', (line) => receiver.notices.push(JSON.parse(line) as Notice));
    return receiver;
  }

  get texts(): string[] {
    return this.notices.map(({ text }) => text);
  }

  async close(): Promise<void> {
    const exited = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await exited;
  }
}
