import { Command } from 'commander';
import { verifyBundle } from '../model/bundle.js';
import { withProgress } from './progress.js';

export const verifyCommand = new Command('verify')
  .description('check every file of a bundle against model.json: lengths, checksums, headers')
  .argument('<bundle>', 'directory of the model')
  .option('--json', 'print JSON')
  .addHelpText('after', '\nExits with 1 when something is wrong.\n\nExamples:\n  terabag verify ./model\n  terabag verify ./model --json')
  .action(async (bundle: string, options: { json?: boolean }) => {
    const problems = await withProgress('verifying', 'bytes', (onProgress) => verifyBundle(bundle, onProgress));
    if (options.json) console.log(JSON.stringify({ bundle, sound: problems.length === 0, problems }));
    else if (problems.length === 0) console.log('all files are sound');
    for (const problem of options.json ? [] : problems) process.stderr.write(`terabag: ${problem}\n`);
    if (problems.length > 0) process.exitCode = 1;
  });
