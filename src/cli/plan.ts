import { Command, InvalidArgumentError, Option } from 'commander';
import { modelHash } from '../model/hash.js';
import { openModel } from '../model/open-model.js';
import type { ModelSpec } from '../model/spec.js';
import { type Plan, writePlan } from '../plan/file/plan.js';
import { heldBytes, planSummary, type ShardSummary } from '../plan/placement/bytes.js';
import { MAX_SHARDS, type PlanOptions, STRATEGIES, type Strategy } from '../plan/placement/strategies.js';
import { type Costs, readCosts } from '../plan/predict/costs.js';
import { DEFAULT_COSTS } from '../plan/predict/default-costs.js';
import type { PlanPrediction } from '../plan/predict/predict-plan.js';
import { checkProfile, type Profile, readProfile, writeProfile } from '../plan/profile/profile.js';
import { ASSUMED_ITEMS, profileFromSpec } from '../plan/profile/profile-from-spec.js';
import { OBJECTIVES, type Objective } from '../plan/search/auto.js';
import { type ComparedStrategy, changed, compareStrategies, planScenario, predictorOf, type Scenario } from '../plan/search/scenario.js';
import { refuseUnwritable } from '../tables/atomic.js';
import { further } from './help.js';
import { byteSize, commaSeparated, position, positiveByteSize, positiveInteger, renamedOption } from './options.js';
import { refuseSameFile } from './output-files.js';
import { printShards, printStrategies, printWhatIf } from './plan-explain.js';
import { writePlanMap } from './plan-map.js';
import { SAMPLED_REQUESTS, sampleProfile } from './profile.js';
import { bytes, numeric, printTable, text } from './table.js';
import { parseWhatIf, WHAT_IF_KEYS } from './what-if.js';

interface PlanCommandOptions {
  readonly strategy: Strategy | 'auto';
  readonly objective: Objective;
  readonly costs?: string;
  readonly explain?: boolean;
  readonly whatIf?: string;
  readonly map?: string;
  readonly output: string;
  readonly shards?: number;
  readonly endpoints?: string[];
  readonly replicas?: number;
  readonly spread?: Readonly<Record<string, readonly string[]>>;
  readonly hostMemory?: number;
  readonly epoch?: number;
  readonly memoryLimit?: number;
  readonly shardSize?: number;
  readonly local?: number;
  readonly profile?: string;
  readonly requests?: string;
  readonly json?: boolean;
}

export const planCommand = new Command('plan')
  .description('place the tables of a bundle on shards')
  .argument('<bundle>', 'directory of the model')
  .addOption(
    new Option(
      '--strategy <name>',
      'what is balanced: bytes, ids per request; nets packed by size (nsbp); or the least predicted cost (auto)',
    )
      .choices([...STRATEGIES, 'auto'])
      .default('capacity-balanced'),
  )
  .addOption(new Option('--objective <what>', 'what auto makes small').choices(OBJECTIVES).default('p99'))
  .option('--shards <n>', 'number of sparse shards; with auto or --shard-size at most so many', positiveInteger)
  .requiredOption('-o, --output <file>', 'the plan file to write')
  .option(
    '--endpoints <list>',
    'endpoints, comma-separated, one for each replica of each shard (default: loopback from port 7400)',
    commaSeparated,
  )
  .option('--replicas <n>', 'of each shard, on hosts that differ (but on loopback) (default: 1)', positiveInteger)
  .addOption(
    new Option(
      '--spread <name=list>',
      'what each endpoint has of a name, such as zone=a,a,b,b: replicas of a shard differ in it',
    ).argParser(spreadOf),
  )
  .option('--host-memory <size>', 'tables that all replicas on one host may hold together, such as 64GiB', positiveByteSize)
  .option('--epoch <n>', 'of the plan: requests of one epoch are answered by shards of it alone (default: 0)', position)
  .option('--memory-limit <size>', 'tables that a shard may hold, such as 64GiB; larger tables are split by rows', positiveByteSize)
  .option('--shard-size <size>', 'nsbp: tables per shard, such as 48GiB, from which the number of shards follows', positiveByteSize)
  .option('--local <size>', 'tables that main keeps itself, such as 64MiB: those with the most lookups per byte', byteSize)
  .addOption(renamedOption('--shard-gb <n>', (value) => `--shard-size ${value}GiB`))
  .addOption(renamedOption('--local-mb <n>', (value) => `--local ${value}MiB`))
  .addOption(new Option('--profile <file>', 'what requests ask, from terabag profile').conflicts('requests'))
  .option('--requests <file>', `what requests ask: ${SAMPLED_REQUESTS} are sampled of this file, JSONL or safetensors`)
  .option('--costs <file>', 'what work costs, from terabag calibrate (default: as measured on a machine of the authors)')
  .option('--explain', 'predict: what each shard holds and takes, and P50, P99 and CPU of every strategy')
  .option('--what-if <changes>', `predict and plan under other circumstances too: KEY=VALUE,... of ${WHAT_IF_KEYS.join(', ')}`)
  .option('--map <file>', 'draw what each shard holds: .html or .svg (needs the package echarts)')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
