import { rm } from 'node:fs/promises';
import { native } from '../src/engine/native.js';
import { HostNetwork, type NetworkCounters, type NetworkOptions } from '../src/lab/hosts/host-network.js';
import { emulationSupport, launchOnHosts } from '../src/lab/hosts/hosts.js';
import { readModelSpec } from '../src/model/bundle.js';
import { connect } from '../src/predictor/sharded.js';
import { EchoHost, REPLY_BYTES } from '../test/reference/echo-host.js';
import { capacityPlan } from '../test/reference/plans.js';
import { random, smallRequest, writeSmallModel } from '../test/reference/small-model.js';
import type { Line, Suite } from './suite.js';

const DELAYS_MS = [0, 1, 5];
const LOSSES_PERCENT = [0.1, 1];
const LOSS_PATIENCE_MS = 50;
const DEADLINE_MS = 1000;

type Figures = readonly (readonly [metric: string, unit: string, value: number])[];

const linesOf = (name: string, params: Line['params'], figures: Figures): Line[] =>
  figures.map(([metric, unit, value]) => ({
    ...{ suite: 'hosts', case: `${name}: ${metric}`, params, metric, unit, value, peer: null, ratio: null, spread: null },
    ...{ isa: native.isa, threads: 1, residency: 'none' },
  }));

const wayOf = ({ delayMs, lossPercent = 0 }: NetworkOptions): string => `${delayMs} ms ${lossPercent} %`;

const quantile = (samples: readonly number[], q: number): number =>
  [...samples].sort((a, b) => a - b)[Math.min(samples.length - 1, Math.floor(q * samples.length))] ?? Number.NaN;

async function withEcho<T>(options: NetworkOptions, use: (echo: EchoHost, network: HostNetwork) => Promise<T>): Promise<T> {
  const network = await HostNetwork.open(1, options);
  try {
    const echo = await EchoHost.start(network, 1);
    return await use(echo, network).finally(() => echo.stop());
  } finally {
    await network.close();
  }
}

/** Frames and CPU of the switch while something runs. */
async function costOf(network: HostNetwork, work: () => Promise<unknown>): Promise<{ frames: number; cpuMs: number; lost: number }> {
  const before = await network.counters();
  await work();
  const after = await network.counters();
  const difference = (of: keyof NetworkCounters): number => after[of] - before[of];
  return { frames: difference('accepted'), cpuMs: difference('cpuMs'), lost: difference('lost') };
}

const roundTrips = (delayMs: number, count: number): Promise<Line[]> =>
  withEcho({ delayMs }, async (echo, network) => {
    await echo.roundTrips(20);
    let trips: number[] = [];
    const { frames, cpuMs } = await costOf(network, async () => {
      trips = await echo.roundTrips(count);
    });
    return linesOf(`trip ${2 * delayMs} ms`, { delayMs, count }, [
      ['P1', 'ms', quantile(trips, 0.01)],
      ['P50', 'ms', quantile(trips, 0.5)],
      ['P99', 'ms', quantile(trips, 0.99)],
      ['switch CPU', 'us/frame', (cpuMs * 1000) / frames],
    ]);
  });

/** Lost one way, from what came back of what was sent: a datagram makes the way twice. */
const loss = (lossPercent: number, count: number): Promise<Line[]> =>
  withEcho({ delayMs: 0, lossPercent }, async (echo, network) => {
    let came = 0;
    const { frames, lost } = await costOf(network, async () => {
      came = await echo.exchange(count, LOSS_PATIENCE_MS);
    });
    return linesOf(`loss ${lossPercent} %`, { lossPercent, count }, [
      ['seen by the sender', '%', 100 * (1 - Math.sqrt(came / count))],
      ['counted by the switch', '%', (100 * lost) / frames],
      ['frames', '1', frames],
    ]);
  });

const throughput = (options: NetworkOptions, count: number): Promise<Line[]> =>
  withEcho(options, async (echo, network) => {
    await echo.replies(3);
    let took: number[] = [];
    const { frames, cpuMs, lost } = await costOf(network, async () => {
      took = await echo.replies(count);
    });
    const totalMs = took.reduce((sum, ms) => sum + ms, 0);
    return linesOf(`1 MiB ${wayOf(options)}`, { ...options, count }, [
      ['P50', 'ms', quantile(took, 0.5)],
      ['P99', 'ms', quantile(took, 0.99)],
      ['throughput', 'MB/s', (count * REPLY_BYTES) / 1e6 / (totalMs / 1e3)],
      ['switch CPU', 'us/frame', (cpuMs * 1000) / frames],
      ['switch CPU', 'cores', cpuMs / totalMs],
      ['lost', 'frames', lost],
    ]);
  });

/** A small model on 2 shards, one request at a time. */
async function predictions(options: NetworkOptions, count: number): Promise<Line[]> {
  const { dir } = await writeSmallModel(3);
  const cluster = await launchOnHosts(capacityPlan(await readModelSpec(dir), 2), {
    bundle: dir,
    logLevel: 'error',
    hosts: { network: options },
  });
  try {
    const predictor = await connect(cluster.plan, { bundle: dir });
    const next = random(5);
    const took: number[] = [];
    let failed = 0;
    for (let number = 0; number < count; number++) {
      const startedAt = performance.now();
      await predictor.predict(smallRequest(next, 64), { deadlineMs: DEADLINE_MS }).catch(() => failed++);
      took.push(performance.now() - startedAt);
    }
    await predictor.close();
    return linesOf(`predict ${wayOf(options)}`, { ...options, shards: 2, count }, [
      ...[0.5, 0.9, 0.99, 0.999].map((q) => [`P${q * 100}`, 'ms', quantile(took, q)] as const),
      ['longest', 'ms', Math.max(...took)],
      ['beyond 200 ms', 'requests', took.filter((ms) => ms > 200).length],
      ['failed', 'requests', failed],
      ['lost', 'frames', (await cluster.networkCounters())?.lost ?? Number.NaN],
    ]);
  } finally {
    await cluster.stop();
    await rm(dir, { recursive: true });
  }
}

export const hostsSuite: Suite = {
  name: 'hosts',
  description: 'the network between emulated hosts: its delay, its losses, what goes over it, and what it costs (root)',
  async *run({ quick, wanted }) {
    const { network } = await emulationSupport();
    if (network !== null) throw new Error(`hosts cannot be emulated here: ${network}`);
    const share = quick ? 20 : 1;
    if (wanted.test('round-trip')) for (const delayMs of DELAYS_MS) yield* await roundTrips(delayMs, 1000 / share);
    if (wanted.test('loss')) for (const percent of LOSSES_PERCENT) yield* await loss(percent, 20_000 / share);
    if (wanted.test('replies')) for (const delayMs of DELAYS_MS) yield* await throughput({ delayMs }, 200 / share);
    if (wanted.test('replies')) yield* await throughput({ delayMs: 1, lossPercent: 1 }, 100 / share);
    if (!wanted.test('predict')) return;
    yield* await predictions({ delayMs: 0 }, 1000 / share);
    for (const lossPercent of [0, 1]) yield* await predictions({ delayMs: 1, lossPercent }, 2000 / share);
  },
};
