import { setTimeout as sleep } from 'node:timers/promises';
import type { ShardedPredictor } from '../../../src/index.js';
import { type Case, MS, type Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import type { Load, Window } from '../load.js';
import { dutyCycle } from '../processes.js';
import { BACK_MS, checkBack } from '../recovery.js';
import { checkPromise, failuresOf, RESTART_MS, RESTART_QPS, underLoad } from '../under-load.js';

const BEFORE_MS = 1500;
const AFTER_MS = 1000;
/** A healthy P99 below is taken for this: what other work of the machine adds, in the short form more, says nothing of the system. */
const leastP99 = ({ long }: Stage): number => (long ? 2 : 10);
/** Runs a tenth of the time. */
const TENTH = { runMs: 3, stopMs: 27 };
/** The budget of retries and hedges: a share of the requests, and so many a second. */
const BUDGET_SHARE = 0.2;
const BUDGET_A_SECOND = 3;
/** What was asked for in one span and sent in the other. */
const BUDGET_SLACK = 0.02;

const growthOf = (stage: Stage, after: Window, before: Window): number => after.p99 / Math.max(before.p99, leastP99(stage));

function checkNoneFailed(stage: Stage, load: Load): void {
  const all = load.window();
  stage.expect(all.failed === 0, `${all.failed} of ${all.total} requests failed: ${failuresOf(all)}`);
  stage.saw(`${all.failed} of ${all.total} failed`);
}

/** Takes the process of each shard's replicas in turn, with load on all. */
async function inTurn(stage: Stage, signal: NodeJS.Signals): Promise<void> {
  const cluster = await ChaosCluster.start(stage, { replicas: 2 });
  const load = underLoad(stage, await openMain(stage, cluster.plan));
  const order: readonly (readonly [number, number])[] = [
    [0, 0],
    [1, 1],
    [0, 1],
    [1, 0],
  ];
  const growths: number[] = [];
  for (const [shard, replica] of order.slice(0, stage.long ? 4 : 2)) {
    await sleep(BEFORE_MS);
    const lostAt = performance.now();
    cluster.signal(signal, shard, replica);
    await sleep(AFTER_MS);
    await cluster.readyAfter(lostAt, shard, replica);
    const [before, after] = [load.window(lostAt - BEFORE_MS, lostAt), load.window(lostAt, lostAt + AFTER_MS)];
    growths.push(growthOf(stage, after, before));
    stage.saw(`P99 ${MS(before.p99)} before, ${MS(after.p99)} during the second after`);
  }
  await load.stop();
  stage.expect(!stage.long || Math.max(...growths) <= 3, `P99 rose ${Math.max(...growths).toFixed(1)}-fold`);
  stage.figure('p99Growth', Math.max(...growths));
  checkNoneFailed(stage, load);
  checkPromise(stage, load);
}

const killReplica: Case = {
  name: 'kill-replica',
  alone: true,
  does: 'kill -9 of processes in turn, of 2 shards with 2 replicas each, under load',
  required: 'no request fails; in the long form, P99 during the second after is at most 3 times that before',
  run: (stage) => inTurn(stage, 'SIGKILL'),
};

const killAlone: Case = {
  name: 'kill-alone',
  does: 'kill -9 of a shard that has no replica, under load',
  required: 'requests end typed by their deadline; right answers within 1 s of the ready line of the restarted shard',
  async run(stage) {
    const cluster = await ChaosCluster.start(stage);
    const load = underLoad(stage, await openMain(stage, cluster.plan));
    await sleep(BEFORE_MS / 2);
    const lostAt = performance.now();
    cluster.signal('SIGKILL', 1);
    const readyAt = await cluster.readyAfter(lostAt, 1);
    await sleep(BACK_MS + AFTER_MS);
    await load.stop();
    const during = load.window(lostAt, readyAt);
    stage.saw(`ready after ${MS(readyAt - lostAt)}, in which ${during.failed} of ${during.total} ended typed (${failuresOf(during)})`);
    checkBack(stage, load, readyAt, 'the ready line');
    checkPromise(stage, load);
  },
};

const stopContinue: Case = {
  name: 'stop-continue',
  does: 'SIGSTOP of a shard that has no replica for 1 s (3 s in the long form), then SIGCONT',
  required: 'requests end typed by their deadline; right answers within 1 s after SIGCONT',
  async run(stage) {
    const cluster = await ChaosCluster.start(stage);
    const load = underLoad(stage, await openMain(stage, cluster.plan));
    await sleep(BEFORE_MS / 2);
    cluster.signal('SIGSTOP', 1);
    await sleep(stage.long ? 3000 : 1000);
    const goesOnAt = performance.now();
    cluster.signal('SIGCONT', 1);
    await sleep(BACK_MS + AFTER_MS);
    await load.stop();
    stage.saw(failuresOf(load.window()));
    checkBack(stage, load, goesOnAt, 'SIGCONT');
    checkPromise(stage, load);
  },
};

/** Requests to shards for each request meanwhile: not all need every shard. */
async function sentPerRequest(main: ShardedPredictor, during: () => Promise<unknown>): Promise<number> {
  const before = main.stats();
  await during();
  const after = main.stats();
  return (after.sent - before.sent) / (after.requests - before.requests);
}

/** One replica of a shard is worse than healthy while load runs. */
async function worseReplica(stage: Stage, worsen: (cluster: ChaosCluster) => () => void): Promise<void> {
  const spanMs = stage.long ? 10_000 : 3000;
  const cluster = await ChaosCluster.start(stage, { replicas: 2 });
  const main = await openMain(stage, cluster.plan);
  const load = underLoad(stage, main);
  const healthy = await sentPerRequest(main, () => sleep(spanMs));
  const worseAt = performance.now();
  let mend = (): void => undefined;
  const worse = await sentPerRequest(main, async () => {
    mend = worsen(cluster);
    stage.defer(() => mend());
    await sleep(spanMs);
  });
  const endedAt = performance.now();
  const extra = worse / healthy - 1;
  mend();
  await load.stop();
  const [before, during] = [load.window(worseAt - spanMs, worseAt), load.window(worseAt, endedAt)];
  const limit = BUDGET_SHARE + BUDGET_SLACK + (BUDGET_A_SECOND * spanMs) / 1000 / Math.max(1, during.total);
  const growth = growthOf(stage, during, before);
  stage.expect(!stage.long || growth <= 1.5, `P99 rose ${growth.toFixed(1)}-fold`);
  stage.expect(extra <= limit, `${(extra * 100).toFixed(1)} % more requests to shards, the budget is ${(limit * 100).toFixed(1)} %`);
  stage.saw(`P99 ${MS(before.p99)} healthy, ${MS(during.p99)} meanwhile; ${(extra * 100).toFixed(1)} % more requests to shards`);
  stage.figure('p99Growth', growth);
  stage.figure('extraWork', extra);
  checkNoneFailed(stage, load);
  checkPromise(stage, load);
}

const slowReplica: Case = {
  name: 'slow-replica',
  alone: true,
  does: 'one of two replicas of a shard runs a tenth of the time (SIGSTOP and SIGCONT every 30 ms), under load',
  required:
    'no request fails; extra requests to shards within the budget of 20 %; in the long form, P99 is at most 1.5 times the healthy one',
  run: (stage) => worseReplica(stage, (cluster) => dutyCycle(cluster.pid(0, 0), TENTH)),
};

const stoppedReplica: Case = {
  name: 'stopped-replica',
  alone: true,
  does: 'SIGSTOP of one of two replicas of a shard, under load',
  required:
    'no request fails; extra requests to shards within the budget of 20 %; in the long form, P99 is at most 1.5 times the healthy one',
  run: (stage) =>
    worseReplica(stage, (cluster) => {
      cluster.signal('SIGSTOP', 0, 0);
      return () => cluster.signal('SIGCONT', 0, 0);
    }),
};

const allSlow: Case = {
  name: 'all-slow',
  alone: true,
  does: 'every replica of both shards runs a tenth of the time for 3 s, under load',
  required:
    'requests end right or typed by their deadline; extra requests to shards within the budget of 20 %; right answers within 1 s after it',
  async run(stage) {
    const cluster = await ChaosCluster.start(stage, { replicas: 2 });
    const main = await openMain(stage, cluster.plan);
    const load = underLoad(stage, main);
    const healthy = await sentPerRequest(main, () => sleep(BEFORE_MS));
    const slow = await sentPerRequest(main, async () => {
      const ends = cluster.pids.map((pid) => dutyCycle(pid, TENTH));
      await sleep(3000);
      for (const end of ends) end();
    });
    const extra = slow / healthy - 1;
    const overAt = performance.now();
    await sleep(BACK_MS + AFTER_MS);
    await load.stop();
    const during = load.window(overAt - 3000, overAt);
    stage.expect(extra <= BUDGET_SHARE + BUDGET_SLACK, `${(extra * 100).toFixed(1)} % more requests to shards`);
    stage.figure('extraWork', extra);
    stage.saw(
      `meanwhile ${during.right} of ${during.total} right (${failuresOf(during)}), ${(extra * 100).toFixed(1)} % more requests to shards`,
    );
    checkBack(stage, load, overAt, 'its end');
    checkPromise(stage, load);
  },
};

const sigterm: Case = {
  name: 'sigterm',
  alone: true,
  does: 'SIGTERM of processes in turn, of 2 shards with 2 replicas each, under load',
  required: 'no request fails; in the long form, P99 during the second after is at most 3 times that before',
  run: (stage) => inTurn(stage, 'SIGTERM'),
};

const sigtermAlone: Case = {
  name: 'sigterm-alone',
  does: 'SIGTERM of a shard that has no replica and is restarted, under load with a deadline of 5 s, longer than the restart takes',
  required: 'no request fails',
  async run(stage) {
    const cluster = await ChaosCluster.start(stage);
    const load = underLoad(stage, await openMain(stage, cluster.plan), { qps: Math.min(stage.qps, RESTART_QPS), deadlineMs: RESTART_MS });
    await sleep(BEFORE_MS / 2);
    const lostAt = performance.now();
    cluster.signal('SIGTERM', 1);
    const readyAt = await cluster.readyAfter(lostAt, 1);
    await sleep(AFTER_MS);
    await load.stop();
    stage.saw(`ready after ${MS(readyAt - lostAt)}`);
    checkNoneFailed(stage, load);
    checkPromise(stage, load);
  },
};

export const CRASHES: readonly Case[] = [killReplica, killAlone, stopContinue, slowReplica, stoppedReplica, allSlow, sigterm, sigtermAlone];
