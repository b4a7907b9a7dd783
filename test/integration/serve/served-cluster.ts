import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Cluster, launchCluster, readModelSpec, writePlan } from '../../../src/index.js';
import { capacityPlan } from '../../reference/plans.js';
import { type ServeProcess, startServe } from '../../reference/serve-process.js';

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

/** Starts terabag serve with the arguments, on free ports, and waits until it is ready. */
export async function startReady(...args: readonly string[]): Promise<ServeProcess> {
  const served = await startServe([...args, '--drain', '0s'], '127.0.0.1:0');
  for (const until = performance.now() + 30_000; ; await sleep(20)) {
    const { ok } = await fetch(`${served.url}/v2/health/ready`);
    if (ok) return served;
    if (performance.now() < until) continue;
    await served.end();
    throw new Error(`terabag serve is not ready: ${served.said.join('\n')}`);
  }
}
