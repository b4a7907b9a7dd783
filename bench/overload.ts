import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Cluster, launchCluster } from '../src/cluster/launch.js';
import { native } from '../src/engine/native.js';
import { TerabagError } from '../src/errors.js';
import { arrivalTimes } from '../src/lab/load/arrivals.js';
import { summarize } from '../src/lab/report/quantiles.js';
import { readModelSpec } from '../src/model/bundle.js';
import type { Predictor, PredictRequest } from '../src/predictor/predictor.js';
import { capacityPlan } from '../test/reference/plans.js';
import { random, smallRequest, writeSmallModel } from '../test/reference/small-model.js';
import { type Line, median, quartileSpread, type Suite } from './suite.js';
import { connectTarget } from './targets.js';

const SHARDS = 2;
/** Times what callers who wait for each answer get. */
const OFFERED = [0.5, 0.8, 1, 1.5, 2, 3] as const;
const FULL = { distinct: 512, runMs: 1000, pauseMs: 100 };
const QUICK = { distinct: 64, runMs: 150, pauseMs: 50 };
/** Enough to keep main and its shards busy. */
const CALLERS = 64;
const PATIENT_MS = 10_000;

interface Mix {
  readonly name: string;
  readonly description: string;
  readonly deadlineMs: number;
  /** Items of the n-th request. */
  readonly items: (n: number) => number;
}

const MIXES: readonly Mix[] = [
  { name: 'small', description: '4 items, deadline 50 ms', deadlineMs: 50, items: () => 4 },
  { name: 'patient', description: '4 items, deadline 1 s', deadlineMs: 1000, items: () => 4 },
  {
    name: 'mixed',
    description: '4 items, but 2,000 in one request of 32; deadline 50 ms',
    deadlineMs: 50,
    items: (n) => (n % 32 === 31 ? 2000 : 4),
  },
];

/** What became of the requests that were due within a run. */
interface Outcome {
  /** Answered within their deadlines, a second. */
  readonly goodput: number;
  /** Shares of all requests. */
  readonly refused: number;
  readonly late: number;
  /** Of those that were answered, ms; NaN when none was. */
  readonly p50: number;
  readonly p99: number;
  readonly rssBytes: number;
}

export const overloadSuite: Suite = {
  name: 'overload',
  description: `${OFFERED[0]} to ${OFFERED.at(-1)} times the requests that ${SHARDS} shards on this machine answer, sent whether or not earlier ones are answered`,
  async *run({ quick, rounds, wanted }) {
    const model = await writeSmallModel(61);
    const plan = capacityPlan(await readModelSpec(model.dir), SHARDS);
    const cluster = await launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error' });
    try {
      for (const mix of MIXES.filter(({ name }) => wanted.test(name)))
        yield* linesOf(mix, await measureMix(mix, cluster, model.dir, quick ? QUICK : FULL, rounds));
    } finally {
      await cluster.stop();
      await rm(model.dir, { recursive: true });
    }
  },
};

/** By round, what each rate gave; the first round warms up. Rates are those of the round: neighbours on the machine come and go. */
async function measureMix(mix: Mix, cluster: Cluster, bundle: string, lengths: typeof FULL, rounds: number): Promise<Outcome[][]> {
  const next = random(17);
  const requests = Array.from({ length: lengths.distinct }, (_, n) => smallRequest(next, mix.items(n)));
  const { predictor, close } = await connectTarget(mix.name, cluster, { bundle });
  const outcomes: Outcome[][] = [];
  try {
    for (let round = -1; round < rounds; round++) {
      const capacity = await answeredAtMost(predictor, requests, lengths.runMs);
      const own: Outcome[] = [];
      for (const [n, times] of OFFERED.entries()) {
        const seed = 1 + OFFERED.length * (round + 1) + n;
        own.push(await offer(predictor, requests, { qps: times * capacity, seed, runMs: lengths.runMs, deadlineMs: mix.deadlineMs }));
        await sleep(lengths.pauseMs);
      }
      if (round >= 0) outcomes.push(own);
    }
  } finally {
    await close();
  }
  return outcomes;
}