auto takes the plan with the least predicted P99 or CPU that keeps --memory-limit (on main too, or --local there): without a limit, main holds
all, since no RPC is cheaper than one; with --local 0B, none. Predictions are of requests one at a time; P50 and P99 are those of the median and the 99th percentile of
items.

Every replica of a shard holds all that the shard holds; --memory-limit is of each, --host-memory of all replicas on one host together. Replicas of a shard
are on hosts that differ, but on loopback, and where an endpoint is resolved later (srv://, file://), of which the hosts are not known. What cannot be is refused with by how
much. Predictions are of one replica a shard.

The profile that was used is written beside the plan (plan.json: plan.profile.json). Without --profile and --requests it is made of the figures
that model.json has of its bags (poolingFactor, side), or of one id per bag and item.

Examples:
  terabag plan ./model --shards 4 -o plan.json
  terabag plan ./model --strategy load-balanced --shards 8 --requests requests.jsonl --local 64MiB -o plan.json
  terabag plan ./model --strategy nsbp --shard-size 48GiB -o plan.json
  terabag plan ./model --strategy auto --shards 8 --memory-limit 48GiB --profile profile.json --explain --map plan.html -o plan.json
  terabag plan ./model --shards 8 --what-if shards=16,format=int8 -o plan.json
  terabag plan ./model --shards 2 --memory-limit 64GiB --endpoints tcp://10.0.0.1:7400,tcp://10.0.0.2:7400 -o plan.json
  terabag plan ./model --shards 1 --replicas 2 --endpoints tcp://a:7400,tcp://b:7400 --spread zone=1,2 --epoch 3 -o plan.json
  terabag plan ./model --shards 2 --endpoints srv://_s0._tcp.example.com,file:///run/s1.txt -o plan.json`),
  )
  .action(async (bundle: string, options: PlanCommandOptions, command: Command) => {
    const shards = numShards(options);
    if (shards === null) return command.error("error: required option '--shards <n>' not specified");
    if (options.shardSize !== undefined && options.strategy !== 'nsbp')
      return command.error('error: --shard-size needs --strategy nsbp: others balance what they place on a given number of shards');
    const profilePath = profileBeside(options.output);
    await refuseSameFiles(options, profilePath, command);
    await refuseUnwritable('--output', options.output);
    await refuseUnwritable('--output', profilePath);
    if (options.map !== undefined) await refuseUnwritable('--map', options.map);
    const scenario = await readScenario(bundle, shards, options);
    const { profile, planned } = scenario;
    const change = options.whatIf === undefined ? null : parseWhatIf(options.whatIf);
    const predictor = predictorOf(scenario);
    const made = planScenario(scenario, predictor);
    const whatIf = change === null ? null : planScenario(changed(scenario, change));
    // The plan comes last but for its profile: it says that all that was asked for could be done.
    if (options.map !== undefined) await writePlanMap(options.map, planned.spec, made, scenario.costs.machine);
    await writePlan(options.output, { ...made.plan, bytes: heldBytes(made.plan, planned.spec) });
    await writeProfile(profilePath, profile);
    const compared = options.explain ? compareStrategies(scenario, predictor) : [];
    const summary = planSummary(made.plan, planned.spec, profile);
    const predicted = made.plan.strategy === 'auto' || options.explain || whatIf !== null;
    if (options.json) {
      const { prediction } = made;
      const more = predicted
        ? { costs: scenario.costs.machine, prediction, strategies: compared.map(withReason), whatIf: whatIf?.prediction ?? null }
        : {};
      console.log(JSON.stringify({ ...describe(options.output, made.plan, profilePath, profile, summary), ...more }));
      return;
    }
    print(made.plan, profile, summary, options);
    if (predicted) printPrediction(made.prediction, scenario.costs, options);
    if (options.explain) {
      printShards(made.prediction);
      printStrategies(compared);
    }
    if (whatIf !== null) printWhatIf(options.whatIf ?? '', made, whatIf);
  });

async function readScenario(dir: string, shards: number, options: PlanCommandOptions): Promise<Scenario> {
  const { spec, model, hash } = await openModel(dir);
  const profile = await profileOf(dir, spec, options);
  const costs = options.costs === undefined ? DEFAULT_COSTS : await readCosts(options.costs);
  const { strategy, objective } = options;
  return {
    planned: { spec, model },
    hash,
    profile,
    costs,
    strategy,
    objective,
    options: planOptions(shards, options),
    asking: {},
  };
}

function printPrediction(
  { p50Us, p99Us, cpuUs, boundingShard }: PlanPrediction,
  { machine, sharedCores }: Costs,
  { costs }: PlanCommandOptions,
): void {
  const cores = sharedCores === null ? 'each process with cores of its own' : `all processes on ${sharedCores} cores`;
  console.log(`costs: ${costs ?? 'default (terabag calibrate measures yours)'}, measured on ${machine}; ${cores}`);
  console.log(
    `predicted: P50 ${p50Us.toFixed(0)} us, P99 ${p99Us.toFixed(0)} us, CPU ${cpuUs.toFixed(0)} us per request; bounding shard: ${boundingShard ?? 'none'}`,
  );
}

