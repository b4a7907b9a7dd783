import { Command, InvalidArgumentError } from 'commander';
import { readModelSpec } from '../model/bundle.js';
import { modelHash } from '../model/hash.js';
import { planSummary } from '../plan/bytes.js';
import { planCapacityBalanced } from '../plan/capacity-balanced.js';
import { writePlan } from '../plan/plan.js';

function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('has to be an integer, 1 or more');
  return value;
}

export const planCommand = new Command('plan')
  .description('places the tables of a bundle on shards of equal bytes (capacity-balanced)')
  .argument('<bundle>', 'directory of the model')
  .requiredOption('--shards <n>', 'number of sparse shards', positiveInteger)
  .requiredOption('-o, --output <file>', 'the plan file to write')
  .option('--endpoints <list>', 'endpoints, comma-separated, one per shard (default: loopback from port 7400)', (text: string) =>
    text.split(','),
  )
  .option('--memory-limit <bytes>', 'bytes of tables that a shard may hold', positiveInteger)
  .addHelpText('after', '\nExample:\n  terabag plan ./model --shards 4 -o plan.json')
  .action(async (bundle: string, options: { shards: number; output: string; endpoints?: string[]; memoryLimit?: number }) => {
    const spec = await readModelSpec(bundle);
    const plan = planCapacityBalanced(spec, modelHash(spec), {
      shards: options.shards,
      ...(options.endpoints && { endpoints: options.endpoints }),
      ...(options.memoryLimit && { memoryLimitBytes: options.memoryLimit }),
    });
    await writePlan(options.output, plan);
    console.table(planSummary(plan, spec));
  });
