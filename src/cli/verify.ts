import { join } from 'node:path';
import { Command } from 'commander';
import { verifyBundleAndIndexes } from '../engine/verify-indexes.js';
import { bundlesIn, verifyPublished } from '../plan/file/publish/verify-published.js';
import { further } from './help.js';
import { positiveNumber } from './options.js';
import { type OnProgress, withProgress } from './progress.js';
import { DEFAULT_SCORES, type OutputDifference, verifyScores } from './verify-scores.js';

interface VerifyCommandOptions {
  readonly source?: string;
  readonly scores?: string | true;
  readonly requests?: string;
  readonly tolerance: number;
  readonly json?: boolean;
}

export const verifyCommand = new Command('verify')
  .description(
    'check every file of a bundle against model.json: lengths, checksums, headers, indexes of keyed tables; and its scores against those of the model it was exported from',
  )
  .argument('<bundle>', 'directory of the model, of a published shard, or of all published shards')
  .option('--source <dir>', 'the model that was published: hold every row and the dense weights against it')
  .option(
    '--scores [file]',
    `score the requests that the export left, and compare with PyTorch's scores (default: BUNDLE/${DEFAULT_SCORES})`,
  )
  .option('--requests <file>', 'with --scores: the requests (default: requests.jsonl beside the scores)')
  .option('--tolerance <n>', 'with --scores: the largest relative difference', positiveNumber, 1e-5)
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Exits with 1 when something is wrong.

A difference is relative to the score that is expected, or, if that is more, to a tenth of the root mean square of all scores that are expected.

Examples:
  terabag verify ./model
  terabag verify ./model --json
  terabag verify ./model --scores
  terabag verify ./model-int8 --scores ./model/check/scores.safetensors --tolerance 0.01
  terabag verify ./published --source ./model
  terabag verify ./published/shard-0 --source ./model`),
  )
  .action(async (bundle: string, options: VerifyCommandOptions, command: Command) => {
    const { source, scores, requests, tolerance, json } = options;
    if (scores === undefined && requests !== undefined) command.error('error: --requests are those of --scores');
    const problems = await withProgress('verifying', 'bytes', (onProgress) =>
      source === undefined ? verifyAll(bundle, onProgress) : verifyPublished(bundle, source, onProgress),
    );
    const file = scores === true ? join(bundle, DEFAULT_SCORES) : scores;
    // Files that are not sound are not scored.
    const differences = file === undefined || problems.length > 0 ? [] : await verifyScores(bundle, file, requests);
    for (const difference of differences) if (difference.maxRelative > tolerance) problems.push(tooFar(difference, tolerance));
    if (json)
      console.log(
        JSON.stringify({
          bundle,
          ...(source && { source }),
          sound: problems.length === 0,
          problems,
          ...(differences.length > 0 && { tolerance, scores: differences }),
        }),
      );
    else if (problems.length === 0) {
      console.log(source === undefined ? 'all files are sound' : 'all files are sound, and all rows are those of the source');
      for (const difference of differences) console.log(`${summary(difference)}; tolerance ${tolerance}`);
    }
    for (const problem of json ? [] : problems) process.stderr.write(`terabag: ${problem}\n`);
    if (problems.length > 0) process.exitCode = 1;
  });

const summary = ({ name, compared, maxRelative, maxAbsolute }: OutputDifference): string =>
  `${name}: ${compared} compared, largest relative difference ${maxRelative.toPrecision(3)}, absolute ${maxAbsolute.toPrecision(3)}`;

function tooFar(difference: OutputDifference, tolerance: number): string {
  const { worst } = difference;
  const where = worst === null ? '' : `; value ${worst.position} is ${worst.score}, expected ${worst.expected}`;
  return `not as expected: ${summary(difference)}, tolerance ${tolerance}${where}`;
}

async function verifyAll(dir: string, onProgress: OnProgress): Promise<string[]> {
  const problems: string[] = [];
  for (const bundle of await bundlesIn(dir)) problems.push(...(await verifyBundleAndIndexes(bundle, onProgress)));
  return problems;
}
