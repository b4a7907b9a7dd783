import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { HttpClient } from '../../src/lab/endpoint/http-client.js';
import type { Absent, Peer } from '../suite.js';
import { PEERS_DIR, python } from './process.js';

const START_MS = 180_000;
const PROBE_MS = 2000;

/** A server in processes of its own, with a process group of its own. */
export interface ServerProcess {
  readonly url: string;
  readonly params: Readonly<Record<string, string | number>>;
  /** CPU of all its processes so far, us. */
  cpuUs(): number;
  close(): Promise<void>;
}

/** Programs that serve a DLRM beside Terabag; each says on a line of JSON where, and ends with its stdin. */
const PROGRAMS = {
  onnxruntime: { command: [process.execPath, join(import.meta.dirname, 'onnx_server.mjs')], ready: '/ready' },
  fastapi: { command: python('fastapi_server.py', 'torch'), ready: '/ready' },
  kserve: { command: python('kserve_server.py', 'kserve'), ready: '/v2/health/ready' },
  triton: { command: python('triton_server.py', 'pytriton'), ready: '/v2/health/ready' },
} as const satisfies Partial<Record<Peer, object>>;

export type ServingPeer = keyof typeof PROGRAMS;

/** Starts a peer and waits until it is ready; absent, with the reason, when it cannot run here. */
export async function startServingPeer(peer: ServingPeer, task: object): Promise<ServerProcess | Absent> {
  const { command, ready } = PROGRAMS[peer];
  const [program = ''] = command;
  if (!existsSync(program)) return { peer, note: `not installed (${program}): run node bench/peers/setup.mjs` };
  const told = { ...task, directory: join(PEERS_DIR, 'ort'), port: await freePort() };
  try {
    return await startServer([...command, JSON.stringify(told)], {
      ready,
      parse: (line) => (line.startsWith('{"url"') ? JSON.parse(line) : null),
    });
  } catch (error) {
    return { peer, note: (error as Error).message };
  }
}

interface Start {
  /** Path that answers with 200 once requests can be sent. */
  readonly ready: string;
  /** Of a line of stdout; null of one that says something else. */
  readonly parse: (line: string) => Started | null;
}

type Started = Pick<ServerProcess, 'url'> & Partial<Pick<ServerProcess, 'params'>>;

/** Rejects when it ends, or is not ready in time; the message ends with the last line that it wrote. */
export async function startServer([program = '', ...args]: readonly string[], { ready, parse }: Start): Promise<ServerProcess> {
  const child = spawn(program, args, {
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    // Triton's Python backend starts whichever python3 it finds.
    env: { ...process.env, PATH: `${dirname(program)}:${process.env['PATH'] ?? ''}` },
  });
  let last = '';
  child.stderr.on('data', (chunk: Buffer) => {
    last = chunk.toString().trim().split('\n').at(-1) ?? last;
  });
  // A bench that ends early, by Ctrl-C say, leaves no server behind.
  const orphan = (): void => killGroup(child);
  process.once('exit', orphan);
  child.once('exit', () => process.off('exit', orphan));
  const ended = once(child, 'exit');
  try {
    const { url, params = {} } = await new Promise<Started>((resolve, reject) => {
      // What it says later is read, and nobody's.
      createInterface({ input: child.stdout }).on('line', (line) => {
        const started = parse(line);
        if (started !== null) resolve(started);
      });
      void ended.then(([code]) => reject(new Error(`ended with ${code}: ${last}`)));
    });
    await untilReady(
      url,
      ready,
      () => child.exitCode !== null,
      () => last,
    );
    return { url, params, cpuUs: () => cpuUsOfGroup(child.pid as number), close: () => end(child) };
  } catch (error) {
    await end(child);
    throw error;
  }
}

async function untilReady(url: string, path: string, hasEnded: () => boolean, last: () => string): Promise<void> {
  const client = new HttpClient(new URL(url));
  const until = performance.now() + START_MS;
  try {
    for (;;) {
      if (hasEnded()) throw new Error(`ended: ${last()}`);
      const refusal = await client.call(path, { deadlineMs: PROBE_MS }).then(
        () => null,
        (error: Error) => error,
      );
      if (refusal === null) return;
      if (performance.now() > until) throw new Error(`not ready after ${START_MS} ms: ${refusal.message}; ${last()}`);
      await sleep(100);
    }
  } finally {
    client.close();
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) return;
  const ended = child.exitCode !== null || child.signalCode !== null ? null : once(child, 'exit');
  killGroup(child);
  await ended;
}

function killGroup({ pid }: ChildProcess): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch {
    // Nobody of the group is left.
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** What the scheduler counts, in ns, of the threads of all processes of a group. */
function cpuUsOfGroup(group: number): number {
  let ns = 0;
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      // PID (NAME) STATE PPID PGRP ..., and a name may hold spaces and brackets.
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]) !== group) continue;
      for (const thread of readdirSync(`/proc/${pid}/task`))
        ns += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // It ended meanwhile.
    }
  }
  return ns / 1000;
}
