import { Command, InvalidArgumentError } from 'commander';
import { decimal } from '../decimal.js';
import { ACCURACIES, type Accuracy } from '../lab/evaluate/accuracy.js';
import { type Estimate, type Evaluation, evaluate, LEAST_REQUESTS, riseOver } from '../lab/evaluate/evaluate.js';
import { scoreRequests } from '../lab/evaluate/evaluate-requests.js';
import type { ScoredItems } from '../lab/evaluate/scored-items.js';
import { formatCount, formatNumber } from '../lab/report/numbers.js';
import type { Predictor } from '../predictor/predictor.js';
import { further } from './help.js';
import { interruption } from './interruption.js';
import { openPredictor, type PredictorCommandOptions, refuseWithoutPlan } from './open-predictor.js';
import {
  position,
  positiveDurationMs,
  positiveInteger,
  positiveShare,
  precisionOption,
  quantityOption,
  residencyOption,
  rpcOption,
  verifyOption,
} from './options.js';
import { withProgress } from './progress.js';
import { mainKeyOption, shardKeyOption } from './security-options.js';
import { figure, printTable, signedPercent, text } from './table.js';
import { warn } from './warn.js';

interface EvaluateCommandOptions extends PredictorCommandOptions {
  readonly labels: string;
  readonly against?: string;
  readonly output?: string;
  readonly score?: number;
  readonly logits?: boolean;
  readonly resamples: number;
  readonly confidence: number;
  readonly seed: number;
  readonly deadline: number;
  readonly concurrency: number;
  readonly json?: boolean;
}

const TITLES: Readonly<Record<keyof Accuracy, string>> = {
  auc: 'AUC',
  logLoss: 'log loss',
  ne: 'normalized entropy',
  calibration: 'calibration',
};

function confidenceShare(text: string): number {
  const share = positiveShare(text);
  if (share === 1) throw new InvalidArgumentError('It has to be less than 1, such as 95%.');
  return share;
}

export const evaluateCommand = new Command('evaluate')
  .description('say how well scores predict labels: AUC, log loss, normalized entropy, calibration')
  .argument('<requests>', 'requests.jsonl, requests.safetensors, or -, as terabag predict takes them')
  .requiredOption('--bundle <dir>', 'directory of the model, or, with --plan, what it was published to')
  .requiredOption('--labels <file>', 'labels of the items: 0, 1, or null for an item that does not count')
  .option('--plan <file>', 'ask the running shards of this plan; without it, all tables are opened in this process')
  .addOption(rpcOption())
  .addOption(mainKeyOption())
  .addOption(shardKeyOption())
  .option('--batch-items <n>', 'with --rpc paper: items per batch (default: all of a request)', positiveInteger)
  .option('--dedup', 'with --plan: send and pool bags that are alike within a request once')
  .option('--against <dir>', 'another bundle, in this process: also say by how much normalized entropy is above that of its scores')
  .option('--output <name>', 'further output of the model that the labels are of (default: its first)')
  .option('--score <n>', 'which of several scores of an item, from 0', position)
  .option('--logits', 'scores are logits: the model has no sigmoid at its end')
  .option('--confidence <share>', 'of the intervals', confidenceShare, 0.95)
  .option('--resamples <n>', 'of the bootstrap', positiveInteger, 1000)
  .option('--seed <n>', 'of the bootstrap: the same seed gives the same intervals', positiveInteger, 1)
  .addOption(quantityOption('--deadline <time>', 'of each request', positiveDurationMs, '10s'))
  .option('--concurrency <n>', 'requests in flight', positiveInteger, 8)
  .addOption(verifyOption())
  .addOption(residencyOption())
  .addOption(precisionOption())
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Labels are lines of JSON: for each request, in order, a list with a label per item, or an object that has it as "labels"; or one label a line, item
after item, over all requests.

Normalized entropy is the log loss over that of a model that always says the share of positives (He et al., 2014): below 1 is better than that.
Calibration is the mean score over the share of positives. Intervals are those of the percentile bootstrap over requests (Efron and
Tibshirani, 1993), since items of one request are not independent. Two bundles are compared on the same resamples, which tells much smaller
differences than their two intervals do.

