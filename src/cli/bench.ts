import { Command, Option } from 'commander';
import { EndpointStacks, type ServerStages } from '../lab/endpoint/server-stages.js';
import type { NetworkCounters } from '../lab/hosts/host-network.js';
import { type BatchSchedule, scheduleBatches } from '../lab/load/batch-scheduler.js';
import { type Capacity, type CapacityOptions, findMaxQps, firstRate } from '../lab/load/capacity-search.js';
import { type Load, type LoadRun, type LoadTarget, mergeRuns } from '../lab/load/load-run.js';
import { runOpenLoopLoad } from '../lab/load/open-loop-load.js';
import { runSerialLoad } from '../lab/load/serial-load.js';
import { describeMachine, machineLine } from '../lab/report/machine.js';
import { itemsOf } from '../lab/requests/split-request.js';
import type { PredictRequest } from '../predictor/predictor.js';
import { refuseUnwritable, writeFileAtomic } from '../tables/atomic.js';
import { type BenchResult, networkLine, printResults, printStacks, probeLine, resultAsJson, scheduleLine } from './bench-table.js';
import { type BenchTarget, loadRequests, openTarget, type RequestOptions, servedModel, type TargetOptions } from './bench-target.js';
import { further } from './help.js';
import { addHostOptions, hostsOf } from './host-options.js';
import { INTERRUPTED, interruption } from './interruption.js';
import {
  durationMs,
  positiveDurationMs,
  positiveInteger,
  positiveIntegers,
  quantityOption,
  requestRate,
  residencyOption,
  rpcOption,
  verifyOption,
} from './options.js';
import { refuseSameFile } from './output-files.js';
import { withProgress } from './progress.js';
import { mainKeyOption, shardKeyOption } from './security-options.js';
import { warn } from './warn.js';

interface BenchOptions extends TargetOptions, RequestOptions {
  readonly serial?: boolean;
  readonly qps?: number;
  readonly findMaxQps?: boolean;
  readonly batchSweep?: number[];
  readonly schedule?: boolean;
  readonly p99: number;
  readonly batchItems?: number;
  readonly arrivals: 'poisson' | 'constant';
  readonly duration: number;
  readonly warmUp: number;
  readonly repeats: number;
  readonly deadline: number;
  readonly maxInFlight: number;
  readonly json?: string;
}

/** Before a search, one after the other: enough for what a request takes once its code is compiled. */
const ALONE = { warmUpMs: 200, durationMs: 2000, mostRequests: 100 };
/** Times the bound: in a shorter run, a queue that grows without end may stay within it. In this one, at rates up to 5 % too high. */
const LEAST_OVER_BOUND = 20;

