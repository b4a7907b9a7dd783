import { Command, Option } from 'commander';
import { readModelSpec } from '../model/bundle.js';
import { modelHash } from '../model/hash.js';
import type { ModelSpec } from '../model/spec.js';
import { planSummary, type ShardSummary } from '../plan/bytes.js';
import { type Plan, writePlan } from '../plan/plan.js';
import { checkProfile, type Profile, readProfile, writeProfile } from '../plan/profile.js';
import { ASSUMED_ITEMS, profileFromSpec } from '../plan/profile-from-spec.js';
import { MAX_SHARDS, makePlan, type PlanOptions, STRATEGIES, type Strategy } from '../plan/strategies.js';
import { byteSize, bytesIn, commaSeparated, formatBytes, positiveInteger } from './options.js';
import { SAMPLED_REQUESTS, sampleProfile } from './profile.js';

interface PlanCommandOptions {
  readonly strategy: Strategy;
  readonly output: string;
  readonly shards?: number;
  readonly endpoints?: string[];
  readonly memoryLimit?: number;
  readonly shardGb?: number;
  readonly localMb?: number;
  readonly profile?: string;
  readonly requests?: string;
  readonly json?: boolean;
}

export const planCommand = new Command('plan')
  .description('place the tables of a bundle on shards')
  .argument('<bundle>', 'directory of the model')
  .addOption(
    new Option('--strategy <name>', 'what is balanced: bytes, ids per request; or nets packed by size (nsbp)')
      .choices(STRATEGIES)
      .default('capacity-balanced'),
  )
  .option('--shards <n>', 'number of sparse shards; with --shard-gb at most so many', positiveInteger)
  .requiredOption('-o, --output <file>', 'the plan file to write')
  .option('--endpoints <list>', 'endpoints, comma-separated, one per shard (default: loopback from port 7400)', commaSeparated)
  .option('--memory-limit <size>', 'bytes of tables that a shard may hold, such as 64G; larger tables are split by rows', byteSize)
  .option('--shard-gb <n>', 'nsbp: GiB of tables per shard, from which the number of shards follows', bytesIn(2 ** 30))
  .option('--local-mb <n>', 'MiB of tables that main keeps itself: those with the most lookups per byte', bytesIn(2 ** 20))
  .addOption(new Option('--profile <file>', 'what requests ask, from terabag profile').conflicts('requests'))
  .option('--requests <file>', `what requests ask: ${SAMPLED_REQUESTS} are sampled of this JSONL file`)
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    `
The profile that was used is written beside the plan (plan.json: plan.profile.json). Without --profile and --requests it is made of the figures
that model.json has of its bags (poolingFactor, side), or of one id per bag and item.

Examples:
  terabag plan ./model --shards 4 -o plan.json
  terabag plan ./model --strategy load-balanced --shards 8 --requests requests.jsonl --local-mb 64 -o plan.json
  terabag plan ./model --strategy nsbp --shard-gb 48 -o plan.json
  terabag plan ./model --shards 2 --memory-limit 64G --endpoints tcp://10.0.0.1:7400,tcp://10.0.0.2:7400 -o plan.json`,
  )
  .action(async (bundle: string, options: PlanCommandOptions, command: Command) => {
    const shards = numShards(options);
    if (shards === null) return command.error("error: required option '--shards <n>' not specified");
    const spec = await readModelSpec(bundle);
    const profile = await profileOf(bundle, spec, options);
    const plan = makePlan(options.strategy, spec, modelHash(spec), profile, planOptions(shards, options));
    await writePlan(options.output, plan);
    const profilePath = profileBeside(options.output);
    await writeProfile(profilePath, profile);
    const summary = planSummary(plan, spec, profile);
    if (options.json) console.log(JSON.stringify(describe(options.output, plan, profilePath, profile, summary)));
    else print(plan, profile, summary);
  });

/** Null where the strategy needs to be told. */
function numShards({ strategy, shards, endpoints, shardGb }: PlanCommandOptions): number | null {
  if (shards !== undefined) return shards;
  if (endpoints !== undefined) return endpoints.length;
  if (strategy === 'singular' || strategy === 'one-shard') return 1;
  return strategy === 'nsbp' && shardGb !== undefined ? MAX_SHARDS : null;
}

function planOptions(shards: number, { endpoints, memoryLimit, shardGb, localMb }: PlanCommandOptions): PlanOptions {
  return {
    shards,
    ...(endpoints && { endpoints }),
    ...(memoryLimit && { memoryLimitBytes: memoryLimit }),
    ...(shardGb && { shardBytes: shardGb }),
    ...(localMb && { localBytes: localMb }),
  };
}

async function profileOf(bundle: string, spec: ModelSpec, { profile, requests }: PlanCommandOptions): Promise<Profile> {
  if (requests !== undefined) return sampleProfile(bundle, requests, SAMPLED_REQUESTS);
  if (profile === undefined) return profileFromSpec(spec);
  const read = await readProfile(profile);
  checkProfile(read, spec, modelHash(spec));
  return read;
}

/** plan.json: plan.profile.json. */
const profileBeside = (planPath: string): string => `${planPath.replace(/\.json$/, '')}.profile.json`;

function describe(planPath: string, plan: Plan, profilePath: string, profile: Profile, shards: readonly ShardSummary[]): object {
  const { strategy, model } = plan;
  const { source, requests, items } = profile;
  return { plan: planPath, strategy, model, profile: { file: profilePath, source, requests, items }, shards };
}

function print(plan: Plan, profile: Profile, summary: readonly ShardSummary[]): void {
  console.log(`${plan.strategy}: ${plan.tables.length} tables, ${plan.shards.length} sparse shards; ${describeProfile(profile)}`);
  console.table(
    summary.map(({ bytes, rows, ...held }) => ({ ...held, bytes: formatBytes(bytes), 'rows per request': Number(rows?.toFixed(1)) })),
  );
}

const describeProfile = ({ source, requests }: Profile): string =>
  source === 'requests'
    ? `rows per request are means of ${requests} sampled requests`
    : `no requests were sampled: rows per request are by model.json's figures, with ${ASSUMED_ITEMS} items assumed`;
