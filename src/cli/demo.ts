import { rmSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { type Cluster, launchCluster } from '../cluster/launch.js';
import { TerabagError } from '../errors.js';
import { demoShape, type ModelShape, shapeBytes } from '../lab/generate/model-shape.js';
import { RequestGenerator } from '../lab/generate/request-generator.js';
import { requestShape } from '../lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../lab/generate/synthetic-bundle.js';
import { planMap } from '../lab/report/charts/plan-map.js';
import { tailChart } from '../lab/report/charts/tail-chart.js';
import { Charts } from '../lab/report/charts.js';
import { describeMachine, machineLine } from '../lab/report/machine.js';
import { formatBytes } from '../lab/report/numbers.js';
import { dataTable, figure, renderPage } from '../lab/report/page.js';
import { planHolders } from '../lab/report/plan-holders.js';
import { type SampleSummary, summarize } from '../lab/report/quantiles.js';
import { holdersTable } from '../lab/report/sections/plans.js';
import { modelHash } from '../model/hash.js';
import type { ModelSpec } from '../model/spec.js';
import { LatencyHistogram } from '../observe/latency-histogram.js';
import type { Plan } from '../plan/file/plan.js';
import { planSummary, tableBytes } from '../plan/placement/bytes.js';
import { makePlan } from '../plan/placement/strategies.js';
import { profileFromSpec } from '../plan/profile/profile-from-spec.js';
import { openLocal } from '../predictor/local.js';
import type { Predictor } from '../predictor/predictor.js';
import { connect } from '../predictor/sharded.js';
import { refuseUnwritable, writeFileAtomic } from '../tables/atomic.js';
import { fileError } from '../tables/file-error.js';
import { checkRoom } from '../tables/output-directory.js';
import { further } from './help.js';
import { INTERRUPTED } from './interruption.js';
import { positiveByteSize, positiveInteger, quantityOption } from './options.js';
import { withProgress } from './progress.js';
import { bytes, numeric, printTable, text } from './table.js';

interface DemoOptions {
  readonly size: number;
  readonly shards: number;
  readonly requests: number;
  readonly output: string;
  readonly keep?: boolean;
  readonly json?: boolean;
}

const WARM_UP = 20;
const FEWEST_ITEMS = 16;
const MOST_ITEMS = 128;
const REQUEST_SEED = 7;
const REPORT_FILE = 'report.html';
/** Generous, since the demo also runs on machines that are busy. */
const DEADLINE_MS = 10_000;

export const demoCommand = new Command('demo')
  .description('make a model, shard it, rank requests, compare sharded with local scores, draw a picture')
  .addOption(quantityOption('--size <size>', 'of the tables', positiveByteSize, '1GiB'))
  .option('--shards <n>', 'sparse shards, one process each', positiveInteger, 4)
  .option('--requests <n>', 'requests to rank', positiveInteger, 300)
  .option('-o, --output <dir>', 'where the model and the picture go', 'demo-output')
  .option('--keep', 'keep the model and its plan, to try the other commands on')
  .option('--json', 'print the results as JSON')
  .addHelpText(
    'after',
    further(
      '\nExamples:\n  terabag demo\n  terabag demo --size 100MiB --shards 2 --requests 50\n  terabag demo --keep && terabag inspect demo-output/model',
    ),
  )
  .action(async (options: DemoOptions) => {
    const say = (line: string): void => (options.json ? undefined : console.log(line));
    const machine = describeMachine();
    say(machineLine(machine));
    const shape = demoShape(options.size);
    const modelDir = join(options.output, 'model');
    await checkRoom(options.output, shapeBytes(shape));
    await mkdir(options.output, { recursive: true }).catch((error: unknown) => {
      throw fileError(error, '--output: has to be a directory', options.output, 'invalid_argument');
    });
    await refuseUnwritable('--output', join(options.output, REPORT_FILE));
    await rm(modelDir, { recursive: true, force: true });
    // The shards end with this process; the model has to be removed.
    const interrupted = (): void => {
      if (!options.keep) rmSync(modelDir, { recursive: true, force: true });
      process.exit(INTERRUPTED);
    };
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupted);
    try {
      const spec = await withProgress('making the model', 'bytes', (onProgress) => writeSyntheticBundle(modelDir, shape, onProgress));
      say(
        `model: ${spec.tables.length} tables, ${formatBytes(spec.tables.reduce((sum, table) => sum + tableBytes(table), 0))} in ${modelDir}`,
      );
      const plan = makePlan('capacity-balanced', spec, modelHash(spec), profileFromSpec(spec), { shards: options.shards });
      if (!options.json)
        printTable(planSummary(plan, spec), [
          text('shard', ({ shard }) => shard),
          numeric('tables', ({ tables }) => tables),
          bytes('size', (held) => held.bytes),
        ]);
      const results = await rank(plan, modelDir, shape, options, say);
      const report = await draw(options, spec, results.plan, results.latencies, machineLine(machine));
      if (report !== null) say(`picture: ${report}`);
      if (options.json) {
        const latencies = Object.fromEntries(results.latencies.map(({ name, milliseconds }) => [name, summarize(milliseconds)]));
        console.log(
          JSON.stringify({
            machine,
            plan: planSummary(results.plan, spec),
            requests: options.requests,
            equal: results.equal,
            latenciesMs: latencies,
            report,
          }),
        );
      }
      if (results.equal !== options.requests)
        throw new TerabagError(
          'internal',
          `sharded and local scores differ: ${options.requests - results.equal} of ${options.requests} requests`,
        );
      if (options.keep) say(`kept: ${modelDir}; try: terabag inspect ${modelDir}`);
    } finally {
      if (!options.keep) await rm(modelDir, { recursive: true, force: true });
    }
  });

