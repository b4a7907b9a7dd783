import { Command } from 'commander';
import { readPlan } from '../plan/file/plan.js';
import { type PublishedShard, publish } from '../plan/file/publish/publish.js';
import { further } from './help.js';
import { interruption } from './interruption.js';
import { commaSeparated, verifyOption } from './options.js';
import { withProgress } from './progress.js';
import { bytes, numeric, printTable, text } from './table.js';

interface PublishCommandOptions {
  readonly bundle: string;
  readonly shards?: string[];
  readonly verify: 'full' | 'size';
  readonly json?: boolean;
}

export const publishCommand = new Command('publish')
  .description("write one bundle per shard of a plan, each with just the shard's rows, and one for the main shard")
  .argument('<plan>', 'the plan file')
  .argument('<out>', 'directory to publish to; gets a directory per shard, and main')
  .requiredOption('--bundle <dir>', 'directory of the whole model')
  .option('--shards <list>', 'only these shards, comma-separated; main is the main shard', commaSeparated)
  .addOption(verifyOption())
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Files of which a shard needs all are hard links (copies on another filesystem): replace the model's files, never change them in place.
When it is stopped or killed, the same command goes on; while one writes to a shard's directory, another is refused there. Check
the result with terabag verify OUT --source DIR.

Examples:
  terabag publish plan.json ./published --bundle ./model
  terabag publish plan.json ./published --bundle ./model --shards shard-0,main --json
  terabag up plan.json --bundle ./published
  terabag shard plan.json --name shard-0 --bundle ./published/shard-0`),
  )
  .action(async (planPath: string, out: string, options: PublishCommandOptions) => {
    const interrupted = interruption();
    const { bundle, shards, verify, json } = options;
    const plan = await readPlan(planPath);
    const published = await withProgress('publishing', 'bytes', (onProgress) =>
      publish(plan, bundle, out, { verify, signal: interrupted, onProgress, ...(shards && { shards }) }),
    );
    if (json) console.log(JSON.stringify({ plan: planPath, out, shards: published }));
    else print(published);
  });

function print(published: readonly PublishedShard[]): void {
  printTable(published, [
    text('shard', ({ shard }) => shard),
    text('directory', ({ dir }) => dir),
    numeric('tables', ({ tables }) => tables),
    bytes('size', (shard) => shard.bytes),
    ...(['written', 'linked', 'copied', 'kept'] as const).map((how) => numeric<PublishedShard>(how, (shard) => shard[how])),
  ]);
  console.log('written, linked, copied and kept count files');
}
