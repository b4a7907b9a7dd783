import { Command } from 'commander';
import { verifyBundle } from '../model/bundle.js';

export const verifyCommand = new Command('verify')
  .description('checks every file of a bundle against model.json: lengths, checksums, headers; exit code 1 when something is wrong')
  .argument('<bundle>', 'directory of the model')
  .addHelpText('after', '\nExample:\n  terabag verify ./model')
  .action(async (bundle: string) => {
    const problems = await verifyBundle(bundle);
    for (const problem of problems) process.stderr.write(`${problem}\n`);
    if (problems.length === 0) console.log('all files are sound');
    else process.exitCode = 1;
  });