/** zone=a,a,b,b, once or for several names. */
function spreadOf(text: string, before: Readonly<Record<string, readonly string[]>> = {}): Readonly<Record<string, readonly string[]>> {
  const [, name = '', list = ''] = /^([^=,\s]+)=(.+)$/.exec(text) ?? [];
  if (name === '')
    throw new InvalidArgumentError('It has to be NAME=VALUE,VALUE,... with a value for each endpoint, such as zone=a,a,b,b.');
  if (name === 'host') throw new InvalidArgumentError('Hosts are those of the endpoints.');
  return { ...before, [name]: commaSeparated(list) };
}

/** Null where the strategy needs to be told. */
function numShards({ strategy, shards, endpoints, replicas = 1, shardSize }: PlanCommandOptions): number | null {
  if (shards !== undefined) return shards;
  if (endpoints !== undefined) return Math.ceil(endpoints.length / replicas);
  if (strategy === 'singular' || strategy === 'one-shard') return 1;
  return strategy === 'nsbp' && shardSize !== undefined ? MAX_SHARDS : null;
}

function planOptions(shards: number, options: PlanCommandOptions): PlanOptions {
  const { endpoints, memoryLimit, shardSize, local, replicas, spread, hostMemory, epoch } = options;
  return {
    shards,
    ...(endpoints && { endpoints }),
    ...(replicas && { replicas }),
    ...(spread && { spread }),
    ...(hostMemory && { hostLimitBytes: hostMemory }),
    ...(epoch !== undefined && { epoch }),
    ...(memoryLimit && { memoryLimitBytes: memoryLimit }),
    ...(shardSize && { shardBytes: shardSize }),
    ...(local !== undefined && { localBytes: local }),
  };
}

async function profileOf(bundle: string, spec: ModelSpec, { profile, requests }: PlanCommandOptions): Promise<Profile> {
  if (requests !== undefined) return sampleProfile(bundle, requests, SAMPLED_REQUESTS);
  if (profile === undefined) return profileFromSpec(spec);
  const read = await readProfile(profile);
  checkProfile(read, spec, modelHash(spec));
  return read;
}

/** For JSON, in which an error has no message of its own. */
const withReason = ({ refused, ...compared }: ComparedStrategy): object => ({
  ...compared,
  refused: refused === null ? null : { code: refused.code, message: refused.message, details: refused.details },
});

/** The profile beside a plan may be the one that is given: it is written as it was read. */
async function refuseSameFiles(
  { output, map, requests, costs, profile }: PlanCommandOptions,
  beside: string,
  command: Command,
): Promise<void> {
  const inputs = { '--requests': requests, '--costs': costs };
  await refuseSameFile(command, { '--output': output, '--map': map }, { ...inputs, '--profile': profile });
  await refuseSameFile(command, { '--output': output, 'the profile beside --output': beside, '--map': map }, inputs);
}

/** plan.json: plan.profile.json. */
const profileBeside = (planPath: string): string => `${planPath.replace(/\.json$/, '')}.profile.json`;

function describe(planPath: string, plan: Plan, profilePath: string, profile: Profile, shards: readonly ShardSummary[]): object {
  const { strategy, model } = plan;
  const { source, requests, items } = profile;
  return { plan: planPath, strategy, model, profile: { file: profilePath, source, requests, items }, shards };
}

function print(plan: Plan, profile: Profile, summary: readonly ShardSummary[], options: PlanCommandOptions): void {
  const { strategy, tables, shards } = plan;
  const held =
    strategy === 'auto' && shards.length === 0
      ? `no sparse shard, since ${whyOnMain(options)}, and a request without RPCs costs least (--local 0B puts all tables on shards)`
      : `${tables.length} tables, ${shards.length} sparse ${shards.length === 1 ? 'shard' : 'shards'}`;
  console.log(`${strategy}: ${held}; ${describeProfile(profile)}`);
  printTable(summary, [
    text('shard', ({ shard }) => shard),
    text('endpoints', ({ endpoints }) => endpoints.join(', ')),
    numeric('tables', ({ tables }) => tables),
    numeric('parts', ({ parts }) => parts),
    bytes('size', (held) => held.bytes),
    numeric('rows per request', ({ rows }) => rows, 1),
  ]);
}

function whyOnMain({ memoryLimit, local }: PlanCommandOptions): string {
  if (local !== undefined) return 'main holds all tables within --local';
  return memoryLimit === undefined ? 'main may hold all tables: there is no --memory-limit' : 'main holds all tables within --memory-limit';
}

const describeProfile = ({ source, requests }: Profile): string =>
  source === 'requests'
    ? `rows per request are means of ${requests} sampled requests`
    : `no requests were sampled: rows per request are by model.json's figures, with ${ASSUMED_ITEMS} items assumed`;