export const benchCommand = addHostOptions(new Command('bench'))
  .description('put a model under load, in this process or on shards, and measure latency, CPU and the rate it can take')
  .option('--bundle <dir>', 'directory of the model; with --url, only random requests are made of it')
  .option('--url <url>', 'ask a served model (terabag serve) at http://HOST:PORT')
  .option('--model <name>', 'with --url: which model, NAME or NAME:VERSION (default: the latest version)', servedModel)
  .option('--token-file <file>', 'with --url: a bearer token, in the first line of this file')
  .option('--plan <file>', 'ask the shards of this plan; without it, all tables are opened in this process')
  .option('--launch', 'start the shards of the plan on this machine, on free ports, and end them afterwards')
  .addOption(rpcOption())
  .addOption(mainKeyOption())
  .addOption(shardKeyOption())
  .option('--requests <file>', 'requests to send (.jsonl or .safetensors), round and round; without it, random ones that fit the model')
  .option('--items <n>', 'of each random request', positiveInteger, 64)
  .option('--seed <n>', 'of the random requests and arrivals', positiveInteger, 1)
  .option('--distinct <n>', 'requests that are made or read before the run', positiveInteger, 256)
  .option('--serial', 'one request at a time')
  .option('--qps <n>', 'open-loop: so many requests a second, whether or not the earlier ones are answered', requestRate)
  .option('--find-max-qps', 'the highest open-loop rate whose P99 stays within --p99')
  .option('--batch-sweep <list>', 'repeat the load (default --serial) with batches of so many items: 1,8,64', positiveIntegers)
  .option('--schedule', 'find the items per batch with the highest rate within --p99')
  .addOption(quantityOption('--p99 <time>', 'the bound of --find-max-qps and --schedule', positiveDurationMs, '20ms'))
  .option('--batch-items <n>', 'cut requests into batches of so many items, sent side by side', positiveInteger)
  .addOption(new Option('--arrivals <process>', 'gaps between requests').choices(['poisson', 'constant']).default('poisson'))
  .addOption(quantityOption('--duration <time>', 'of each repeat', positiveDurationMs, '10s'))
  .addOption(quantityOption('--warm-up <time>', 'before each repeat, not counted', durationMs, '2s'))
  .option('--repeats <n>', 'of each load', positiveInteger, 3)
  .addOption(quantityOption('--deadline <time>', 'of each request, from its intended send time', positiveDurationMs, '1s'))
  .option('--max-in-flight <n>', 'requests beyond wait, and their latency with them', positiveInteger, 1024)
  .addOption(verifyOption())
  .addOption(residencyOption())
  .option('--json <file>', 'write all results, with histograms, to this file')
  .addHelpText(
    'after',
    further(`
Latency counts from the intended send time, so that a stall lengthens every request that would have been sent in it. CPU is per request, ms.
With --url, "CPU main" is that of this process, the client, and the server's is told where it serves /metrics; the stacks say what the predictor took of a
round trip, and what HTTP.
Exits with 1 when a run is invalid (the load generator itself was late) or nothing was answered. Ctrl-C ends it and prints what was measured.

Examples:
  terabag bench --bundle ./model --serial
  terabag bench --bundle ./model --plan plan.json --launch --qps 25 --duration 10s --repeats 3 --json results.json
  terabag bench --bundle ./model --plan plan.json --requests requests.jsonl --find-max-qps --p99 20ms
  terabag bench --bundle ./model --plan plan.json --launch --host-cpu 50 --network-delay 1ms --network-loss 0.1 --qps 25
  terabag bench --bundle ./model --items 512 --batch-sweep 1,8,64,512 --serial
  terabag bench --url http://127.0.0.1:8000 --model ranker --bundle ./model --find-max-qps
  terabag bench --bundle ./model --items 512 --schedule --p99 50ms --duration 2s --repeats 1`),
  )
  .action(async (options: BenchOptions, command: Command) => {
    refuseContradictions(options, command);
    await refuseSameFile(command, { '--json': options.json }, { '--plan': options.plan, '--requests': options.requests });
    if (options.json !== undefined) await refuseUnwritable('--json', options.json);
    const interrupted = interruption();
    const machine = describeMachine();
    console.log(machineLine(machine));
    const target = await openTarget(options, interrupted);
    warnOfShortRuns(options);
    const bench = new Bench(target, options, interrupted);
    let networkUsed: NetworkCounters | null = null;
    try {
      await bench.run(await loadRequests(options));
      networkUsed = await target.networkCounters();
    } finally {
      await target.close();
    }
    const { results, schedule } = bench;
    if (results.length > 0) printResults(results);
    printStacks(results);
    if (networkUsed !== null) console.log(networkLine(networkUsed));
    if (schedule !== null) console.log(scheduleLine(schedule));
    for (const { name, run } of results) for (const reason of run.invalid) process.stderr.write(`terabag: invalid: ${name}: ${reason}\n`);
    if (options.json !== undefined) {
      const { strategy, shards, model } = target;
      const described = {
        model: { name: model.name, version: model.version },
        strategy,
        shards,
        network: networkUsed,
        interrupted: interrupted.aborted,
      };
      const data = { machine, ...described, options, results: results.map(resultAsJson), schedule };
      await writeFileAtomic(options.json, `${JSON.stringify(data)}\n`);
    }
    const failed = results.length === 0 || results.some(({ run }) => run.invalid.length > 0 || run.latency.count === 0);
    process.exitCode = interrupted.aborted ? INTERRUPTED : failed ? 1 : 0;
  });

function refuseContradictions(options: BenchOptions, command: Command): void {
  const loads = [options.serial, options.qps !== undefined, options.findMaxQps, options.schedule].filter(Boolean).length;
  if (loads > 1) command.error('error: choose one of --serial, --qps, --find-max-qps and --schedule');
  if (loads === 0 && options.batchSweep === undefined)
    command.error('error: choose a load: --serial, --qps, --find-max-qps, --batch-sweep or --schedule');
  if (options.url === undefined) {
    if (options.bundle === undefined) command.error('error: name the model: --bundle <dir>, or --url <url> and --model <name>');
    if (options.model ?? options.tokenFile) command.error('error: --model and --token-file are about a served model: they need --url');
  } else {
    if (options.model === undefined) command.error('error: --url needs --model <name>');
    if (options.plan !== undefined) command.error("error: --plan is the server's: terabag serve has it");
    if (options.bundle === undefined && options.requests === undefined)
      command.error('error: with --url, name --requests <file>, or the --bundle <dir> that random requests are to fit');
  }
  if (options.launch && options.plan === undefined) command.error('error: --launch needs --plan');
  if (!options.launch && hostsOf(options) !== undefined)
    command.error('error: --host-cpu and --network-... are about shards that are started here: they need --launch');
  if ((options.schedule || options.batchSweep) && options.batchItems !== undefined)
    command.error('error: --batch-items is what --batch-sweep and --schedule choose');
}

function warnOfShortRuns({ findMaxQps, schedule, duration, p99 }: BenchOptions): void {
  if (!(findMaxQps || schedule) || duration >= LEAST_OVER_BOUND * p99) return;
  warn(
    `rates that are too high may pass, since a queue grows for ${duration} ms only, with a bound of ${p99} ms; give --duration ${(LEAST_OVER_BOUND * p99) / 1000}s or more`,
  );
}

