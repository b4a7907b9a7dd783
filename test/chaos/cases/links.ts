import { setTimeout as sleep } from 'node:timers/promises';
import { type Case, MS, type Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import type { Load } from '../load.js';
import { ChaosNetwork } from '../network.js';
import { descriptorsOf } from '../processes.js';
import { BACK_MS, checkBack } from '../recovery.js';
import { checkPromise, failuresOf, underLoad } from '../under-load.js';

const HEALTHY_MS = 700;
/** Longer than TCP's retransmissions and the heartbeats take to find out. */
const CUT_MS = 2500;
const LOSSY_MS = 3000;
/** A frame that TCP sends again comes after 200 ms at the earliest when nothing follows it. */
const LOSSY_DEADLINE_MS = 1000;
const MAIN = 0;
/** Of shard 1, where shards have no replicas. */
const SECOND = 2;

interface Networked {
  readonly network: ChaosNetwork;
  readonly cluster: ChaosCluster;
  readonly load: Load;
}

/** Two shards on hosts of their own, and load on them. */
async function networked(stage: Stage, replicas: number, deadlineMs?: number): Promise<Networked> {
  const network = await ChaosNetwork.open(2 * replicas, stage.seed);
  stage.defer(() => network.close());
  const cluster = await ChaosCluster.start(stage, { network, replicas });
  const main = await openMain(stage, cluster.plan);
  const load = underLoad(stage, main, deadlineMs === undefined ? {} : { deadlineMs });
  await sleep(HEALTHY_MS);
  return { network, cluster, load };
}

/** The end of a fault, and what has to hold after it. */
async function healed(stage: Stage, load: Load, what: string): Promise<void> {
  const healedAt = performance.now();
  await sleep(2 * BACK_MS);
  await load.stop();
  stage.saw(failuresOf(load.window()));
  checkBack(stage, load, healedAt, what);
  checkPromise(stage, load);
}

const lossCase = (percent: number): Case => ({
  name: `loss-${percent}`,
  does: `${percent} % of all frames between main and shards are lost, each way, under load with a deadline of 1 s`,
  required: 'requests end right or typed by their deadline; at least 99 % of them right',
  needs: ['network'],
  async run(stage) {
    const { network, load } = await networked(stage, 1, LOSSY_DEADLINE_MS);
    const lossyAt = performance.now();
    await network.everywhere({ delayMs: 0, lossPercent: percent });
    await sleep(stage.long ? 10 * LOSSY_MS : LOSSY_MS);
    await load.stop();
    const { lost } = await network.network.counters();
    const during = load.window(lossyAt);
    stage.expect(lost > 0, 'no frame was lost');
    stage.expect(during.right >= 0.99 * during.total, `only ${during.right} of ${during.total} right`);
    stage.figure('rightShare', during.right / during.total);
    stage.saw(
      `${lost} frames lost; ${during.right} of ${during.total} right (${failuresOf(during)}), P50 ${MS(during.p50)}, P99 ${MS(during.p99)}`,
    );
    checkPromise(stage, load);
  },
});

const roundTrip: Case = {
  name: 'round-trip-50',
  alone: true,
  does: '25 ms each way between main and shards, under load',
  required: 'no request that is sent 1 s after the change fails; P50 is one round trip and at most 10 ms',
  needs: ['network'],
  async run(stage) {
    const { network, load } = await networked(stage, 1);
    await network.everywhere({ delayMs: 25 });
    await sleep(1000);
    const farAt = performance.now();
    await sleep(2000);
    await load.stop();
    const during = load.window(farAt);
    stage.expect(during.failed === 0, `${during.failed} of ${during.total} failed: ${failuresOf(during)}`);
    stage.expect(during.p50 >= 50 && during.p50 <= 60, `P50 was ${MS(during.p50)}`);
    stage.saw(`${during.failed} of ${during.total} failed, P50 ${MS(during.p50)}, P99 ${MS(during.p99)}`);
    checkPromise(stage, load);
  },
};

const partition: Case = {
  name: 'partition',
  does: 'no frame passes between main and a shard that has no replica for 2.5 s; then all do',
  required: 'requests end typed by their deadline; right answers within 1 s after it heals',
  needs: ['network'],
  async run(stage) {
    const { network, load } = await networked(stage, 1);
    await network.cut(SECOND);
    await sleep(CUT_MS);
    await network.heal(SECOND);
    await healed(stage, load, 'it healed');
  },
};

/** The way to the shard is cut, then the way back. */
const oneWay: Case = {
  name: 'partition-one-way',
  does: 'frames pass between main and a shard that has no replica in one direction only, for 2.5 s; then the same in the other',
  required: 'requests end typed by their deadline; right answers within 1 s after it heals',
  needs: ['network'],
  boundMs: 40_000,
  async run(stage) {
    for (const [from, to] of [
      [MAIN, SECOND],
      [SECOND, MAIN],
    ] as const) {
      const { network, load } = await networked(stage, 1);
      await network.cutOneWay(from, to);
      await sleep(CUT_MS);
      await network.heal(SECOND);
      await healed(stage, load, from === MAIN ? 'the way to the shard healed' : 'the way back healed');
    }
  },
};

const partitionReplica: Case = {
  name: 'partition-replica',
  alone: true,
  does: 'no frame passes between main and one of two replicas of a shard for 2.5 s; then all do',
  required: 'requests fail for at most the first second, typed; none fails after it heals',
  needs: ['network'],
  async run(stage) {
    const { network, cluster, load } = await networked(stage, 2);
    const cutAt = performance.now();
    const host = cluster.hostOf(1, 0);
    await network.cut(host);
    await sleep(CUT_MS);
    await network.heal(host);
    await sleep(2 * BACK_MS);
    await load.stop();
    const failedMs = Math.max(0, load.lastFailedAt - cutAt);
    const all = load.window(cutAt);
    stage.expect(failedMs <= BACK_MS, `requests failed until ${MS(failedMs)} after the cut`);
    stage.figure('failed', all.failed);
    stage.saw(`${all.failed} of ${all.total} failed (${failuresOf(all)}), the last ${MS(failedMs)} after the cut`);
    checkPromise(stage, load);
  },
};

const halfOpen: Case = {
  name: 'half-open',
  does: 'a shard that has no replica is cut off, killed and restarted at its address before the link heals: main holds a connection of which the other end knows nothing',
  required: 'requests end typed by their deadline; right answers within 1 s after it heals',
  needs: ['network'],
  async run(stage) {
    const { network, cluster, load } = await networked(stage, 1);
    await network.cut(SECOND);
    const killedAt = performance.now();
    cluster.signal('SIGKILL', 1);
    await cluster.readyAfter(killedAt, 1);
    await sleep(200);
    await network.heal(SECOND);
    await healed(stage, load, 'it healed');
  },
};

const flapping: Case = {
  name: 'flapping-link',
  does: 'the link of a shard that has no replica is cut and healed every 150 ms for 3 s (10 s in the long form)',
  required: 'requests end right or typed by their deadline; right answers within 1 s after the last; no descriptors are left open',
  needs: ['network'],
  async run(stage) {
    const { network, cluster, load } = await networked(stage, 1);
    // In the short form this process runs other cases, too.
    const pids = stage.long ? [process.pid, ...cluster.pids] : cluster.pids;
    const before = pids.map(descriptorsOf);
    for (const until = performance.now() + (stage.long ? 10_000 : 3000); performance.now() < until; ) {
      await network.cut(SECOND);
      await sleep(150);
      await network.heal(SECOND);
      await sleep(150);
    }
    await healed(stage, load, 'the last cut healed');
    const after = pids.map(descriptorsOf);
    const grown = after.map((count, at) => count - (before[at] as number));
    stage.expect(Math.max(...grown) <= 2, `descriptors grew by ${grown.join(', ')}`);
    stage.saw(`descriptors changed by ${grown.join(', ')}`);
  },
};

export const LINKS: readonly Case[] = [lossCase(1), lossCase(5), roundTrip, partition, oneWay, partitionReplica, halfOpen, flapping];
