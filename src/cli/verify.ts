import { Command } from 'commander';
import { verifyBundle } from '../model/bundle.js';
import { bundlesIn, verifyPublished } from '../plan/file/publish/verify-published.js';
import { further } from './help.js';
import { type OnProgress, withProgress } from './progress.js';

export const verifyCommand = new Command('verify')
  .description('check every file of a bundle against model.json: lengths, checksums, headers')
  .argument('<bundle>', 'directory of the model, of a published shard, or of all published shards')
  .option('--source <dir>', 'the model that was published: hold every row and the dense weights against it')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Exits with 1 when something is wrong.

Examples:
  terabag verify ./model
  terabag verify ./model --json
  terabag verify ./published --source ./model
  terabag verify ./published/shard-0 --source ./model`),
  )
  .action(async (bundle: string, options: { source?: string; json?: boolean }) => {
    const { source, json } = options;
    const problems = await withProgress('verifying', 'bytes', (onProgress) =>
      source === undefined ? verifyAll(bundle, onProgress) : verifyPublished(bundle, source, onProgress),
    );
    if (json) console.log(JSON.stringify({ bundle, ...(source && { source }), sound: problems.length === 0, problems }));
    else if (problems.length === 0)
      console.log(source === undefined ? 'all files are sound' : 'all files are sound, and all rows are those of the source');
    for (const problem of json ? [] : problems) process.stderr.write(`terabag: ${problem}\n`);
    if (problems.length > 0) process.exitCode = 1;
  });

async function verifyAll(dir: string, onProgress: OnProgress): Promise<string[]> {
  const problems: string[] = [];
  for (const bundle of await bundlesIn(dir)) problems.push(...(await verifyBundle(bundle, onProgress)));
  return problems;
}
