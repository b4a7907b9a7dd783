import { closeSync, openSync } from 'node:fs';
import { expect, test } from 'vitest';
import { spawnShard } from '../../../src/cluster/spawn.js';
import { launchCluster } from '../../../src/index.js';

const plan = {
  terabagPlan: 1 as const,
  strategy: 'by hand',
  model: { name: 'm', version: '1', hash: 'a'.repeat(64) },
  shards: [{ name: 's', endpoints: ['tcp://127.0.0.1:7401'] }],
  tables: [],
};
const task = {
  plan,
  shard: 's',
  replica: 0,
  bundle: './none',
  endpoint: 'tcp://127.0.0.1:*',
  logLevel: 'silent',
  verify: 'full',
  residency: 'map',
  drainMs: 10,
  standby: false,
  successorMs: 1_000,
};

test('a process that cannot be started is told with the reason of the system, once', async () => {
  const told: unknown[] = [];
  await new Promise<void>((resolve) => {
    spawnShard(
      { task: task as never, command: ['/no/such/program'] },
      {
        onReport: (report) => told.push(report),
        onExit: (reason) => {
          told.push(reason);
          setTimeout(resolve, 50);
        },
      },
    );
  });
  const message = 'process of a shard cannot be started (ENOENT): /no/such/program';
  expect(told).toEqual([
    { kind: 'refused', code: 'shard_unavailable', message, details: { path: '/no/such/program', reason: 'ENOENT' } },
    message,
  ]);
});

test.skipIf(process.platform !== 'linux')('a launch without file descriptors is refused as overloaded, with the reason', async () => {
  const held: number[] = [];
  let launching: Promise<unknown> | undefined;
  try {
    for (;;) held.push(openSync('/dev/null', 'r'));
  } catch {
    launching = launchCluster(plan, { bundle: './none', logLevel: 'silent', restart: false });
    // Told when descriptors are there again.
    launching.catch(() => undefined);
  } finally {
    for (const file of held) closeSync(file);
  }
  await expect(launching).rejects.toMatchObject({ code: 'overloaded', details: { shard: 's', reason: 'EMFILE' } });
});