Examples:
  terabag evaluate requests.jsonl --labels labels.jsonl --bundle ./model
  terabag evaluate requests.safetensors --labels labels.jsonl --bundle ./model-int8 --json
  terabag evaluate requests.jsonl --labels labels.jsonl --bundle ./model-int8 --against ./model
  terabag evaluate requests.jsonl --labels labels.jsonl --bundle ./model --plan plan.json
  terabag evaluate requests.jsonl --labels labels.jsonl --bundle ./model --precision int8 --logits
  terabag evaluate requests.jsonl --labels conversions.jsonl --bundle ./multi-task --output ctcvr`),
  )
  .action(async (path: string, options: EvaluateCommandOptions, command: Command) => {
    refuseWithoutPlan(options, command);
    if (path === '-' && options.labels === '-') command.error('error: <requests> and --labels cannot both be stdin');
    const { bundle, labels, against, output, confidence, resamples, seed } = options;
    if (against !== undefined && [path, labels].includes('-'))
      command.error('error: with --against all is read twice, and stdin is read once');
    const signal = interruption();
    const startedAt = performance.now();
    const items = await scoreFile(path, options, await openPredictor(options), signal);
    const other = against === undefined ? null : await scoreFile(path, options, await openPredictor(locally(options, against)), signal);
    const resampling = { resamples, confidence, seed, signal };
    const evaluation = await withProgress('resampling', 'steps', (onProgress) => evaluate(items, { ...resampling, onProgress }));
    const rise = other && (await riseOver(other, items, resampling));
    const seconds = (performance.now() - startedAt) / 1000;
    if (options.json) {
      const compared = rise && { against: { bundle: against, neRise: rise } };
      const how = { confidence, resamples, seed, seconds };
      console.log(JSON.stringify({ bundle, requestFile: path, labelFile: labels, output, ...evaluation, ...compared, ...how }));
      return;
    }
    print(evaluation, confidence);
    if (rise !== null)
      console.log(`normalized entropy, of that of ${against}: ${signedPercent(rise.value)}${riseInterval(rise, confidence)}`);
  });

function print(evaluation: Evaluation, confidence: number): void {
  const { requests, positiveRequests, negativeRequests, items, positives, baseRate, clipped, accuracy } = evaluation;
  console.log(
    `${formatCount(requests)} requests, ${formatCount(items)} items with a label, ${formatCount(positives)} positive (${formatNumber(100 * baseRate)} %)`,
  );
  if (clipped > 0) warn(`scores of ${clipped} items are within 3e-8 of 0 or 1, where the log loss cuts them off`);
  if (accuracy.ne.low === null)
    warn(
      `too few requests for intervals, which take ${LEAST_REQUESTS} of each class: ${positiveRequests} with a positive label, ${negativeRequests} with a negative one`,
    );
  printTable<{ readonly name: keyof Accuracy; readonly estimate: Estimate }>(
    ACCURACIES.map((name) => ({ name, estimate: accuracy[name] })),
    [
      text('accuracy', ({ name }) => TITLES[name]),
      figure('value', ({ estimate }) => digits(estimate.value)),
      figure(`${decimalPercent(confidence)} % from`, ({ estimate }) => digits(estimate.low)),
      figure('to', ({ estimate }) => digits(estimate.high)),
    ],
  );
}

const riseInterval = ({ low, high }: Estimate, confidence: number): string =>
  low === null || high === null ? '' : ` (${decimalPercent(confidence)} % from ${signedPercent(low)} to ${signedPercent(high)})`;

/** A bundle in this process, opened as the command says. */
const locally = ({ verify, residency, precision }: PredictorCommandOptions, bundle: string): PredictorCommandOptions => ({
  ...{ bundle, verify, residency, precision },
  rpc: 'coalesced',
});

/** Scores the file, and closes the predictor. */
async function scoreFile(path: string, options: EvaluateCommandOptions, predictor: Predictor, signal: AbortSignal): Promise<ScoredItems> {
  const { labels, output, score, logits, deadline, concurrency } = options;
  const kind = logits ? 'logit' : 'probability';
  try {
    return await withProgress('scoring', 'bytes', (onProgress) =>
      scoreRequests(predictor, {
        ...{ requests: path, labels, deadlineMs: deadline, concurrency },
        ...{ output, score, kind, signal, onProgress },
      }),
    );
  } finally {
    await predictor.close();
  }
}

/** Differences that count are of the fourth digit. */
const digits = (value: number | null): string => value?.toPrecision(6) ?? '';
const decimalPercent = (share: number): number => decimal((100 * share).toFixed(4));
