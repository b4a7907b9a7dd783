import { appendFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { positiveInteger, positiveNumber } from '../../src/cli/options.js';
import { emulationSupport } from '../../src/lab/index.js';
import { random } from '../reference/small-model.js';
import type { Case, Stage } from './case.js';
import { ChaosCluster, openMain } from './cluster.js';
import { FAULTS, type Fault, type Target } from './faults.js';
import { capacityOf, Load } from './load.js';
import { ChaosNetwork } from './network.js';
import { descriptorsOf, rssOf } from './processes.js';
import { removeModel, writeServedModel } from './served-model.js';
import { runCase, undoAll } from './stage.js';

// Every answer is checked; afterwards memory, descriptors and heap have to be flat over the second half.

const EVERY_MS = 10_000;
const SAMPLE_MS = 1000;
const MODEL_SEED = 71;
const DEADLINE_MS = 500;
const SHARDS = 2;
const REPLICAS = 2;
const MEASURE_MS = 3000;
/** Over the second half. */
const MOST_GROWTH = 0.01;
/** Below so much, in units of each series, growth is noise: a page cache of malloc, a descriptor of a reconnect. */
const NOISE = { 'main RSS': 4e6, 'main heap': 1e6, 'main descriptors': 1, 'shard RSS': 2e6, 'shard descriptors': 1 } as const;
type Series = keyof typeof NOISE;

interface SoakOptions {
  readonly minutes: number;
  readonly seed?: number;
  readonly qps?: number;
  readonly out?: string;
}

const {
  minutes,
  seed = 1 + (Date.now() % 1_000_000),
  ...values
} = new Command('npm run soak --')
  .description(
    'Requests without a pause under a random fault every 10 s, whose answers are checked, while memory and descriptors are watched.',
  )
  .option('--minutes <n>', 'how long', positiveNumber, 10)
  .option('--seed <n>', 'of requests and faults (default: another one each time)', positiveInteger)
  .option('--qps <n>', 'requests a second (default: half of what is measured)', positiveNumber)
  .option('--out <path>', 'write the results to PATH.json, and a line a minute to PATH.log')
  .addHelpText('after', '\nExample:\n  npm run soak -- --minutes 120 --out soak')
  .parse()
  .opts<SoakOptions>();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => void undoAll().finally(() => process.exit(1)));

type Sample = Record<Series, number>;

/** Of the shards, the median: one that was just started has less. */
const median = (numbers: readonly number[]): number => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;

function sample(cluster: ChaosCluster): Sample {
  // Garbage that nobody collected yet is no growth.
  (globalThis as { gc?: () => void }).gc?.();
  const { rss, heapUsed } = process.memoryUsage();
  return {
    'main RSS': rss,
    'main heap': heapUsed,
    'main descriptors': descriptorsOf(process.pid),
    'shard RSS': median(cluster.pids.map(rssOf)),
    'shard descriptors': median(cluster.pids.map(descriptorsOf)),
  };
}

/** From the third to the fourth quarter of the time, as a share of the third's. */
function growthOf(samples: readonly Sample[], series: Series): { readonly before: number; readonly after: number; readonly flat: boolean } {
  const quarter = (from: number, to: number): number =>
    median(samples.slice(Math.floor(samples.length * from), Math.floor(samples.length * to)).map((one) => one[series]));
  const [before, after] = [quarter(0.5, 0.75), quarter(0.75, 1)];
  return { before, after, flat: after - before <= Math.max(NOISE[series], MOST_GROWTH * before) };
}