/** Runs the loads that the options ask for, and keeps what they measure. */
class Bench {
  readonly results: BenchResult[] = [];
  schedule: BatchSchedule | null = null;

  constructor(
    private readonly target: BenchTarget,
    private readonly options: BenchOptions,
    private readonly signal: AbortSignal,
  ) {}

  async run(requests: readonly PredictRequest[]): Promise<void> {
    const { batchSweep, batchItems, schedule } = this.options;
    if (schedule) {
      const mostItems = Math.max(...requests.map((request) => itemsOf(request, this.target.dense)), 1);
      const measure = async (items: number): Promise<number> => (await this.#measure(requests, items)).capacity?.qps ?? 0;
      this.schedule = await scheduleBatches({ measure, mostItems, signal: this.signal });
      return;
    }
    for (const items of batchSweep ?? [batchItems ?? null]) if (!this.signal.aborted) await this.#measure(requests, items);
  }

  #measure(requests: readonly PredictRequest[], batchItems: number | null): Promise<BenchResult> {
    return this.target.withBatches(batchItems, async (predictor) => {
      const stacks = new EndpointStacks();
      const searched = this.options.findMaxQps || this.options.schedule ? await this.#search(predictor, requests, batchItems) : null;
      const repeats = searched === null ? await this.#repeat(predictor, requests, stacks) : [];
      const result: BenchResult = {
        name: batchItems === null ? this.#loadName() : `${this.#loadName()}, batches of ${batchItems}`,
        batchItems,
        run: searched === null ? mergeRuns(repeats) : searched.run,
        ...{ repeats, stacks },
        ...(searched && { capacity: searched.capacity }),
      };
      // A search that was interrupted before its first rate has measured nothing.
      if (searched === null || searched.capacity.probes.length > 0) this.results.push(result);
      return result;
    });
  }

  #loadName(): string {
    const { qps, findMaxQps, schedule, p99, arrivals } = this.options;
    if (findMaxQps || schedule) return `P99 within ${p99} ms`;
    return qps === undefined ? 'serial' : `${arrivals} ${qps} qps`;
  }

  #load(predictor: LoadTarget, requests: readonly PredictRequest[]): Load {
    const { shardCpu } = this.target;
    return { predictor, requests, deadlineMs: this.options.deadline, signal: this.signal, ...(shardCpu && { shardCpu }) };
  }

  async #repeat(predictor: LoadTarget, requests: readonly PredictRequest[], stacks: EndpointStacks): Promise<LoadRun[]> {
    const { qps, arrivals, seed, maxInFlight, duration, warmUp, repeats } = this.options;
    const onAnswer = (answer: unknown, ms: number): void => {
      const { stages } = answer as { readonly stages?: ServerStages | null };
      if (stages) stacks.add(ms, stages);
    };
    const load = { ...this.#load(predictor, requests), durationMs: duration, warmUpMs: warmUp, onAnswer };
    return withProgress(this.#loadName(), 'seconds', async (onProgress) => {
      const runs: LoadRun[] = [];
      for (let repeat = 0; repeat < repeats && !this.signal.aborted; repeat++) {
        const progress = (done: number, total: number): void =>
          onProgress(Math.round((repeat * total + done) / 1000), Math.ceil((repeats * total) / 1000));
        runs.push(
          qps === undefined
            ? await runSerialLoad({ ...load, onProgress: progress })
            : await runOpenLoopLoad({
                ...load,
                onProgress: progress,
                maxInFlight,
                arrivals: { process: arrivals, qps, seed: seed + repeat },
              }),
        );
      }
      return runs;
    });
  }

  /** The run is that of the highest rate within the bound, or of the lowest tried when there is none. */
  async #search(
    predictor: LoadTarget,
    requests: readonly PredictRequest[],
    batchItems: number | null,
  ): Promise<{ capacity: Capacity; run: LoadRun }> {
    const { p99, arrivals, seed, maxInFlight, duration, warmUp, repeats } = this.options;
    const load = this.#load(predictor, requests);
    const serial = await runSerialLoad({ ...load, ...ALONE, warmUpMs: Math.max(warmUp, ALONE.warmUpMs) });
    console.log(`searching the highest rate with P99 within ${p99} ms${batchItems === null ? '' : `, batches of ${batchItems} items`}`);
    const options: CapacityOptions = {
      ...load,
      ...{ process: arrivals, seed, maxInFlight, repeats, durationMs: duration, warmUpMs: warmUp },
      bound: { quantile: 0.99, ms: p99 },
      firstQps: firstRate(serial.latency.quantile(0.5) ?? p99),
      onProbe: (probe) => console.log(probeLine(probe)),
    };
    const capacity = await findMaxQps(options);
    const shown = capacity.probes.find(({ qps }) => qps === capacity.qps) ?? capacity.probes[0];
    return { capacity, run: shown?.run ?? serial };
  }
}
