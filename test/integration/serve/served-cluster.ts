import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Cluster, launchCluster, readModelSpec, writePlan } from '../../../src/index.js';
import { capacityPlan } from '../../reference/plans.js';

const main = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url));

/** terabag serve in a process of its own. */
export interface Served {
  readonly child: ChildProcess;
  /** HOST:PORT. */
  readonly http: string;
  readonly grpc: string;
  /** Ends it as an administrator does, and resolves to its exit code. */
  stop(): Promise<number | null>;
}

/** A plan of two shards of a bundle, each a process, and where the plan lies that names them. */
export interface RunningShards {
  readonly cluster: Cluster;
  readonly plan: string;
}

export async function launchShards(bundle: string): Promise<RunningShards> {
  const cluster = await launchCluster(capacityPlan(await readModelSpec(bundle), 2), { bundle, ephemeralPorts: true, logLevel: 'error' });
  const plan = join(bundle, 'live-plan.json');
  await writePlan(plan, cluster.plan);
  return { cluster, plan };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** Starts terabag serve with the arguments, on free ports, and waits until it is ready. */
export async function startServing(...args: readonly string[]): Promise<Served> {
  const [http, grpc] = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`];
  const child = spawn(process.execPath, [main, 'serve', ...args, '--http', http], { stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-10_000);
  });
  const exited = once(child, 'exit') as Promise<[number | null]>;
  for (const until = performance.now() + 30_000; ; await sleep(20)) {
    if (child.exitCode !== null) throw new Error(`terabag serve ended with ${child.exitCode}: ${errors}`);
    if ((await statusOf(`http://${http}/v2/health/ready`)) === 200) break;
    if (performance.now() > until) {
      child.kill('SIGKILL');
      throw new Error(`terabag serve is not ready: ${errors}`);
    }
  }
  const stop = async (): Promise<number | null> => {
    child.kill('SIGTERM');
    return (await exited)[0];
  };
  return { child, http, grpc, stop };
}

const statusOf = (url: string): Promise<number | null> =>
  fetch(url).then(
    async (response) => {
      await response.arrayBuffer();
      return response.status;
    },
    () => null,
  );
