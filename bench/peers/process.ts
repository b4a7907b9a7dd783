import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { Absent, Contender, Peer } from '../suite.js';

/** Where bench/peers/setup.mjs puts what it installs and builds. */
export const PEERS_DIR =
  process.env['TERABAG_BENCH_PEERS'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'terabag', 'peers');

/** Settings that leave a peer one thread, its kernels for this CPU, and huge pages for its tables. */
const PEER_ENV = {
  OMP_NUM_THREADS: '1',
  MKL_NUM_THREADS: '1',
  OPENBLAS_NUM_THREADS: '1',
  OPENBLAS_CORETYPE: 'SkylakeX',
  GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
};

interface Ready {
  readonly params?: Contender['params'];
  readonly absent?: string;
}

/** A peer in a process of its own: it says on a line that it is ready, then answers "MS" with ns per unit of a round that long. */
class PeerProcess implements Contender {
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;
  params: NonNullable<Contender['params']> = {};

  constructor(
    readonly peer: Peer,
    private readonly child: ChildProcess,
  ) {
    this.#reader = createInterface({ input: child.stdout as NodeJS.ReadableStream });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`${this.peer} ended with ${this.child.exitCode ?? this.child.signalCode}`);
    return value;
  }

  async ready(): Promise<Ready> {
    const ready = JSON.parse(await this.#line()) as Ready;
    this.params = ready.params ?? {};
    return ready;
  }

  async round(ms: number): Promise<number> {
    this.child.stdin?.write(`${ms}\n`);
    return Number(await this.#line());
  }

  close(): void {
    this.#reader.close();
    this.child.kill();
  }
}

/** Starts a peer on a case; absent, with the reason, when it cannot run here. */
export async function startPeer(
  peer: Peer,
  command: readonly string[],
  task: object,
  environment: Readonly<Record<string, string>> = {},
): Promise<Contender | Absent> {
  const [program = '', ...args] = command;
  if (!existsSync(program)) return { peer, note: `not installed (${program}): run node bench/peers/setup.mjs` };
  let errors = '';
  const child = spawn(program, [...args, JSON.stringify(task)], {
    env: { ...process.env, ...PEER_ENV, ...environment },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  child.stderr.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString()).slice(-2000);
  });
  const started = new PeerProcess(peer, child);
  try {
    const { absent } = await started.ready();
    if (absent === undefined) return started;
    started.close();
    return { peer, note: absent };
  } catch (error) {
    started.close();
    const last = errors.trim().split('\n').at(-1) ?? '';
    return { peer, note: `${error instanceof Error ? error.message : String(error)}: ${last}` };
  }
}

/** The Python of the peers; fbgemm may need another version of PyTorch than the newest, and has an environment of its own. */
export function python(script: string, environment: 'torch' | 'fbgemm' | 'kserve' | 'pytriton'): string[] {
  return [join(PEERS_DIR, environment, 'bin', 'python'), join(import.meta.dirname, script)];
}

/**
 * Two of PyTorch 2.14's libraries carry cpuinfo, and FBGEMM 1.9 fills in the one and reads the other: it then takes the CPU for one without AVX, and
 * its reference loops, 20 times slower. With libc10 loaded first, both are the same.
 */
export function fbgemmEnvironment(): Record<string, string> {
  const root = join(PEERS_DIR, 'fbgemm', 'lib');
  const [python] = existsSync(root) ? readdirSync(root) : [];
  return python === undefined ? {} : { LD_PRELOAD: join(root, python, 'site-packages', 'torch', 'lib', 'libc10.so') };
}

export const binary = (name: string): string[] => [join(PEERS_DIR, name)];

/** Runs this process, and the peers that it starts, on one core; says so, or why not. */
export function pinTo(core: number): string {
  const { status } = spawnSync('taskset', ['-apc', String(core), String(process.pid)], { stdio: 'ignore' });
  return status === 0 ? `all on core ${core}` : 'not pinned to a core: taskset failed or is missing';
}
