import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Plan, writePlan } from '../../src/index.js';
import { capacityPlan } from '../reference/plans.js';
import type { Stage } from './case.js';
import { signalTo, within } from './processes.js';
import type { ServedModel } from './served-model.js';

const terabag = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export interface CommandOptions {
  /** A file descriptor for stderr; default it is kept in `errors`. */
  readonly stderr?: number;
  /** The words before the command line. */
  readonly command?: readonly string[];
}

/** What `terabag up --json` tells. */
export interface UpEvent {
  readonly shard: string;
  readonly what: string;
  readonly detail: string;
  readonly code?: string;
}

/** The `terabag` command as a process of its own, killed at the end of the case. */
export class Command {
  readonly lines: string[] = [];
  readonly errors: string[] = [];
  /** Exit code or signal, once it has ended. */
  end: string | null = null;

  private constructor(private readonly child: ChildProcess) {
    child.once('exit', (code, signal) => {
      this.end = signal ?? `code ${code}`;
    });
    if (child.stdout !== null) createInterface({ input: child.stdout }).on('line', (line) => this.lines.push(line));
    if (child.stderr !== null) createInterface({ input: child.stderr }).on('line', (line) => this.errors.push(line));
  }

  static start(stage: Stage, args: readonly string[], { stderr, command = [] }: CommandOptions = {}): Command {
    const [file = process.execPath, ...before] = [...command, process.execPath, terabag];
    const child = spawn(file, [...before, ...args], { stdio: ['ignore', 'pipe', stderr ?? 'pipe'] });
    const started = new Command(child);
    stage.defer(async () => {
      if (started.end !== null) return;
      // Shards of a killed `up` end by themselves; asked first, it waits for them.
      started.signal('SIGTERM');
      if (!(await started.ended(5000))) started.signal('SIGKILL');
    });
    return started;
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.end === null) signalTo(this.pid, signal);
  }

  ended(ms: number): Promise<boolean> {
    return within(ms, () => this.end !== null);
  }

  /** The events of `terabag up --json` so far. */
  get events(): UpEvent[] {
    return this.lines.map((line) => JSON.parse(line) as UpEvent);
  }

  /** Pids of the shards that it last told of, when it was up. */
  get shardPids(): number[] {
    const up = this.events.find(({ what }) => what === 'up');
    return [...(up?.detail ?? '').matchAll(/\(pid (\d+)\)/g)].map(([, pid]) => Number(pid));
  }

  async untilUp(ms = 15_000): Promise<void> {
    const up = await within(ms, () => this.end !== null || this.events.some(({ what }) => what === 'up'));
    if (!up || this.end !== null) throw new Error(`terabag up is not up: ${this.end ?? 'it runs'}, ${this.errors.join(' ')}`);
  }
}

/** A port of loopback that nobody listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** A plan at ports of loopback, as a file, too. */
export async function planFile(stage: Stage, { spec } = stage.model): Promise<{ readonly plan: Plan; readonly path: string }> {
  const planned = capacityPlan(spec, 2);
  const shards = await Promise.all(planned.shards.map(async ({ name }) => ({ name, endpoints: [`tcp://127.0.0.1:${await freePort()}`] })));
  const plan = { ...planned, shards };
  const path = join(await stage.scratch(), 'plan.json');
  await writePlan(path, plan);
  return { plan, path };
}

export const startUp = (stage: Stage, path: string, { dir }: ServedModel = stage.model, options: CommandOptions = {}): Command =>
  Command.start(stage, ['up', path, '--bundle', dir, '--json', '--log-level', 'info'], options);