interface Results {
  readonly plan: Plan;
  readonly equal: number;
  readonly latencies: { readonly name: string; readonly milliseconds: number[] }[];
}

async function rank(plan: Plan, bundle: string, shape: ModelShape, options: DemoOptions, say: (line: string) => void): Promise<Results> {
  const cluster = await withProgress('launching shards', 'shards', (onProgress) => {
    let ready = 0;
    return launchCluster(plan, {
      bundle,
      ephemeralPorts: true,
      onEvent: ({ what }) => what === 'ready' && onProgress(++ready, plan.shards.length),
    });
  });
  try {
    say(describePlan(cluster));
    const local = await withProgress('opening the model', 'bytes', (onProgress) => openLocal(bundle, { onProgress }));
    const sharded = await connect(cluster.plan, { bundle });
    try {
      const results = await withProgress('ranking', 'requests', (onProgress) =>
        compare(local, sharded, shape, options.requests, onProgress),
      );
      sayResults(results, options, say);
      return { plan: cluster.plan, ...results };
    } finally {
      await sharded.close();
      await local.close();
    }
  } finally {
    await cluster.stop();
  }
}

const describePlan = ({ shards }: Cluster): string =>
  `shards: ${shards.map(({ name, pid, endpoint }) => `${name} (pid ${pid}) at ${endpoint}`).join(', ')}`;

/** Each request goes to both predictors, one after the other, in alternating order. */
async function compare(
  local: Predictor,
  sharded: Predictor,
  shape: ModelShape,
  requests: number,
  onProgress: (done: number, total: number) => void,
): Promise<Omit<Results, 'plan'>> {
  const generator = new RequestGenerator(requestShape(shape), REQUEST_SEED);
  const latencies = [
    { name: 'local', predictor: local, milliseconds: [] as number[] },
    { name: 'sharded', predictor: sharded, milliseconds: [] as number[] },
  ];
  let equal = 0;
  for (let n = -WARM_UP; n < requests; n++) {
    const request = generator.next(FEWEST_ITEMS + (((n + WARM_UP) * 37) % (MOST_ITEMS - FEWEST_ITEMS + 1)));
    const scores: Float32Array[] = [];
    for (const { predictor, milliseconds } of n % 2 === 0 ? latencies : latencies.toReversed()) {
      const startedAt = performance.now();
      scores.push((await predictor.predict(request, { deadlineMs: DEADLINE_MS })).scores);
      if (n >= 0) milliseconds.push(performance.now() - startedAt);
    }
    if (n >= 0 && sameBits(scores[0] as Float32Array, scores[1] as Float32Array)) equal++;
    onProgress(Math.max(0, n + 1), requests);
  }
  return { equal, latencies: latencies.map(({ name, milliseconds }) => ({ name, milliseconds })) };
}

