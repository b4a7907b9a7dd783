import { Command } from 'commander';
import { readModelSpec } from '../model/bundle.js';
import { modelHash } from '../model/hash.js';
import { planSummary } from '../plan/bytes.js';
import { planCapacityBalanced } from '../plan/capacity-balanced.js';
import { writePlan } from '../plan/plan.js';
import { byteSize, commaSeparated, formatBytes, positiveInteger } from './options.js';

interface PlanOptions {
  readonly shards: number;
  readonly output: string;
  readonly endpoints?: string[];
  readonly memoryLimit?: number;
  readonly json?: boolean;
}

export const planCommand = new Command('plan')
  .description('place the tables of a bundle on shards of equal bytes (capacity-balanced)')
  .argument('<bundle>', 'directory of the model')
  .requiredOption('--shards <n>', 'number of sparse shards', positiveInteger)
  .requiredOption('-o, --output <file>', 'the plan file to write')
  .option('--endpoints <list>', 'endpoints, comma-separated, one per shard (default: loopback from port 7400)', commaSeparated)
  .option('--memory-limit <size>', 'bytes of tables that a shard may hold, such as 64G', byteSize)
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    `
Examples:
  terabag plan ./model --shards 4 -o plan.json
  terabag plan ./model --shards 2 --memory-limit 64G --endpoints tcp://10.0.0.1:7400,tcp://10.0.0.2:7400 -o plan.json`,
  )
  .action(async (bundle: string, options: PlanOptions) => {
    const spec = await readModelSpec(bundle);
    const plan = planCapacityBalanced(spec, modelHash(spec), {
      shards: options.shards,
      ...(options.endpoints && { endpoints: options.endpoints }),
      ...(options.memoryLimit && { memoryLimitBytes: options.memoryLimit }),
    });
    await writePlan(options.output, plan);
    const summary = planSummary(plan, spec);
    if (options.json) console.log(JSON.stringify({ plan: options.output, strategy: plan.strategy, model: plan.model, shards: summary }));
    else console.table(summary.map((shard) => ({ ...shard, bytes: formatBytes(shard.bytes) })));
  });