/** Answers a second for callers who wait for each. */
async function answeredAtMost(predictor: Predictor, requests: readonly PredictRequest[], ms: number): Promise<number> {
  const startedAt = performance.now();
  let answered = 0;
  const caller = async (): Promise<void> => {
    while (performance.now() - startedAt < ms) {
      await predictor.predict(requests[answered % requests.length] as PredictRequest, { deadlineMs: PATIENT_MS });
      answered++;
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
  return (answered * 1000) / (performance.now() - startedAt);
}

interface Offer {
  readonly qps: number;
  readonly seed: number;
  readonly runMs: number;
  readonly deadlineMs: number;
}

/**
 * Deadlines count from when requests are due. All that are due are sent in one turn of the event loop, as they would come from sockets; between
 * turns the loop sleeps, since shards need the processors of this machine, too.
 */
async function offer(predictor: Predictor, requests: readonly PredictRequest[], { qps, seed, runMs, deadlineMs }: Offer): Promise<Outcome> {
  const latencies: number[] = [];
  const ended: Record<string, number> = { overloaded: 0, deadline_exceeded: 0 };
  const fail = (error: unknown): void => {
    const { code } = TerabagError.from(error);
    ended[code] = (ended[code] ?? 0) + 1;
    waiting--;
  };
  let [sent, waiting] = [0, 0];
  const send = (dueAt: number): void => {
    const request = requests[sent++ % requests.length] as PredictRequest;
    waiting++;
    const remainingMs = dueAt + deadlineMs - performance.now();
    if (remainingMs <= 0) fail(new TerabagError('deadline_exceeded', 'the deadline passed before the event loop came to it'));
    else
      predictor.predict(request, { deadlineMs: remainingMs }).then(() => {
        latencies.push(performance.now() - dueAt);
        waiting--;
      }, fail);
  };
  const startedAt = performance.now();
  let now = startedAt;
  for (const offset of arrivalTimes({ process: 'poisson', qps, seed })) {
    if (offset >= runMs) break;
    for (; now < startedAt + offset; now = performance.now()) await sleep(1);
    send(startedAt + offset);
  }
  while (waiting > 0) await sleep(1);
  const others = Object.keys(ended).filter((code) => code !== 'overloaded' && code !== 'deadline_exceeded');
  if (others.length > 0) throw new Error(`requests failed otherwise than by overload: ${others.join(', ')}`);
  const inTime = latencies.filter((ms) => ms <= deadlineMs).length;
  const { p50, p99 } = latencies.length > 0 ? summarize(latencies) : { p50: Number.NaN, p99: Number.NaN };
  return {
    goodput: (inTime * 1000) / runMs,
    refused: (ended['overloaded'] as number) / sent,
    late: ((ended['deadline_exceeded'] as number) + latencies.length - inTime) / sent,
    p50,
    p99,
    rssBytes: process.memoryUsage.rss(),
  };
}

function* linesOf({ name, description }: Mix, outcomes: readonly Outcome[][]): Generator<Line> {
  const best = outcomes.map((own) => Math.max(...own.map(({ goodput }) => goodput)));
  const base = { suite: 'overload', peer: null, ratio: null, isa: native.isa, threads: 1, residency: 'populate' } as const;
  for (const [n, times] of OFFERED.entries()) {
    const own = outcomes.map((round) => round[n] as Outcome);
    const of = (pick: (outcome: Outcome) => number): number => median(own.map(pick));
    const goodputs = own.map(({ goodput }) => goodput);
    const ofBest = median(goodputs.map((goodput, round) => goodput / (best[round] as number)));
    const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
    const shares = `refused ${percent(of(({ refused }) => refused))}, late ${percent(of(({ late }) => late))}`;
    const latency = `p50 ${of(({ p50 }) => p50).toFixed(1)} ms, p99 ${of(({ p99 }) => p99).toFixed(1)} ms`;
    const against = `${percent(ofBest)} of the best; ${shares}; ${latency}; ${Math.round(of(({ rssBytes }) => rssBytes) / 2 ** 20)} MiB`;
    const value = median(goodputs);
    const params = { description, times, ofBest, against };
    yield { ...base, case: `${name}-${times}x`, params, metric: 'goodput', unit: '/s', value, spread: quartileSpread(goodputs) / value };
  }
}