function sameBits(a: Float32Array, b: Float32Array): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));
}

const milliseconds = (value: number): string => value.toFixed(2);
const latencyRow = (name: string, { p50, p90, p99, max }: SampleSummary): string[] => [name, ...[p50, p90, p99, max].map(milliseconds)];

function sayResults({ equal, latencies }: Omit<Results, 'plan'>, { requests }: DemoOptions, say: (line: string) => void): void {
  say(`${requests} requests of ${FEWEST_ITEMS} to ${MOST_ITEMS} items, one at a time, ms: P50 P90 P99 max`);
  for (const { name, milliseconds } of latencies) say(`  ${latencyRow(name.padEnd(8), summarize(milliseconds)).join('  ')}`);
  say(`scores of sharded and local are the same bits: ${equal} of ${requests} requests`);
}

/** Writes the page; without ECharts there is no picture, and the demo goes on. */
async function draw(
  options: DemoOptions,
  spec: ModelSpec,
  plan: Plan,
  latencies: Results['latencies'],
  ranOn: string,
): Promise<string | null> {
  let charts: Charts;
  try {
    charts = await Charts.load();
  } catch (error) {
    process.stderr.write(`terabag: no picture: ${TerabagError.from(error).message}\n`);
    return null;
  }
  const bytes = new Map(spec.tables.map((table) => [table.name, tableBytes(table)]));
  const holders = planHolders(plan, spec);
  const tails = latencies.map(({ name, milliseconds }, n) => {
    const latency = new LatencyHistogram();
    for (const duration of milliseconds) latency.record(duration);
    return { name, latency, reference: n === 0 };
  });
  const p99s = latencies.map(({ name, milliseconds }) => `${name} ${summarize(milliseconds).p99.toFixed(2)} ms`).join(', ');
  const page = renderPage({
    title: `Terabag demo: ${spec.tables.length} tables on ${plan.shards.length} sparse shards`,
    lead: `${spec.name} ${spec.version}, ${formatBytes([...bytes.values()].reduce((sum, held) => sum + held, 0))}, plan ${plan.strategy}: ${options.requests} requests of ${FEWEST_ITEMS} to ${MOST_ITEMS} items, one at a time, by both predictors in turn.`,
    sections: [
      {
        id: 'latency',
        heading: 'Latency',
        content: [
          figure(
            { title: 'Latency down to the tail', description: `Latency by quantile. P99: ${p99s}.`, chart: tailChart(tails), size: 'full' },
            charts,
          ),
          dataTable({
            caption: 'Latency, ms',
            head: ['predictor', 'P50', 'P90', 'P99', 'max'],
            rows: latencies.map(({ name, milliseconds }) => latencyRow(name, summarize(milliseconds))),
          }),
        ],
      },
      {
        id: 'plan',
        heading: 'Plan',
        content: [
          figure(
            { title: 'What shards hold', description: `Shares of bytes: ${plan.strategy}.`, chart: planMap(holders), size: 'full' },
            charts,
          ),
          dataTable(holdersTable('Shards', holders)),
        ],
      },
    ],
    ranOn,
  });
  const path = resolve(options.output, REPORT_FILE);
  await writeFileAtomic(path, page);
  return path;
}