async function faultsOf(target: Target, load: Load, endAt: number, samples: Sample[]): Promise<void> {
  const next = random(seed);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T;
  const faults = FAULTS.filter(({ needsNetwork }) => target.network !== null || needsNetwork !== true);
  while (performance.now() < endAt) {
    const startedAt = performance.now();
    const fault: Fault = pick(faults);
    const [shard, replica] = [Math.floor(next() * SHARDS), Math.floor(next() * REPLICAS)];
    const running = fault.run(target, shard, replica);
    while (performance.now() < startedAt + EVERY_MS) {
      await sleep(SAMPLE_MS);
      samples.push(sample(target.cluster));
    }
    await running;
    if (load.behindMs > EVERY_MS)
      throw new Error(
        `this machine cannot send so many requests: they are ${Math.round(load.behindMs / 1000)} s late; ask for fewer (--qps)`,
      );
    const { failed, total, p50, p99 } = load.window(startedAt);
    const line = `${new Date().toISOString()} ${fault.name} on ${shard}.${replica}: ${failed} of ${total} failed, P50 ${p50.toFixed(2)} P99 ${p99.toFixed(1)} ms`;
    console.log(line);
    if (values.out !== undefined) await appendFile(values.out.replace(/(\.json)?$/, '.log'), `${line}\n`);
  }
}

function judge(stage: Stage, load: Load, samples: readonly Sample[]): void {
  const { right = 0, ...others } = load.totals;
  for (const bad of ['wrong', 'untyped', 'hung', 'internal'])
    stage.expect(others[bad] === undefined, `${others[bad]} requests ended as ${bad}`);
  stage.expect(load.late === 0, `${load.late} requests ended later than their deadline`);
  const total = Object.values(load.totals).reduce((sum, count) => sum + count, 0);
  stage.saw(`${total} requests, ${right} right, ${JSON.stringify(others)}`);
  for (const series of Object.keys(NOISE) as Series[]) {
    const { before, after, flat } = growthOf(samples, series);
    const change = `${series} ${before} to ${after} (${(((after - before) / before) * 100).toFixed(2)} %)`;
    stage.expect(flat, `it grew: ${change}`);
    stage.saw(change);
    stage.figure(series, (after - before) / before);
  }
}

const model = await writeServedModel(MODEL_SEED);
const support = await emulationSupport();
const soak: Case = {
  name: 'soak',
  does: `half of the load for ${minutes} minutes, with a random fault every ${EVERY_MS / 1000} s on one of ${REPLICAS} replicas of ${SHARDS} shards`,
  required: 'no answer is wrong; memory, descriptors and heap are flat within 1 % over the second half',
  boundMs: minutes * 60_000 + 60_000,
  async run(stage) {
    const network = support.network === null ? await ChaosNetwork.open(SHARDS * REPLICAS, seed) : null;
    if (network === null) console.log(`links stay as they are: ${support.network}`);
    else stage.defer(() => network.close());
    const cluster = await ChaosCluster.start(stage, { shards: SHARDS, replicas: REPLICAS, ...(network && { network }) });
    const main = await openMain(stage, cluster.plan);
    const capacity = await capacityOf(main, [model], MEASURE_MS);
    const qps = values.qps ?? capacity / 2;
    console.log(`seed ${seed}, ${Math.round(qps)} requests a second of at most ${Math.round(capacity)}`);
    const load = new Load({
      predictor: main,
      models: [model],
      qps,
      deadlineMs: DEADLINE_MS,
      seed,
      keep: Math.ceil((qps * 2 * EVERY_MS) / 1000),
    });
    stage.defer(() => load.stop());
    const samples: Sample[] = [];
    const { eventLoopUtilization } = performance;
    const before = eventLoopUtilization();
    await faultsOf({ cluster, main, model, network }, load, performance.now() + minutes * 60_000, samples);
    stage.saw(
      `this event loop, that of main and of the load, was busy for ${(eventLoopUtilization(before).utilization * 100).toFixed(0)} % of the time`,
    );
    await load.stop();
    judge(stage, load, samples);
    stage.saw(JSON.stringify(main.stats()));
  },
};
const result = await runCase(soak, { seed, long: false, qps: 0, capacity: 0, model, support });
await removeModel(model);
console.log(
  `${result.verdict}, seed ${seed}\n${[...result.failures.map((failure) => `NOT: ${failure}`), ...result.seen.split('; ')].join('\n')}`,
);
if (values.out !== undefined)
  await writeFile(values.out.replace(/(\.json)?$/, '.json'), `${JSON.stringify({ minutes, ...result }, null, 2)}\n`);
process.exit(result.verdict === 'holds' ? 0 : 1);
