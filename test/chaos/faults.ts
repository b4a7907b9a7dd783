import { setTimeout as sleep } from 'node:timers/promises';
import type { ShardedPredictor } from '../../src/index.js';
import type { ChaosCluster } from './cluster.js';
import type { ChaosNetwork } from './network.js';
import { dutyCycle, signalTo } from './processes.js';
import type { ServedModel } from './served-model.js';
import { rawConnection } from './zmtp.js';

/** What faults are done to. */
export interface Target {
  readonly cluster: ChaosCluster;
  readonly main: ShardedPredictor;
  readonly model: ServedModel;
  /** Null without the privileges for it: then there are no faults of links. */
  readonly network: ChaosNetwork | null;
}

/** One replica, by its number among all. */
export interface Fault {
  readonly name: string;
  readonly needsNetwork?: boolean;
  /** Over when it resolves. */
  run(target: Target, shard: number, replica: number): Promise<void>;
}

const TENTH = { runMs: 3, stopMs: 27 };

async function onLink(
  { cluster, network }: Target,
  shard: number,
  replica: number,
  ms: number,
  path: { delayMs: number; lossPercent?: number },
): Promise<void> {
  const host = cluster.hostOf(shard, replica);
  await network?.between(host, path);
  await sleep(ms);
  await network?.heal(host);
}

async function garbage({ cluster }: Target, shard: number, replica: number): Promise<void> {
  for (let count = 0; count < 50; count++) {
    const socket = await rawConnection(cluster.endpoint(shard, replica)).catch(() => null);
    socket?.write(Buffer.alloc(1000, count));
    await sleep(20);
    socket?.destroy();
  }
}

async function aborts({ main, model }: Target): Promise<void> {
  for (let count = 0; count < 500; count++) {
    const controller = new AbortController();
    const asked = main.predict(model.requests[count % model.requests.length] as never, { signal: controller.signal });
    asked.catch(() => undefined);
    if (count % 2 === 0) controller.abort();
    else setTimeout(() => controller.abort(), 1);
    if (count % 10 === 0) await sleep(2);
  }
}

function stall(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until; );
}

/** Faults of one replica at a time, whose shard has another; each is over within 5 s. */
export const FAULTS: readonly Fault[] = [
  { name: 'kill -9', run: async ({ cluster }, shard, replica) => cluster.signal('SIGKILL', shard, replica) },
  { name: 'SIGTERM', run: async ({ cluster }, shard, replica) => cluster.signal('SIGTERM', shard, replica) },
  {
    name: 'SIGSTOP for 3 s',
    async run({ cluster }, shard, replica) {
      const pid = cluster.pid(shard, replica);
      signalTo(pid, 'SIGSTOP');
      await sleep(3000);
      signalTo(pid, 'SIGCONT');
    },
  },
  {
    name: 'a tenth of the speed for 3 s',
    async run({ cluster }, shard, replica) {
      const end = dutyCycle(cluster.pid(shard, replica), TENTH);
      await sleep(3000);
      end();
    },
  },
  {
    name: 'cut off for 3 s',
    needsNetwork: true,
    run: (target, shard, replica) => onLink(target, shard, replica, 3000, { delayMs: 0, lossPercent: 100 }),
  },
  {
    name: '5 % loss for 3 s',
    needsNetwork: true,
    run: (target, shard, replica) => onLink(target, shard, replica, 3000, { delayMs: 0, lossPercent: 5 }),
  },
  {
    name: '20 ms each way for 3 s',
    needsNetwork: true,
    run: (target, shard, replica) => onLink(target, shard, replica, 3000, { delayMs: 20 }),
  },
  {
    name: 'cut off one way for 3 s',
    needsNetwork: true,
    async run({ cluster, network }, shard, replica) {
      const host = cluster.hostOf(shard, replica);
      await network?.cutOneWay(host, 0);
      await sleep(3000);
      await network?.heal(host);
    },
  },
  { name: '50 strangers that speak no ZMTP', run: garbage },
  { name: '500 aborted requests', run: aborts },
  { name: "main's event loop held for 200 ms", run: async () => stall(200) },
];
